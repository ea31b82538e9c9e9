"""Line charts as inline SVG: no plotting library, no script, any theme.

Colours are left to the page's style sheet (classes line-0, line-1, ...), so a
chart follows its reader's light or dark mode.
"""

import html
import math
from collections.abc import Mapping, Sequence
from numbers import Real

Points = Sequence[tuple[Real, Real]]

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 26
MAX_POINTS = 240  # more than the pixels can tell apart

LINES = 6  # line styles that the style sheet has


def line_chart(
  title: str,
  lines: Mapping[str, Points],
  bands: Sequence[tuple[Real, Real | None]] = (),
) -> str:
  """One chart.

  Args:
    title: what it shows; becomes part of its description for screen readers.
    lines: name -> (step, value) pairs in order of steps; values that are not
      finite leave a gap.
    bands: (first, last) step of what is shaded behind them; None lasts to the
      right edge.

  Returns:
    An <svg> element; empty text if there is nothing finite to draw.
  """
  kept = {name: _thin(points) for name, points in lines.items()}
  finite = [p for points in kept.values() for p in points if _finite(p)]
  if not finite:
    return ''
  x_ticks = ticks(min(x for x, _ in finite), max(x for x, _ in finite), 4)
  y_ticks = ticks(min(y for _, y in finite), max(y for _, y in finite), 4)
  x_range = (min(x for x, _ in finite), max(x for x, _ in finite))
  y_range = (
    min(y_ticks[0], min(y for _, y in finite)),
    max(y_ticks[-1], max(y for _, y in finite)),
  )
  to_x = _scale(x_range, (LEFT, WIDTH - RIGHT))
  to_y = _scale(y_range, (HEIGHT - BOTTOM, TOP))
  shaded = _cut(bands, x_range)
  parts = [_band(to_x(first), to_x(last)) for first, last in shaded]
  parts.append(_grid(x_ticks, y_ticks, x_range, to_x, to_y))
  for i, (name, points) in enumerate(kept.items()):
    parts.append(_line(name, points, i % LINES, to_x, to_y))
  return (
    f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
    f'aria-label="{html.escape(describe(title, lines, shaded), quote=True)}">'
    + ''.join(parts)
    + '</svg>'
  )


def describe(
  title: str,
  lines: Mapping[str, Points],
  bands: Sequence[tuple[Real, Real]] = (),
) -> str:
  """The chart in words: where lines and shaded parts begin and end."""
  said = []
  for name, points in lines.items():
    finite = [p for p in points if _finite(p)]
    if finite:
      (x0, y0), (x1, y1) = finite[0], finite[-1]
      said.append(
        f'{name} from {number(y0)} at step {number(x0)} to {number(y1)} at '
        f'step {number(x1)}'
      )
  said += [f'shaded from step {number(a)} to {number(b)}' for a, b in bands]
  return f'{title}: ' + '; '.join(said)


def ticks(low: Real, high: Real, count: int) -> list[Real]:
  """About `count` round values in [low, high] and one beyond each end.

  Args:
    low: smallest value to show.
    high: largest value to show; may equal `low`.
    count: how many steps are wanted.

  Returns:
    Increasing multiples of 1, 2 or 5 times a power of ten.
  """
  if high <= low:
    margin = abs(low) * 0.1 or 1.0
    low, high = low - margin, high + margin
  raw = (high - low) / count
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [i * step for i in range(first, last + 1)]


def number(value: Real) -> str:
  """A figure in at most four significant digits: 5e-5, 12.3, 1,200, 25k."""
  if value == 0:
    return '0'
  if abs(value) >= 10_000:
    return f'{value / 1000:.4g}k'
  if abs(value) >= 1000:
    return f'{value:,.0f}'
  if abs(value) < 1e-3:
    digits, _, power = f'{value:.2g}'.partition('e')
    return f'{digits}e{int(power)}' if power else digits
  return f'{value:.3g}' if abs(value) < 100 else f'{value:.4g}'


def _finite(point: tuple[Real, Real]) -> bool:
  return math.isfinite(point[0]) and math.isfinite(point[1])


def _thin(points: Points) -> list[tuple[Real, Real]]:
  stride = max(1, math.ceil(len(points) / MAX_POINTS))
  # Counted from the end, so that the last point always stays.
  return list(points[::-1][::stride][::-1])


def _scale(source: tuple[Real, Real], target: tuple[Real, Real]):
  span = (source[1] - source[0]) or 1.0
  factor = (target[1] - target[0]) / span
  return lambda value: target[0] + (value - source[0]) * factor


def _cut(bands, x_range) -> list[tuple[Real, Real]]:
  """The parts of the bands that the chart shows."""
  low, high = x_range
  cut = [(max(low, a), high if b is None else min(high, b)) for a, b in bands]
  return [(a, b) for a, b in cut if a <= b]


def _band(left: float, right: float) -> str:
  width = max(2.0, right - left)  # one that has just begun is seen as well
  return (
    f'<rect class="band" x="{right - width:.1f}" y="{TOP}" '
    f'width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
  )


def _grid(x_ticks, y_ticks, x_range, to_x, to_y) -> str:
  parts = []
  for y in y_ticks:
    at = f'{to_y(y):.1f}'
    parts.append(
      f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
      f'y1="{at}" y2="{at}"/>'
      f'<text x="{LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">'
      f'{number(y)}</text>'
    )
  for x in x_ticks:
    if x_range[0] <= x <= x_range[1]:
      parts.append(
        f'<text x="{to_x(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f'{number(x)}</text>'
      )
  return ''.join(parts)


def _line(name, points, index, to_x, to_y) -> str:
  path, pen_down = [], False
  for point in points:
    if not _finite(point):
      pen_down = False
      continue
    x, y = to_x(point[0]), to_y(point[1])
    path.append(f'{"L" if pen_down else "M"}{x:.1f} {y:.1f}')
    pen_down = True
  finite = [p for p in points if _finite(p)]
  if not finite:
    return ''
  x, y = finite[-1]
  label = html.escape(f'{name}: {number(y)} at step {number(x)}')
  return (
    f'<path class="line line-{index}" d="{"".join(path)}"/>'
    f'<circle class="dot line-{index}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" '
    f'r="3"><title>{label}</title></circle>'
  )
