"""One page that shows what a run learned: figures, images, curves, config.

A single HTML file without scripts or links to elsewhere, so that it opens from
disk, travels by mail, and still reads the same years later.
"""

import dataclasses
import html
import importlib.metadata
import importlib.resources
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from groupvit_jax import files
from groupvit_jax.training import collapse
from groupvit_jax.training.charts import (
  Number,
  curves,
  is_number,
  number,
)
from groupvit_jax.training.logging import duration
from groupvit_jax.viz import colours as colours_lib
from groupvit_jax.viz import overlay

# Headline figures in order: name in `figures`, and its title.
HEADLINES = {
  'miou': 'Zero-shot mIoU',
  'miou_things': 'mIoU of things',
  'miou_grounds': 'mIoU of grounds',
  'oracle_miou': 'Oracle mIoU',
  'pixel_accuracy': 'Pixel accuracy',
  'image_recall': 'Image-level recall',
  'top1': 'Zero-shot top-1',
}
# Views of an image in order: key, title, alternative text.
VIEWS = (
  ('image', 'Image', 'The image'),
  ('first_groups', 'Earlier groups', 'Groups before the final ones'),
  ('final_groups', 'Final groups', 'Final groups over the image'),
  ('learned_groups', 'Learned groups', 'Groups as the model makes them'),
  ('remade_groups', 'Remade groups', 'Groups remade from the tokens'),
  ('prediction', 'Predicted', 'Predicted classes'),
  ('ground_truth', 'Ground truth', 'True classes'),
)
_OF_CLASSES = ('prediction', 'ground_truth')  # the others show groups
_IMAGE_SIDE = 176  # pixels; small images are enlarged to it
_SNAPSHOT_SIDE = 112
_MAX_SIDE = 256  # larger images are reduced to it
_MIN_SHARE = 0.01  # of an image, for a class to be listed beside it

Example = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Report:
  """Content of a page; sections without content are left out of it.

  Attributes:
    title: heading of the page.
    figures: as in summary.json, shares in percent. `untrained_<name>` is shown
      beside `<name>`; `iou/<class>` become the bars; the rest is listed.
    config_text: shown as it is.
    rows: of metrics.jsonl: 'step' and figures as evaluators and training log
      them (shares in 0..1), named 'train/...', 'eval/...'.
    examples: dicts of image (uint8 h w 3) and, each optional, caption and the
      other keys of `VIEWS` (integer maps, 255 unknown).
    snapshots: (step, examples), the same images at each step, in order.
    class_names: names of the classes in `prediction` and `ground_truth`.
    notes: sentences to read first.
    events: collapses of the groups, in order; described at the top and shaded
      in the curves.
    errors: tables of the errors' origins, as HTML.
  """

  title: str
  figures: Mapping[str, Any]
  config_text: str = ''
  rows: Sequence[Mapping[str, Any]] = ()
  examples: Sequence[Example] = ()
  snapshots: Sequence[tuple[int, Sequence[Example]]] = ()
  class_names: tuple[str, ...] = ()
  notes: Sequence[str] = ()
  events: Sequence[collapse.CollapseEvent] = ()
  errors: str = ''

  def write(self, folder: pathlib.Path) -> pathlib.Path:
    """Writes `index.html` into a folder, made if need be; returns its path."""
    path = folder / 'index.html'
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, self.as_html())  # a reader may be looking
    return path

  def as_html(self) -> str:
    """The page."""
    sections = {
      'images': ('Images', _gallery(self.examples, self.class_names)),
      'forming': ('Groups forming', _forming(self.snapshots, self.class_names)),
      'classes': ('Classes', _bars(self.figures, self.class_names)),
      'errors': ('Errors', _errors(self.errors)),
      'curves': ('Learning curves', curves(self.rows, self.events)),
      'run': ('Configuration and environment', _run(self.config_text)),
    }
    links = body = ''
    for anchor, (title, content) in sections.items():
      if content:
        links += f'<a href="#{anchor}">{title}</a>'
        body += (
          f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
          f'<h2 id="{anchor}-title">{title}</h2>{content}</section>'
        )
    style = importlib.resources.files('groupvit_jax.training') / 'report.css'
    title = text(self.title)
    return (
      '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f'<title>{title}</title><style>{style.read_text()}</style></head>'
      f'<body><header><h1>{title}</h1>'
      '<p class="soft">Segmentation learned from captions alone; the masks are '
      'only ever used to measure it.</p>'
      f'<nav aria-label="Sections">{links}</nav></header>'
      f'<main>{_collapses(self.events)}{_headline(self.figures, self.notes)}'
      f'{body}</main>'
      '<footer>Written by groupvit_jax.</footer></body></html>\n'
    )


def text(value: Any) -> str:
  """Anything as HTML text, safe between tags and inside attributes.

  All that comes from outside reaches the page through it.
  """
  return html.escape(str(value), quote=True)


def _table(rows: Mapping[str, str]) -> str:
  cells = ''.join(
    f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
    for name, value in rows.items()
  )
  return f'<table class="table">{cells}</table>'


# The top of the page.


def _headline(figures: Mapping[str, Any], notes: Sequence[str]) -> str:
  shown = {
    name: title
    for name, title in HEADLINES.items()
    if is_number(figures.get(name))
  }
  tiles = ''.join(
    _tile(title, figures[name], figures.get(f'untrained_{name}'))
    for name, title in shown.items()
  )
  facts = {
    'steps': ('steps', '{:,.0f}'.format),
    'wall_seconds': ('in all', duration),
    'images_per_second': ('images a second', number),
  }
  line = ''.join(
    f'<li><b>{show(figures[name])}</b> {title}</li>'
    for name, (title, show) in facts.items()
    if is_number(figures.get(name))
  )
  used = {*facts, *shown, *(f'untrained_{name}' for name in shown)}
  rest = {
    name: number(value) if is_number(value) else str(value)
    for name, value in figures.items()
    if name not in used and 'iou/' not in name
  }
  lines = ''.join(f'<p>{text(note)}</p>' for note in notes)
  return (
    (f'<ul class="tiles">{tiles}</ul>' if tiles else '')
    + (f'<ul class="facts">{line}</ul>' if line else '')
    + (f'<div class="card notes">{lines}</div>' if lines else '')
    + (
      f'<details><summary>More figures</summary>{_table(rest)}</details>'
      if rest
      else ''
    )
  )


def _tile(title: str, value: Number, untrained: Any) -> str:
  beside, mark = '', ''
  if is_number(untrained):
    beside, mark = f'untrained model: {untrained:.1f}%', _mark(untrained)
  return (
    f'<li class="card"><div class="name">{title}</div>'
    f'<div class="figure">{value:.1f}<small>%</small></div>'
    f'<div class="meter" aria-hidden="true"><span style="width:{value:.1f}%">'
    f'</span>{mark}</div><div class="beside">{beside}</div></li>'
  )


def _mark(percent: Any) -> str:
  return f'<i style="left:{percent:.1f}%"></i>'


def _collapses(events: Sequence[collapse.CollapseEvent]) -> str:
  lines = ''.join(
    f'<p><b>Grouping collapse: {text(event.kind.name)}</b>, '
    f'{text(event.period)} ({text(event.figures)}). '
    f'{text(event.advice[:1].upper() + event.advice[1:])}.</p>'
    for event in events
  )
  if not lines:
    return ''
  return f'<div class="card notes alarm" role="note">{lines}</div>'


# Images: the groups at the end, and the groups while they formed.


def _gallery(examples: Sequence[Example], names: Sequence[str]) -> str:
  """Every image with its groups and classes side by side."""
  if not examples:
    return ''
  legend = _chips([(i, True) for i in range(len(names))], names, 'legend')
  return (
    '<p class="soft">Validation images. Each group of pixels keeps its '
    'colour from image to image; a crossed class name is not in the '
    f"image's ground truth.</p>{legend}"
    + ''.join(_article(example, names) for example in examples)
  )


def _article(example: Example, names: Sequence[str]) -> str:
  shown = [view for view in VIEWS if example.get(view[0]) is not None]
  figures = ''.join(
    f'<figure>{_view(example, key, alt, names, _IMAGE_SIDE)}'
    f'<figcaption><b>{title}</b>{_detail(example, key, names)}</figcaption>'
    '</figure>'
    for key, title, alt in shown
  )
  caption = example.get('caption')
  caption = f'<p class="caption soft">{text(caption)}</p>' if caption else ''
  return (
    f'<article class="card image">{caption}'
    f'<div class="views" style="--views:{len(shown)}">{figures}</div></article>'
  )


def _view(
  example: Example, key: str, alt: str, names: Sequence[str], side: int
) -> str:
  """An <img> of one view."""
  image = np.asarray(example['image'], np.uint8)
  if key == 'image':
    pixels = overlay.enlarge(image, side)
  else:
    labels = np.asarray(example[key]).astype(np.int32)
    colours = colours_lib.group_palette(int(labels.max()) + 1)
    if key in _OF_CLASSES:
      colours = colours_lib.class_colours(names)
      present = [names[i] for i in _present(labels, len(names))]
      alt = f'{alt}: {", ".join(present)}'
    pixels = overlay.overlay(image, labels, colours, min_side=side)
  shown = Image.fromarray(pixels)
  shown.thumbnail((_MAX_SIDE, _MAX_SIDE))
  return (
    f'<img src="{overlay.data_uri(np.asarray(shown))}" width="{shown.width}" '
    f'height="{shown.height}" alt="{text(alt)}">'
  )


def _detail(example: Example, key: str, names: Sequence[str]) -> str:
  """The text under a view: the number of groups, or the classes."""
  if key == 'image':
    return ''
  labels = np.asarray(example[key])
  if key not in _OF_CLASSES:
    return f' <span class="soft">{len(np.unique(labels))} used</span>'
  present = _present(labels, len(names))
  labels = example.get('ground_truth')
  true = present if labels is None else np.unique(labels)
  return _chips([(i, i in true) for i in present], names)


def _present(labels: np.ndarray, count: int) -> list[int]:
  """The classes of a map, largest first; tiny ones are left out."""
  pixels = np.bincount(labels[(labels >= 0) & (labels < count)], None, count)
  order = np.argsort(-pixels, kind='stable').tolist()
  return [i for i in order if pixels[i] >= _MIN_SHARE * labels.size]


def _chips(
  classes: Sequence[tuple[int, bool]], names: Sequence[str], css: str = ''
) -> str:
  """Names of classes beside their colours; the wrong ones are crossed."""
  colours = colours_lib.class_colours(names)
  items = ''
  for i, right in classes:
    wrong = '' if right else ' class="wrong" title="not in the ground truth"'
    shown = text(names[i]) if right else f'<s>{text(names[i])}</s>'
    items += (
      f'<li{wrong}><span class="swatch" '
      f'style="background:{colours_lib.hex_colour(colours[i])}"></span>{shown}</li>'
    )
  return f'<ul class="chips {css}">{items}</ul>' if items else ''


def _forming(
  snapshots: Sequence[tuple[int, Sequence[Example]]], names: Sequence[str]
) -> str:
  """A table for each image: its groups and classes step by step."""
  count = min((len(examples) for _, examples in snapshots), default=0)
  if not count:
    return ''
  strips = ''.join(
    _strip([(s, examples[i]) for s, examples in snapshots], names, i)
    for i in range(count)
  )
  return (
    '<p class="soft">The same validation images as training goes on; under '
    f'groups, how many of them an image uses.</p>{strips}'
  )


def _strip(
  steps: Sequence[tuple[int, Example]], names: Sequence[str], index: int
) -> str:
  first = steps[0][1]
  true = first.get('ground_truth') is not None
  head = [f'Step {step:,}' for step, _ in steps] + ['Ground truth'] * true
  rows = ''
  for key, title, alt in VIEWS[1:-1]:
    if all(example.get(key) is None for _, example in steps):
      continue
    cells = ''
    for step, example in steps:
      shown = ''
      if example.get(key) is not None:
        at = f'{alt} at step {step}'
        shown = _view(example, key, at, names, _SNAPSHOT_SIDE)
        if key not in _OF_CLASSES:
          shown += _detail(example, key, names)
      cells += f'<td>{shown}</td>'
    if key == 'prediction' and true:
      *_, (labels, _, alt) = VIEWS
      cells += f'<td>{_view(first, labels, alt, names, _SNAPSHOT_SIDE)}</td>'
    rows += f'<tr><th scope="row">{title}</th>{cells}</tr>'
  image = _view(first, 'image', 'The image', names, _SNAPSHOT_SIDE)
  columns = ''.join(f'<th scope="col">{title}</th>' for title in head)
  name = text(first.get('caption') or f'Image {index + 1}')
  return (
    f'<div class="card image scroll" role="region" tabindex="0" '
    f'aria-label="Groups forming: {name}"><table class="forming">'
    f'<thead><tr><td>{image}</td>{columns}</tr></thead>'
    f'<tbody>{rows}</tbody></table></div>'
  )


# Figures by class, errors, and the run.


def _bars(figures: Mapping[str, Any], names: Sequence[str]) -> str:
  """A bar for each class, the best first, the untrained model marked."""
  palette = colours_lib.class_colours(names)
  colours = dict(zip(names, map(colours_lib.hex_colour, palette), strict=True))
  found = {
    name.removeprefix('iou/'): value
    for name, value in figures.items()
    if name.startswith('iou/') and is_number(value)
  }
  if not found:
    return ''
  items = ''
  for name, value in sorted(found.items(), key=lambda item: -item[1]):
    untrained = figures.get(f'untrained_iou/{name}')
    mark = _mark(untrained) if is_number(untrained) else ''
    items += (
      f'<li style="--colour:{colours.get(name, "var(--accent)")}">'
      f'<span class="name">{text(name)}</span>'
      f'<span class="meter" aria-hidden="true"><span style="width:'
      f'{value:.1f}%"></span>{mark}</span>'
      f'<span class="value">{value:.1f}</span></li>'
    )
  marked = '; the upright line marks the untrained model' * ('<i ' in items)
  return (
    '<p class="soft">Intersection over union of each class, in percent'
    f'{marked}.</p><ol class="bars card">{items}</ol>'
  )


def _errors(tables: str) -> str:
  if not tables:
    return ''
  return (
    '<p class="soft">Grouping error: pixels that stay wrong even if every '
    'group got its best label. Labelling error: pixels that a better label '
    'for their group would fix. Together they are all that mIoU lacks. Below, '
    'the pairs of classes whose pixels, if right, would bring most.</p>'
    f'<div class="card">{tables}</div>'
  )


def _run(config_text: str) -> str:
  config = ''
  if config_text:
    config = (
      '<details class="card"><summary>Configuration</summary>'
      f'<pre>{text(config_text)}</pre></details>'
    )
  return _table(describe_environment()) + config


def describe_environment() -> dict[str, str]:
  """Devices and versions of this process, by name."""
  devices = jax.devices()
  versions = [
    f'{name} {importlib.metadata.version(name)}'
    for name in ('jax', 'flax', 'optax', 'numpy')
  ]
  return {
    'Devices': f'{len(devices)} x {devices[0].device_kind}',
    'Processor cores': str(os.cpu_count()),
    'System': platform.platform(),
    'Python': platform.python_version(),
    'Packages': ', '.join(versions),
  }
