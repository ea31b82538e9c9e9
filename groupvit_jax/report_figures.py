"""The report's bars and curves: figures by class and by step.

Rows of metrics.jsonl become a few charts of what belongs together.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from groupvit_jax import collapse, report_svg
from groupvit_jax import report_parts as parts
from groupvit_jax.report_parts import Classes
from groupvit_jax.viz import overlay


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
    if name.startswith('iou/') and parts.is_number(value)
  }
  if not found:
    return ''
  items = ''
  for name, value in sorted(found.items(), key=lambda item: -item[1]):
    untrained = figures.get(f'untrained_iou/{name}')
    mark = (
      f'<i style="left:{parts.clip(untrained):.1f}%"></i>'
      if parts.is_number(untrained)
      else ''
    )
    colour = overlay.hex_colour(colours.get(name, (29, 111, 184)))
    items += (
      f'<li style="--colour:{colour}">'
      f'<span class="name">{parts.text(name)}</span>'
      f'<span class="meter" aria-hidden="true"><span style="width:'
      f'{parts.clip(value):.1f}%"></span>{mark}</span>'
      f'<span class="value">{value:.1f}</span></li>'
    )
  marked = (
    '; the upright line marks the untrained model' if '<i ' in items else ''
  )
  return (
    '<p class="soft">Intersection over union of each class, in percent'
    f'{marked}.</p><ol class="bars card">{items}</ol>'
  )


def curves(
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
    if not parts.is_number(row.get('step')):
      continue
    for name, value in row.items():
      if name == 'step' or not parts.is_number(value):
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
  svg = report_svg.line_chart(title, lines, bands)
  if not svg:
    return ''
  keys = ''.join(
    f'<li style="--key:var(--line-{i % report_svg.LINES})">'
    f'{parts.text(name)} <b>{report_svg.number(points[-1][1])}</b></li>'
    for i, (name, points) in enumerate(lines.items())
  )
  hint = f'<p class="hint soft">{parts.text(hint)}</p>' if hint else ''
  return (
    f'<div class="card"><h3>{parts.text(title)}</h3>{svg}'
    f'<ul class="keys">{keys}</ul>{hint}</div>'
  )


def _base(name: str) -> str:
  """'loss' of 'train/loss', 'iou/dog' of 'eval/iou/dog'."""
  prefix, slash, rest = name.partition('/')
  return rest if slash and prefix != 'iou' else name


def _words(name: str) -> str:
  words = name.replace('_', ' ').replace('/', ' ').replace('miou', 'mIoU')
  return words if words.startswith('mIoU') else parts.sentence(words)
