"""One page that shows what a run learned: figures, pictures, curves, config.

A single HTML file without scripts or links to elsewhere, so that it opens from
disk, travels by mail, and still reads the same years later.
"""

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import numpy as np

from groupvit_jax import (
  collapse,
  files,
  report_figures,
  report_pictures,
  report_style,
  report_svg,
)
from groupvit_jax import report_parts as parts
from groupvit_jax.viz import overlay

# Headline figures in order: (name in `figures`, what a reader calls it).
HEADLINES = (
  ('miou', 'Zero-shot mIoU'),
  ('miou_things', 'mIoU of things'),
  ('miou_grounds', 'mIoU of grounds'),
  ('oracle_miou', 'Oracle mIoU'),
  ('pixel_accuracy', 'Pixel accuracy'),
  ('image_recall', 'Picture-level recall'),
  ('top1', 'Zero-shot top-1'),
)


def write_report(
  path_dir: str | os.PathLike,
  *,
  title: str,
  figures: Mapping[str, Any],
  config_text: str = '',
  curves: Sequence[Mapping[str, Any]] = (),
  pictures: Sequence[Mapping[str, Any]] = (),
  snapshots: Sequence[tuple[int, Sequence[Mapping[str, Any]]]] = (),
  class_names: Sequence[str] = (),
  class_colours: Any = None,
  notes: str | Sequence[str] = (),
  collapses: Sequence[collapse.Spell] = (),
  errors: str = '',
  environment: Mapping[str, str] | None = None,
) -> pathlib.Path:
  """Writes `index.html`; whatever is not given is left out of it.

  Args:
    path_dir: the folder, made if need be.
    title: heading of the page.
    figures: as in summary.json, shares in percent. `untrained_<name>` is shown
      beside `<name>`; `iou/<class>` become the bars; the rest is listed.
    config_text: shown as it is.
    curves: rows of metrics.jsonl: 'step' and figures as evaluators and
      training log them (shares in 0..1), named 'train/...', 'eval/...'.
    pictures: dicts of image (uint8 h w 3) and, each optional, caption,
      final_groups, first_groups, prediction, truth (integer maps, 255 unknown).
    snapshots: (step, pictures), the same pictures at each step, in order.
    class_names: names of the classes in `prediction` and `truth`.
    class_colours: RGB by class, integers c 3; None for `overlay.palette`.
    notes: what the reader should know first.
    collapses: when grouping failed, in order; told at the top and shaded in
      the curves.
    errors: where they come from, as HTML tables.
    environment: None for `describe_environment()`.

  Returns:
    The page's path.
  """
  if class_colours is None:
    class_colours = overlay.palette(len(class_names))
  classes = parts.Classes(
    tuple(class_names), np.asarray(class_colours, np.uint8)
  )
  if environment is None:
    environment = describe_environment()
  sections = [
    ('pictures', 'Pictures', report_pictures.gallery(pictures, classes)),
    ('forming', 'Groups forming', report_pictures.forming(snapshots, classes)),
    ('classes', 'Classes', report_figures.bars(figures, classes)),
    ('errors', 'Errors', _errors(errors)),
    ('curves', 'Learning curves', report_figures.curves(curves, collapses)),
    ('run', 'Configuration and environment', _run(config_text, environment)),
  ]
  top = _collapses(collapses) + _headline(figures, notes)
  page = _page(title, top, [s for s in sections if s[2]])
  path = pathlib.Path(path_dir) / 'index.html'
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_atomically(path, page)  # a reader may be looking
  return path


def describe_environment() -> dict[str, str]:
  """What the run ran on: devices and versions, by name."""
  devices = jax.devices()
  versions = []
  for name in ('groupvit_jax', 'jax', 'flax', 'optax', 'numpy'):
    try:
      versions.append(f'{name} {importlib.metadata.version(name)}')
    except importlib.metadata.PackageNotFoundError:
      continue
  return {
    'Devices': f'{len(devices)} x {devices[0].device_kind}',
    'Processor cores': str(os.cpu_count()),
    'System': platform.platform(),
    'Python': platform.python_version(),
    'Packages': ', '.join(versions),
  }


def _page(
  title: str, top: str, sections: Sequence[tuple[str, str, str]]
) -> str:
  links = ''.join(
    f'<a href="#{anchor}">{parts.text(name)}</a>'
    for anchor, name, _ in sections
  )
  body = ''.join(
    f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
    f'<h2 id="{anchor}-title">{parts.text(name)}</h2>{content}</section>'
    for anchor, name, content in sections
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{parts.text(title)}</title><style>{report_style.CSS}</style></head>'
    f'<body><header><h1>{parts.text(title)}</h1>'
    '<p class="soft">Segmentation learned from captions alone; the masks are '
    'only ever used to measure it.</p>'
    f'<nav aria-label="Sections">{links}</nav></header>'
    f'<main>{top}{body}</main>'
    '<footer>Written by groupvit_jax.</footer></body></html>\n'
  )


def _headline(figures: Mapping[str, Any], notes: str | Sequence[str]) -> str:
  tiles, used = [], set()
  for name, label in HEADLINES:
    if parts.is_number(figures.get(name)):
      untrained = figures.get(f'untrained_{name}')
      tiles.append(_tile(label, figures[name], untrained))
      used |= {name, f'untrained_{name}'}
  facts = [
    ('steps', 'steps', parts.count),
    ('wall_seconds', 'in all', _duration),
    ('images_per_second', 'images a second', report_svg.number),
  ]
  line = ''.join(
    f'<li><b>{parts.text(show(figures[name]))}</b> {label}</li>'
    for name, label, show in facts
    if parts.is_number(figures.get(name))
  )
  used |= {name for name, _, _ in facts}
  rest = {
    name: value
    for name, value in figures.items()
    if name not in used and '/' not in name
  }
  notes = [notes] if isinstance(notes, str) else list(notes)
  return (
    (f'<ul class="tiles">{"".join(tiles)}</ul>' if tiles else '')
    + (f'<ul class="facts">{line}</ul>' if line else '')
    + _notes([note for note in notes if note])
    + _all_figures(rest)
  )


def _tile(label: str, value: Real, untrained: Any) -> str:
  beside, mark = '', ''
  if parts.is_number(untrained):
    beside = f'untrained model: {untrained:.1f}%'
    mark = f'<i style="left:{parts.clip(untrained):.1f}%"></i>'
  return (
    f'<li class="card"><div class="name">{parts.text(label)}</div>'
    f'<div class="figure">{value:.1f}<small>%</small></div>'
    f'<div class="meter" aria-hidden="true">'
    f'<span style="width:{parts.clip(value):.1f}%"></span>{mark}</div>'
    f'<div class="beside">{beside}</div></li>'
  )


def _notes(notes: Sequence[str]) -> str:
  if not notes:
    return ''
  lines = ''.join(f'<p>{parts.text(note)}</p>' for note in notes)
  return f'<div class="card notes">{lines}</div>'


def _collapses(collapses: Sequence[collapse.Spell]) -> str:
  if not collapses:
    return ''
  lines = ''.join(
    f'<p><b>Grouping collapse: {parts.text(spell.kind.name)}</b>, '
    f'{parts.text(spell.period)} ({parts.text(spell.figures)}). '
    f'{parts.text(parts.sentence(spell.advice))}.</p>'
    for spell in collapses
  )
  return f'<div class="card notes alarm" role="note">{lines}</div>'


def _all_figures(figures: Mapping[str, Any]) -> str:
  if not figures:
    return ''
  rows = {
    name: report_svg.number(value) if parts.is_number(value) else str(value)
    for name, value in figures.items()
  }
  shown = parts.table(rows)
  return f'<details><summary>More figures</summary>{shown}</details>'


def _errors(tables: str) -> str:
  if not tables:
    return ''
  return (
    '<p class="soft">Grouping is what no name of a group would make right, '
    'labelling what other names of the same groups would; together, all that '
    'mIoU lacks. Below, the pairs of classes whose pixels, if right, would '
    f'bring most.</p><div class="card">{tables}</div>'
  )


def _run(config_text: str, environment: Mapping[str, str]) -> str:
  config = ''
  if config_text:
    config = (
      '<details class="card"><summary>Configuration</summary>'
      f'<pre>{parts.text(config_text)}</pre></details>'
    )
  return parts.table(environment) + config


def _duration(seconds: Real) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'
