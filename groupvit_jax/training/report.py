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

from groupvit_jax import files
from groupvit_jax.training import collapse, report_charts
from groupvit_jax.viz import overlay

# What the report's sections share: classes, escaped text, numbers, tables.
#
# Whatever comes from outside reaches the page through `text`.


class Classes(NamedTuple):
  """Names and RGB colours by class index."""

  names: tuple[str, ...]
  colours: np.ndarray


def text(value: Any) -> str:
  """Anything as HTML text, safe between tags and inside attributes."""
  return html.escape(str(value), quote=True)


def sentence(words: str) -> str:
  """The same, beginning with a capital letter."""
  return words[:1].upper() + words[1:]


def table(rows: Mapping[str, str]) -> str:
  """A row for each name; empty text if there is none."""
  cells = ''.join(
    f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
    for name, value in rows.items()
  )
  return f'<table class="table">{cells}</table>' if cells else ''


def is_number(value: Any) -> bool:
  """Whether it can be printed and drawn: a finite number."""
  if isinstance(value, bool) or not isinstance(
    value, (int, float, np.integer, np.floating)
  ):
    return False
  return math.isfinite(value)


def clip(percent: Real) -> float:
  """Within 0 to 100, the length of a meter."""
  return min(100.0, max(0.0, float(percent)))


def count(value: Real) -> str:
  """1,200 for 1200."""
  return f'{value:,.0f}'


# The report's bars and curves: figures by class and by step.
#
# Rows of metrics.jsonl become a few charts of what belongs together.


class Panel(NamedTuple):
  """One chart.

  Attributes:
    title: what it is called.
    patterns: the metrics it takes.
    percent: whether they are shares.
    hint: how a collapse of the groups looks in it; empty where it does not
      show.
  """

  title: str
  patterns: tuple[str, ...]
  percent: bool = False
  hint: str = ''


PANELS = (
  Panel('Loss', ('loss', 'contrastive*', 'multi_label*')),
  Panel('Zero-shot mIoU, %', ('miou', 'miou_*'), True),
  Panel('Oracle mIoU, %', ('oracle_miou', 'oracle_miou_*'), True),
  Panel(
    'Groups in use',
    ('groups_*',),
    hint='Near 1 is collapse: in use, one group takes everything; per image, '
    'each picture is one group.',
  ),
  Panel(
    'Entropy of the assignment, nats',
    ('entropy*',),
    hint='Near the logarithm of the number of groups, patches are undecided.',
  ),
  Panel(
    'Share of the largest group, %',
    ('largest_share*',),
    True,
    'Near 100, one group takes everything.',
  ),
)
# Shown as bars, not as one line for each class.
NO_CURVE = ('iou/*',)


def bars(figures: Mapping[str, Any], classes: Classes) -> str:
  """A bar for each class, the best first, the untrained model marked.

  Args:
    figures: `iou/<class>` and `untrained_iou/<class>` in percent; the rest is
      left alone.
    classes: give the bars their colours.

  Returns:
    HTML; empty text without figures by class.
  """
  colours = dict(zip(classes.names, classes.colours, strict=True))
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
    mark = (
      f'<i style="left:{clip(untrained):.1f}%"></i>'
      if is_number(untrained)
      else ''
    )
    colour = overlay.hex_colour(colours.get(name, (29, 111, 184)))
    items += (
      f'<li style="--colour:{colour}">'
      f'<span class="name">{text(name)}</span>'
      f'<span class="meter" aria-hidden="true"><span style="width:'
      f'{clip(value):.1f}%"></span>{mark}</span>'
      f'<span class="value">{value:.1f}</span></li>'
    )
  marked = (
    '; the upright line marks the untrained model' if '<i ' in items else ''
  )
  return (
    '<p class="soft">Intersection over union of each class, in percent'
    f'{marked}.</p><ol class="bars card">{items}</ol>'
  )


def curves_section(
  rows: Sequence[Mapping[str, Any]], collapses: Sequence[collapse.Spell] = ()
) -> str:
  """The charts of `PANELS`; what none of them takes is folded away below.

  Args:
    rows: of metrics.jsonl.
    collapses: shaded in the panels in which they show.

  Returns:
    HTML; empty text if there is nothing finite to draw.
  """
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
    main += _chart(
      panel.title,
      taken,
      panel.percent,
      panel.hint,
      [(spell.begin, spell.end) for spell in collapses if panel.hint],
    )
  more = ''.join(_chart(_words(n), {n: p}) for n, p in series.items())
  if not main and not more:
    return ''
  if more:
    more = (
      '<details><summary>More curves</summary>'
      f'<div class="charts">{more}</div></details>'
    )
  words = '<p class="soft">Shaded: the groups had collapsed.</p>'
  return f'{words if collapses else ""}<div class="charts">{main}</div>{more}'


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
    if not is_number(row.get('step')):
      continue
    for name, value in row.items():
      if name == 'step' or not is_number(value):
        continue
      if any(fnmatch.fnmatchcase(_base(name), p) for p in NO_CURVE):
        continue
      series.setdefault(name, {})[float(row['step'])] = float(value)
  return {name: sorted(points.items()) for name, points in series.items()}


def _chart(
  title: str,
  series: Mapping[str, Sequence[tuple[Real, Real]]],
  percent: bool = False,
  hint: str = '',
  bands: Sequence[tuple[int, int | None]] = (),
) -> str:
  factor = 100.0 if percent else 1.0
  prefixes = {name.partition('/')[0] for name in series if '/' in name}
  lines = {
    _words(name if len(prefixes) > 1 else _base(name)): [
      (step, factor * value) for step, value in points
    ]
    for name, points in series.items()
  }
  svg = report_charts.line_chart(title, lines, bands)
  if not svg:
    return ''
  keys = ''.join(
    f'<li style="--key:var(--line-{i % report_charts.LINES})">'
    f'{text(name)} <b>{report_charts.number(points[-1][1])}</b></li>'
    for i, (name, points) in enumerate(lines.items())
  )
  hint = f'<p class="hint soft">{text(hint)}</p>' if hint else ''
  return (
    f'<div class="card"><h3>{text(title)}</h3>{svg}'
    f'<ul class="keys">{keys}</ul>{hint}</div>'
  )


def _base(name: str) -> str:
  """'loss' of 'train/loss', 'iou/dog' of 'eval/iou/dog'."""
  prefix, slash, rest = name.partition('/')
  return rest if slash and prefix != 'iou' else name


def _words(name: str) -> str:
  words = name.replace('_', ' ').replace('/', ' ').replace('miou', 'mIoU')
  return words if words.startswith('mIoU') else sentence(words)


# The report's pictures: what the groups became, and how they formed.
#
# Views of one picture side by side, and the same pictures as training goes on.

# What a picture may show, in order: (key, caption, alternative text).
VIEWS = (
  ('image', 'Picture', 'The picture'),
  ('first_groups', 'First-stage groups', 'First-stage groups over the picture'),
  ('final_groups', 'Final groups', 'Final groups over the picture'),
  ('prediction', 'Predicted', 'Predicted classes'),
  ('truth', 'Truth', 'True classes'),
)

PICTURE_SIDE = 176  # pixels; small pictures are enlarged to it
SNAPSHOT_SIDE = 112
MAX_SIDE = 256  # larger pictures are reduced to it
MIN_SHARE = 0.01  # of a picture, for a class to be listed beside it


def gallery(pictures: Sequence[Mapping[str, Any]], classes: Classes) -> str:
  """Every picture with its groups and classes side by side.

  Args:
    pictures: as `report.write_report` takes them.
    classes: of the maps `prediction` and `truth`.

  Returns:
    HTML; empty text without pictures.
  """
  if not pictures:
    return ''
  words = (
    '<p class="soft">Validation pictures. Each group of pixels keeps its '
    'colour from picture to picture; a crossed class name is not in the '
    "picture's truth.</p>"
  )
  views = _views(pictures)
  rows = ''.join(_picture(p, views, classes) for p in pictures)
  return words + _legend(classes) + rows


def _picture(
  picture: Mapping[str, Any],
  views: Sequence[tuple[str, str, str]],
  classes: Classes,
) -> str:
  shown = [view for view in views if picture.get(view[0]) is not None]
  figures = ''.join(
    f'<figure>{_image(picture, key, alt, classes, PICTURE_SIDE)}'
    f'<figcaption><b>{caption}</b>{_detail(picture, key, classes)}</figcaption>'
    '</figure>'
    for key, caption, alt in shown
  )
  said = picture.get('caption')
  said = f'<p class="said soft">{text(said)}</p>' if said else ''
  return (
    f'<article class="card picture">{said}'
    f'<div class="views" style="--views:{len(shown)}">{figures}</div></article>'
  )


def _views(
  pictures: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str, str]]:
  """The views that any of the pictures has, each of them once."""
  # With one grouping stage the first groups are the final ones: in all
  # pictures. Two stages may agree in some, where both have collapsed.
  once = all(
    np.array_equal(p.get('first_groups'), p.get('final_groups'))
    for p in pictures
  )
  return [
    view
    for view in VIEWS
    if any(p.get(view[0]) is not None for p in pictures)
    and not (once and view[0] == 'first_groups')
  ]


def _image(
  picture: Mapping[str, Any],
  key: str,
  alt: str,
  classes: Classes,
  side: int,
) -> str:
  image = np.asarray(picture['image'], np.uint8)
  if key == 'image':
    pixels = overlay.enlarge(image, side)
  else:
    labels = np.asarray(picture[key]).astype(np.int32)
    if key in ('prediction', 'truth'):
      colours = classes.colours
      alt = f'{alt}: {", ".join(_present(labels, classes))}'
    else:
      colours = overlay.group_palette(int(labels.max()) + 1)
    pixels = overlay.overlay(image, labels, colours, min_side=side)
  pixels = _shrink(pixels)
  height, width = pixels.shape[:2]
  return (
    f'<img src="{overlay.data_uri(pixels)}" width="{width}" '
    f'height="{height}" alt="{text(alt)}">'
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
    shown = text(name) if right else f'<s>{text(name)}</s>'
    items.append(
      f'<li{wrong}><span class="swatch" '
      f'style="background:{overlay.hex_colour(colour)}"></span>{shown}</li>'
    )
  return f'<ul class="chips {extra_class}">{"".join(items)}</ul>'


def _legend(classes: Classes) -> str:
  if not classes.names:
    return ''
  return _chips(
    [(n, c, True) for n, c in zip(classes.names, classes.colours, strict=True)],
    'legend',
  )


def forming(
  snapshots: Sequence[tuple[int, Sequence[Mapping[str, Any]]]],
  classes: Classes,
) -> str:
  """A strip for each picture: its groups and classes step by step.

  Args:
    snapshots: (step, pictures), the same pictures at each step, in order.
    classes: of the maps `prediction` and `truth`.

  Returns:
    HTML; empty text without pictures that all snapshots have.
  """
  count = min((len(pictures) for _, pictures in snapshots), default=0)
  if not count:
    return ''
  words = (
    '<p class="soft">The same validation pictures as training goes on; under '
    'groups, how many of them a picture uses.</p>'
  )
  views = _views([p for _, pictures in snapshots for p in pictures])
  strips = ''.join(
    _strip(i, [(s, pictures[i]) for s, pictures in snapshots], views, classes)
    for i in range(count)
  )
  return words + strips


def _strip(
  index: int,
  steps: Sequence[tuple[int, Mapping[str, Any]]],
  views: Sequence[tuple[str, str, str]],
  classes: Classes,
) -> str:
  first = steps[0][1]
  head = ''.join(
    f'<th scope="col">Step {count(step)}</th>' for step, _ in steps
  )
  true = first.get('truth') is not None
  head += '<th scope="col">Truth</th>' if true else ''
  image = _image(first, 'image', 'The picture', classes, SNAPSHOT_SIDE)
  rows = ''
  for key, caption, alt in views:
    if key in ('image', 'truth'):
      continue
    cells = ''.join(
      _cell(p, key, f'{alt} at step {step}', classes) for step, p in steps
    )
    if key == 'prediction' and true:
      cells += _cell(first, 'truth', 'True classes', classes)
    rows += f'<tr><th scope="row">{caption}</th>{cells}</tr>'
  name = text(first.get('caption') or f'Picture {index + 1}')
  return (
    f'<div class="card picture scroll" role="region" tabindex="0" '
    f'aria-label="Groups forming: {name}"><table class="forming">'
    f'<thead><tr><td class="forming-image">{image}</td>{head}</tr></thead>'
    f'<tbody>{rows}</tbody></table></div>'
  )


def _cell(
  picture: Mapping[str, Any], key: str, alt: str, classes: Classes
) -> str:
  """A view in the table; empty where the picture has none at that step."""
  if picture.get(key) is None:
    return '<td></td>'
  image = _image(picture, key, alt, classes, SNAPSHOT_SIDE)
  groups = key in ('first_groups', 'final_groups')
  return f'<td>{image}{_detail(picture, key, classes) if groups else ""}</td>'


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
    class_colours: RGB by class, integers c 3; None for
      `overlay.class_colours`.
    notes: what the reader should know first.
    collapses: when grouping failed, in order; told at the top and shaded in
      the curves.
    errors: where they come from, as HTML tables.
    environment: None for `describe_environment()`.

  Returns:
    The page's path.
  """
  if class_colours is None:
    class_colours = overlay.class_colours(class_names)
  classes = Classes(tuple(class_names), np.asarray(class_colours, np.uint8))
  if environment is None:
    environment = describe_environment()
  sections = [
    ('pictures', 'Pictures', gallery(pictures, classes)),
    ('forming', 'Groups forming', forming(snapshots, classes)),
    ('classes', 'Classes', bars(figures, classes)),
    ('errors', 'Errors', _errors(errors)),
    ('curves', 'Learning curves', curves_section(curves, collapses)),
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
    f'<a href="#{anchor}">{text(name)}</a>' for anchor, name, _ in sections
  )
  body = ''.join(
    f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
    f'<h2 id="{anchor}-title">{text(name)}</h2>{content}</section>'
    for anchor, name, content in sections
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{text(title)}</title><style>{report_charts.CSS}</style></head>'
    f'<body><header><h1>{text(title)}</h1>'
    '<p class="soft">Segmentation learned from captions alone; the masks are '
    'only ever used to measure it.</p>'
    f'<nav aria-label="Sections">{links}</nav></header>'
    f'<main>{top}{body}</main>'
    '<footer>Written by groupvit_jax.</footer></body></html>\n'
  )


def _headline(figures: Mapping[str, Any], notes: str | Sequence[str]) -> str:
  tiles, used = [], set()
  for name, label in HEADLINES:
    if is_number(figures.get(name)):
      untrained = figures.get(f'untrained_{name}')
      tiles.append(_tile(label, figures[name], untrained))
      used |= {name, f'untrained_{name}'}
  facts = [
    ('steps', 'steps', count),
    ('wall_seconds', 'in all', _duration),
    ('images_per_second', 'images a second', report_charts.number),
  ]
  line = ''.join(
    f'<li><b>{text(show(figures[name]))}</b> {label}</li>'
    for name, label, show in facts
    if is_number(figures.get(name))
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
  if is_number(untrained):
    beside = f'untrained model: {untrained:.1f}%'
    mark = f'<i style="left:{clip(untrained):.1f}%"></i>'
  return (
    f'<li class="card"><div class="name">{text(label)}</div>'
    f'<div class="figure">{value:.1f}<small>%</small></div>'
    f'<div class="meter" aria-hidden="true">'
    f'<span style="width:{clip(value):.1f}%"></span>{mark}</div>'
    f'<div class="beside">{beside}</div></li>'
  )


def _notes(notes: Sequence[str]) -> str:
  if not notes:
    return ''
  lines = ''.join(f'<p>{text(note)}</p>' for note in notes)
  return f'<div class="card notes">{lines}</div>'


def _collapses(collapses: Sequence[collapse.Spell]) -> str:
  if not collapses:
    return ''
  lines = ''.join(
    f'<p><b>Grouping collapse: {text(spell.kind.name)}</b>, '
    f'{text(spell.period)} ({text(spell.figures)}). '
    f'{text(sentence(spell.advice))}.</p>'
    for spell in collapses
  )
  return f'<div class="card notes alarm" role="note">{lines}</div>'


def _all_figures(figures: Mapping[str, Any]) -> str:
  if not figures:
    return ''
  rows = {
    name: report_charts.number(value) if is_number(value) else str(value)
    for name, value in figures.items()
  }
  shown = table(rows)
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
      f'<pre>{text(config_text)}</pre></details>'
    )
  return table(environment) + config


def _duration(seconds: Real) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'
