"""The report's learning curves: charts by matplotlib, as SVG inside the page.

Rows of metrics.jsonl become a few charts of figures that belong together. The
charts take the page's colours, so that they follow its light or dark mode.
"""

import fnmatch
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from groupvit_jax.training import collapse

Number = float | int
Points = Sequence[tuple[Number, Number]]
Bands = Sequence[tuple[Number, Number | None]]

# Colours that matplotlib draws with, and the page's variables in their place.
_VARIABLES = {
  '#1d6fb8': '--line-0',
  '#c2571a': '--line-1',
  '#2c8656': '--line-2',
  '#8650b5': '--line-3',
  '#a8791b': '--line-4',
  '#b8417d': '--line-5',
  '#5c646d': '--soft',
  '#e3e1dc': '--rule',
  '#b3261e': '--wrong',
}
*_LINES, _TEXT, _GRID, _BAND = _VARIABLES
_STYLE = {
  'svg.fonttype': 'none',
  'font.size': 9,
  'text.color': _TEXT,
  'xtick.color': _TEXT,
  'ytick.color': _TEXT,
  'axes.edgecolor': _GRID,
  'axes.formatter.limits': (-3, 5),
  'axes.spines.top': False,
  'axes.spines.right': False,
  'grid.color': _GRID,
}


class Panel(NamedTuple):
  """One chart.

  Attributes:
    title: heading of the chart.
    patterns: names of the metrics that it shows.
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
    'each image is one group.',
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
_NO_CURVE = 'iou/*'


def curves(
  rows: Sequence[Mapping[str, Any]],
  events: Sequence[collapse.CollapseEvent] = (),
) -> str:
  """The charts of `PANELS`; metrics of none of them are folded away below.

  Args:
    rows: of metrics.jsonl.
    events: collapses, shaded in the panels in which they show.

  Returns:
    HTML; empty text if there is nothing finite to draw.
  """
  series = collect_series(rows)
  main = ''
  for panel in PANELS:
    taken = {
      name: series.pop(name)
      for name in list(series)
      if any(fnmatch.fnmatchcase(_base(name), p) for p in panel.patterns)
    }
    bands = [(event.begin, event.end) for event in events if panel.hint]
    main += _card(panel, taken, bands)
  more = ''.join(
    _card(Panel(_label(name), ()), {name: points}, ())
    for name, points in series.items()
  )
  if not main and not more:
    return ''
  if more:
    more = (
      '<details><summary>More curves</summary>'
      f'<div class="charts">{more}</div></details>'
    )
  shaded = '<p class="soft">Shaded: the groups had collapsed.</p>'
  return f'{shaded if events else ""}<div class="charts">{main}</div>{more}'


def collect_series(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
  """Lines by metric from rows by step.

  Args:
    rows: of metrics.jsonl, in any order; where a step was logged twice (a run
      that was resumed), the later row holds.

  Returns:
    metric -> (step, value) in order of steps, per-class metrics left out.
  """
  series: dict[str, dict[Number, Number]] = {}
  for row in rows:
    for name, value in row.items():
      if name == 'step' or fnmatch.fnmatchcase(_base(name), _NO_CURVE):
        continue
      if is_number(value) and is_number(row.get('step')):
        series.setdefault(name, {})[row['step']] = value
  return {name: sorted(points.items()) for name, points in series.items()}


def is_number(value: Any) -> bool:
  """Whether it can be printed and drawn: a finite number."""
  known = isinstance(value, float | int) and not isinstance(value, bool)
  return known and math.isfinite(value)


def number(value: Number) -> str:
  """A figure in about three significant digits: 5e-05, 12.3, 1,200."""
  return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def chart(title: str, lines: Mapping[str, Points], bands: Bands = ()) -> str:
  """One chart.

  Args:
    title: subject of the chart, for screen readers.
    lines: name -> (step, value) pairs in order of steps, finite.
    bands: (first, last) step to shade behind them; None lasts to the end.

  Returns:
    An <svg> element.
  """
  # Inside: only a run's end draws, and matplotlib takes a second to import.
  import matplotlib
  from matplotlib import figure, ticker

  style: Any = _STYLE | {'svg.hashsalt': title}
  with matplotlib.rc_context(style):
    page = figure.Figure(figsize=(5, 2.8))
    # Given, as a layout by matplotlib takes as long as drawing.
    axes = page.add_axes((0.13, 0.1, 0.85, 0.82))
    for i, points in enumerate(lines.values()):
      colour = _LINES[i % len(_LINES)]
      axes.plot(*zip(*points, strict=True), color=colour)
      axes.plot(*points[-1], 'o', color=colour, markersize=4)
    low, high = axes.get_xlim()
    for begin, end in bands:
      last = high if end is None else min(end, high)
      if begin <= last:
        axes.axvspan(max(begin, low), last, color=_BAND, alpha=0.14, lw=2)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.grid(axis='y')
    axes.set_axisbelow(True)
    file = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    page.savefig(file, format='svg', transparent=True, metadata=nothing)
  svg = file.getvalue()
  svg = svg[svg.index('<svg') :]
  # In a page, no name space is declared and no two elements share a name.
  svg = re.sub(r' xmlns(:xlink)?="[^"]*"| id="[a-z0-9.]+_\d+"', '', svg)
  for colour, variable in _VARIABLES.items():
    svg = svg.replace(colour, f'var({variable})')
  words = html.escape(_description(title, lines, bands))
  return svg.replace('<svg', f'<svg role="img" aria-label="{words}"', 1)


def _description(title: str, lines: Mapping[str, Points], bands: Bands) -> str:
  """The chart in words: where its lines and shaded parts begin and end."""
  words = [
    f'{name} from {number(points[0][1])} at step {number(points[0][0])} to '
    f'{number(points[-1][1])} at step {number(points[-1][0])}'
    for name, points in lines.items()
  ]
  words += [
    f'shaded from step {number(begin)}'
    + ('' if end is None else f' to {number(end)}')
    for begin, end in bands
  ]
  return f'{title}: ' + '; '.join(words)


def _card(panel: Panel, series: Mapping[str, Points], bands: Bands) -> str:
  """A chart with its title, the last value of each line, and a hint."""
  if not series:
    return ''
  factor = 100.0 if panel.percent else 1.0
  prefixes = {name.partition('/')[0] for name in series if '/' in name}
  lines = {
    _label(name if len(prefixes) > 1 else _base(name)): [
      (step, factor * value) for step, value in points
    ]
    for name, points in series.items()
  }
  keys = ''.join(
    f'<li style="--key:var(--line-{i % len(_LINES)})">{html.escape(name)} '
    f'<b>{number(points[-1][1])}</b></li>'
    for i, (name, points) in enumerate(lines.items())
  )
  hint = f'<p class="hint soft">{panel.hint}</p>' if panel.hint else ''
  return (
    f'<div class="card"><h3>{html.escape(panel.title)}</h3>'
    f'{chart(panel.title, lines, bands)}<ul class="keys">{keys}</ul>{hint}'
    '</div>'
  )


def _base(name: str) -> str:
  """'loss' of 'train/loss', 'iou/dog' of 'eval/iou/dog'."""
  prefix, slash, rest = name.partition('/')
  return rest if slash and prefix != 'iou' else name


def _label(name: str) -> str:
  words = name.replace('_', ' ').replace('/', ' ').replace('miou', 'mIoU')
  return words if words.startswith('mIoU') else words[:1].upper() + words[1:]
