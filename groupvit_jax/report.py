"""One page that shows what a run learned: figures, pictures, curves, config.

A single HTML file without scripts or links to elsewhere, so that it opens from
disk, travels by mail, and still reads the same years later.
"""

import fnmatch
import html
import importlib.metadata
import math
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from groupvit_jax import report_style, report_svg, visualize

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

# What a picture may show, in order: (key, caption, alternative text).
VIEWS = (
  ('image', 'Picture', 'The picture'),
  ('final_groups', 'Final groups', 'Final groups over the picture'),
  ('first_groups', 'First-stage groups', 'First-stage groups over the picture'),
  ('prediction', 'Predicted', 'Predicted classes'),
  ('truth', 'Truth', 'True classes'),
)

PICTURE_SIDE = 176  # pixels; small pictures are enlarged to it
SNAPSHOT_SIDE = 112
MAX_SIDE = 256  # larger pictures are reduced to it
MIN_SHARE = 0.01  # of a picture, for a class to be listed beside it


class Panel(NamedTuple):
  """One chart: its title, the metrics it takes, and whether they are shares."""

  title: str
  patterns: tuple[str, ...]
  percent: bool = False


PANELS = (
  Panel('Loss', ('loss', 'contrastive*', 'multi_label*')),
  Panel('Zero-shot mIoU, %', ('miou', 'miou_*'), True),
  Panel('Oracle mIoU, %', ('oracle_miou', 'oracle_miou_*'), True),
  Panel('Groups in use', ('groups_*',)),
  Panel('Entropy of the assignment, nats', ('entropy*',)),
  Panel('Share of the largest group, %', ('largest_share*',), True),
)
# Shown as bars, not as one line for each class.
NO_CURVE = ('iou/*',)


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
    class_colours: RGB by class, integers c 3; None for `visualize.palette`.
    notes: what the reader should know first.
    environment: None for `describe_environment()`.

  Returns:
    The page's path.
  """
  if class_colours is None:
    class_colours = visualize.palette(len(class_names))
  classes = Classes(tuple(class_names), np.asarray(class_colours, np.uint8))
  if environment is None:
    environment = describe_environment()
  sections = [
    ('pictures', 'Pictures', _pictures(pictures, classes)),
    ('forming', 'Groups forming', _forming(snapshots, classes)),
    ('classes', 'Classes', _bars(figures, classes)),
    ('curves', 'Learning curves', _curves(curves)),
    ('run', 'Configuration and environment', _run(config_text, environment)),
  ]
  page = _page(title, _headline(figures, notes), [s for s in sections if s[2]])
  path = pathlib.Path(path_dir) / 'index.html'
  path.parent.mkdir(parents=True, exist_ok=True)
  # Written whole or not at all: a reader may be looking.
  partial = path.with_suffix('.partial')
  partial.write_text(page, encoding='utf-8')
  partial.replace(path)
  return path


class Classes(NamedTuple):
  """Names and RGB colours by class index."""

  names: tuple[str, ...]
  colours: np.ndarray


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
    f'<a href="#{anchor}">{_text(name)}</a>' for anchor, name, _ in sections
  )
  body = ''.join(
    f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
    f'<h2 id="{anchor}-title">{_text(name)}</h2>{content}</section>'
    for anchor, name, content in sections
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{_text(title)}</title><style>{report_style.CSS}</style></head>'
    f'<body><header><h1>{_text(title)}</h1>'
    '<p class="soft">Segmentation learned from captions alone; the masks are '
    'only ever used to measure it.</p>'
    f'<nav aria-label="Sections">{links}</nav></header>'
    f'<main>{top}{body}</main>'
    '<footer>Written by groupvit_jax.</footer></body></html>\n'
  )


def _headline(figures: Mapping[str, Any], notes: str | Sequence[str]) -> str:
  tiles, used = [], set()
  for name, label in HEADLINES:
    if _is_number(figures.get(name)):
      untrained = figures.get(f'untrained_{name}')
      tiles.append(_tile(label, figures[name], untrained))
      used |= {name, f'untrained_{name}'}
  facts = [
    ('steps', 'steps', _count),
    ('wall_seconds', 'in all', _duration),
    ('images_per_second', 'images a second', report_svg.number),
  ]
  line = ''.join(
    f'<li><b>{_text(show(figures[name]))}</b> {label}</li>'
    for name, label, show in facts
    if _is_number(figures.get(name))
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
  if _is_number(untrained):
    beside = f'untrained model: {untrained:.1f}%'
    mark = f'<i style="left:{_clip(untrained):.1f}%"></i>'
  return (
    f'<li class="card"><div class="name">{_text(label)}</div>'
    f'<div class="figure">{value:.1f}<small>%</small></div>'
    f'<div class="meter" aria-hidden="true">'
    f'<span style="width:{_clip(value):.1f}%"></span>{mark}</div>'
    f'<div class="beside">{beside}</div></li>'
  )


def _notes(notes: Sequence[str]) -> str:
  if not notes:
    return ''
  lines = ''.join(f'<p>{_text(note)}</p>' for note in notes)
  return f'<div class="card notes">{lines}</div>'


def _all_figures(figures: Mapping[str, Any]) -> str:
  if not figures:
    return ''
  rows = {
    name: report_svg.number(value) if _is_number(value) else str(value)
    for name, value in figures.items()
  }
  return f'<details><summary>More figures</summary>{_table(rows)}</details>'


def _pictures(pictures: Sequence[Mapping[str, Any]], classes: Classes) -> str:
  if not pictures:
    return ''
  words = (
    '<p class="soft">Validation pictures. Each group of pixels keeps its '
    'colour from picture to picture; a crossed class name is not in the '
    "picture's truth.</p>"
  )
  rows = ''.join(_picture(p, classes) for p in pictures)
  return words + _legend(classes) + rows


def _picture(picture: Mapping[str, Any], classes: Classes) -> str:
  shown = _views(picture)
  figures = ''.join(
    f'<figure>{_image(picture, key, alt, classes, PICTURE_SIDE)}'
    f'<figcaption><b>{caption}</b>{_detail(picture, key, classes)}</figcaption>'
    '</figure>'
    for key, caption, alt in shown
  )
  said = picture.get('caption')
  said = f'<p class="said soft">{_text(said)}</p>' if said else ''
  return (
    f'<article class="card picture">{said}'
    f'<div class="views" style="--views:{len(shown)}">{figures}</div></article>'
  )


def _views(picture: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """The views that a picture has, each of them once."""
  shown = [view for view in VIEWS if picture.get(view[0]) is not None]
  # With one grouping stage the first groups are the final ones.
  once = np.array_equal(
    picture.get('first_groups'), picture.get('final_groups')
  )
  return [view for view in shown if not (once and view[0] == 'first_groups')]


def _image(
  picture: Mapping[str, Any],
  key: str,
  alt: str,
  classes: Classes,
  side: int,
) -> str:
  image = np.asarray(picture['image'], np.uint8)
  if key == 'image':
    pixels = visualize.enlarge(image, side)
  else:
    labels = np.asarray(picture[key]).astype(np.int32)
    if key in ('prediction', 'truth'):
      colours = classes.colours
      alt = f'{alt}: {", ".join(_present(labels, classes))}'
    else:
      colours = visualize.palette(int(labels.max()) + 1)
    pixels = visualize.overlay(image, labels, colours, min_side=side)
  pixels = _shrink(pixels)
  height, width = pixels.shape[:2]
  return (
    f'<img src="{visualize.data_uri(pixels)}" width="{width}" '
    f'height="{height}" alt="{_text(alt)}">'
  )


def _shrink(pixels: np.ndarray) -> np.ndarray:
  longest = max(pixels.shape[:2])
  if longest <= MAX_SIDE:
    return pixels
  size = [max(1, round(s * MAX_SIDE / longest)) for s in pixels.shape[1::-1]]
  small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
  return np.asarray(small)


def _detail(picture: Mapping[str, Any], key: str, classes: Classes) -> str:
  """What stands under a view: how many groups, or which classes."""
  if key in ('final_groups', 'first_groups'):
    count = len(np.unique(np.asarray(picture[key])))
    return f' <span class="soft">{count} used</span>'
  if key not in ('prediction', 'truth'):
    return ''
  present = _present(np.asarray(picture[key]), classes)
  truth = picture.get('truth')
  true = present if truth is None else _present(np.asarray(truth), classes, 0.0)
  return _chips(
    [
      (name, classes.colours[index], name in true)
      for name, index in present.items()
    ]
  )


def _present(
  labels: np.ndarray, classes: Classes, min_share: float = MIN_SHARE
) -> dict[str, int]:
  """name -> index of the classes in a map, the largest first."""
  values, counts = np.unique(labels, return_counts=True)
  order = np.argsort(-counts, kind='stable')
  return {
    classes.names[values[i]]: int(values[i])
    for i in order
    if 0 <= values[i] < len(classes.names)
    and counts[i] >= min_share * labels.size
  }


def _chips(
  chips: Sequence[tuple[str, Any, bool]], extra_class: str = ''
) -> str:
  items = []
  for name, colour, right in chips:
    wrong = '' if right else ' class="wrong" title="not in the truth"'
    shown = _text(name) if right else f'<s>{_text(name)}</s>'
    items.append(
      f'<li{wrong}><span class="swatch" '
      f'style="background:{visualize.hex_colour(colour)}"></span>{shown}</li>'
    )
  return f'<ul class="chips {extra_class}">{"".join(items)}</ul>'


def _legend(classes: Classes) -> str:
  if not classes.names:
    return ''
  return _chips(
    [(n, c, True) for n, c in zip(classes.names, classes.colours, strict=True)],
    'legend',
  )


def _forming(
  snapshots: Sequence[tuple[int, Sequence[Mapping[str, Any]]]],
  classes: Classes,
) -> str:
  count = min((len(pictures) for _, pictures in snapshots), default=0)
  if not count:
    return ''
  words = '<p class="soft">The same pictures as training goes on.</p>'
  strips = ''.join(
    _strip(i, [(step, pictures[i]) for step, pictures in snapshots], classes)
    for i in range(count)
  )
  return words + strips


def _strip(
  index: int, steps: Sequence[tuple[int, Mapping[str, Any]]], classes: Classes
) -> str:
  first = steps[0][1]
  head = ''.join(
    f'<th scope="col">Step {_count(step)}</th>' for step, _ in steps
  )
  image = _image(first, 'image', 'The picture', classes, SNAPSHOT_SIDE)
  rows = ''
  for key, caption, alt in _views(first):
    if key in ('image', 'truth'):
      continue
    cells = ''.join(
      '<td>'
      + _image(p, key, f'{alt} at step {step}', classes, SNAPSHOT_SIDE)
      + '</td>'
      for step, p in steps
      if p.get(key) is not None
    )
    rows += f'<tr><th scope="row">{caption}</th>{cells}</tr>'
  name = _text(first.get('caption') or f'Picture {index + 1}')
  return (
    f'<div class="card picture scroll" role="region" tabindex="0" '
    f'aria-label="Groups forming: {name}"><table class="forming">'
    f'<thead><tr><td class="forming-image">{image}</td>{head}</tr></thead>'
    f'<tbody>{rows}</tbody></table></div>'
  )


def _bars(figures: Mapping[str, Any], classes: Classes) -> str:
  colours = dict(zip(classes.names, classes.colours, strict=True))
  found = {
    name.removeprefix('iou/'): value
    for name, value in figures.items()
    if name.startswith('iou/') and _is_number(value)
  }
  if not found:
    return ''
  items = ''
  for name, value in sorted(found.items(), key=lambda item: -item[1]):
    untrained = figures.get(f'untrained_iou/{name}')
    mark = (
      f'<i style="left:{_clip(untrained):.1f}%"></i>'
      if _is_number(untrained)
      else ''
    )
    colour = visualize.hex_colour(colours.get(name, (29, 111, 184)))
    items += (
      f'<li style="--colour:{colour}"><span class="name">{_text(name)}</span>'
      f'<span class="meter" aria-hidden="true"><span style="width:'
      f'{_clip(value):.1f}%"></span>{mark}</span>'
      f'<span class="value">{value:.1f}</span></li>'
    )
  marked = (
    '; the upright line marks the untrained model' if '<i ' in items else ''
  )
  return (
    '<p class="soft">Intersection over union of each class, in percent'
    f'{marked}.</p><ol class="bars card">{items}</ol>'
  )


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
  series = collect_series(rows)
  main = ''
  for panel in PANELS:
    taken = {
      name: points
      for name, points in series.items()
      if any(fnmatch.fnmatchcase(_base(name), p) for p in panel.patterns)
    }
    for name in taken:
      del series[name]
    main += _chart(panel.title, taken, panel.percent)
  more = ''.join(_chart(_words(n), {n: p}) for n, p in series.items())
  if not main and not more:
    return ''
  if more:
    more = (
      '<details><summary>More curves</summary>'
      f'<div class="charts">{more}</div></details>'
    )
  return f'<div class="charts">{main}</div>{more}'


def collect_series(
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, list[tuple[Real, Real]]]:
  """Lines by metric from rows by step.

  Args:
    rows: of metrics.jsonl, in any order; where a step was logged twice (a run
      that was resumed), the later row holds.

  Returns:
    metric -> (step, value) in order of steps, per-class metrics left out.
  """
  series: dict[str, dict[float, float]] = {}
  for row in rows:
    if not _is_number(row.get('step')):
      continue
    for name, value in row.items():
      if name == 'step' or not _is_number(value):
        continue
      if any(fnmatch.fnmatchcase(_base(name), p) for p in NO_CURVE):
        continue
      series.setdefault(name, {})[float(row['step'])] = float(value)
  return {name: sorted(points.items()) for name, points in series.items()}


def _chart(
  title: str,
  series: Mapping[str, Sequence[tuple[Real, Real]]],
  percent: bool = False,
) -> str:
  factor = 100.0 if percent else 1.0
  prefixes = {name.partition('/')[0] for name in series if '/' in name}
  lines = {
    _words(name if len(prefixes) > 1 else _base(name)): [
      (step, factor * value) for step, value in points
    ]
    for name, points in series.items()
  }
  svg = report_svg.line_chart(title, lines)
  if not svg:
    return ''
  keys = ''.join(
    f'<li style="--key:var(--line-{i % report_svg.LINES})">{_text(name)} '
    f'<b>{report_svg.number(points[-1][1])}</b></li>'
    for i, (name, points) in enumerate(lines.items())
  )
  return (
    f'<div class="card"><h3>{_text(title)}</h3>{svg}'
    f'<ul class="keys">{keys}</ul></div>'
  )


def _run(config_text: str, environment: Mapping[str, str]) -> str:
  config = ''
  if config_text:
    config = (
      '<details class="card"><summary>Configuration</summary>'
      f'<pre>{_text(config_text)}</pre></details>'
    )
  return _table(environment) + config


def _table(rows: Mapping[str, str]) -> str:
  cells = ''.join(
    f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
    for name, value in rows.items()
  )
  return f'<table class="table">{cells}</table>' if cells else ''


def _base(name: str) -> str:
  """'loss' of 'train/loss', 'iou/dog' of 'eval/iou/dog'."""
  prefix, slash, rest = name.partition('/')
  return rest if slash and prefix != 'iou' else name


def _words(name: str) -> str:
  words = name.replace('_', ' ').replace('/', ' ').replace('miou', 'mIoU')
  return words if words.startswith('mIoU') else words[:1].upper() + words[1:]


def _text(value: Any) -> str:
  return html.escape(str(value), quote=True)


def _is_number(value: Any) -> bool:
  if isinstance(value, bool) or not isinstance(
    value, (int, float, np.integer, np.floating)
  ):
    return False
  return math.isfinite(value)


def _clip(percent: Real) -> float:
  return min(100.0, max(0.0, float(percent)))


def _count(value: Real) -> str:
  return f'{value:,.0f}'


def _duration(seconds: Real) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'
