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


# The style sheet of the report page, for light and dark, wide and narrow.
#
# A Python string rather than a file beside it: it needs no package data, and
# the page that holds it opens from anywhere.

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1d2125; --soft: #5c646d;
  --rule: #e3e1dc; --accent: #1d6fb8; --wrong: #b3261e; --track: #e9e7e2;
  --line-0: #1d6fb8; --line-1: #c2571a; --line-2: #2c8656; --line-3: #8650b5;
  --line-4: #a8791b; --line-5: #b8417d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181b; --card: #1d2125; --ink: #e8e6e2; --soft: #a3abb3;
    --rule: #31373d; --accent: #6db1ee; --wrong: #ff9a91; --track: #31373d;
    --line-0: #6db1ee; --line-1: #f0975f; --line-2: #6fca97;
    --line-3: #c09be8; --line-4: #ddb45a; --line-5: #ee8dbd;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans',
    sans-serif;
}
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 40px; }
footer { padding-top: 12px; padding-bottom: 48px; color: var(--soft);
  font-size: 14px; }
h1 { font-size: clamp(26px, 4vw, 36px); line-height: 1.2; margin: 0 0 6px;
  letter-spacing: -0.015em; text-wrap: balance; }
h2 { font-size: 22px; margin: 56px 0 4px; letter-spacing: -0.01em; }
h3 { font-size: 15px; margin: 0 0 6px; font-weight: 600; }
p { margin: 0 0 14px; max-width: 72ch; text-wrap: pretty; }
.soft { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 14px 0 26px;
  font-size: 15px; }
a { color: var(--accent); text-underline-offset: 3px; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px; }
.card { background: var(--card); border: 1px solid var(--rule);
  border-radius: 12px; padding: 16px; }

.tiles { display: grid; gap: 12px; padding: 0; margin: 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tiles .name { font-size: 14px; color: var(--soft); }
.tiles .figure { font-size: 34px; font-weight: 650; line-height: 1.25;
  letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.tiles .figure small { font-size: 17px; font-weight: 500; color: var(--soft);
  letter-spacing: 0; margin-left: 2px; }
.tiles .beside { font-size: 14px; color: var(--soft); }
.meter { position: relative; height: 6px; border-radius: 3px; margin: 8px 0;
  background: var(--track); }
.meter span { position: absolute; inset: 0 auto 0 0; border-radius: 3px;
  background: var(--accent); }
.meter i { position: absolute; top: -3px; bottom: -3px; width: 2px;
  margin-left: -1px; background: var(--ink); }
.facts { display: flex; flex-wrap: wrap; gap: 4px 26px; margin: 16px 0 0;
  padding: 0; list-style: none; color: var(--soft); font-size: 15px; }
.facts b { color: var(--ink); font-weight: 600;
  font-variant-numeric: tabular-nums; }
.notes { margin: 20px 0 0; border-left: 4px solid var(--accent); }
.alarm { border-left-color: var(--wrong); margin: 0 0 20px; }
.alarm b { color: var(--wrong); }
.notes p:last-child { margin-bottom: 0; }

.chips { display: flex; flex-wrap: wrap; gap: 3px 10px; margin: 6px 0 0;
  padding: 0; list-style: none; font-size: 13px; line-height: 1.4; }
.chips li { display: flex; align-items: center; gap: 5px; }
.swatch { width: 11px; height: 11px; border-radius: 3px; flex: none;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / .4); }
.chips .wrong { color: var(--wrong); }
.legend { margin: 12px 0 18px; font-size: 14px; gap: 5px 16px; }

.picture { margin: 0 0 14px; }
.picture .views { display: grid; gap: 12px;
  grid-template-columns: repeat(var(--views), minmax(0, 1fr)); }
.picture .said { margin: 0 0 10px; max-width: none; }
.picture .said::before { content: '\\201C'; }
.picture .said::after { content: '\\201D'; }
figure { margin: 0; }
figcaption { font-size: 13px; margin-top: 6px; }
figcaption b { font-weight: 600; }
img { display: block; width: 100%; height: auto; border-radius: 6px;
  image-rendering: pixelated; background: var(--track); }

.scroll { overflow-x: auto; }
.forming { border-collapse: separate; border-spacing: 8px 6px; }
.forming th { font-size: 13px; font-weight: 600; text-align: left;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
.forming thead th { color: var(--soft); font-weight: 500; }
.forming tbody th { position: sticky; left: 0; background: var(--card);
  padding-right: 8px; white-space: normal; width: 84px; min-width: 84px; }
.forming td { padding: 0; vertical-align: top; font-size: 12px; }
.forming img { width: 104px; }

.bars { columns: 2; column-gap: 40px; margin: 12px 0 0; list-style: none; }
.bars li { display: grid; grid-template-columns: 9ch 1fr 5ch; gap: 10px;
  align-items: center; break-inside: avoid; padding: 3px 0; font-size: 15px; }
.bars .name { overflow-wrap: anywhere; line-height: 1.2; }
.bars .meter { height: 12px; margin: 0; border-radius: 3px; }
.bars .meter span { background: var(--colour, var(--accent)); }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; }

.charts { display: grid; gap: 12px; margin-top: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
.charts svg { display: block; width: 100%; height: auto; }
.charts text { font-size: 11px; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); stroke-width: 1; }
.band { fill: var(--wrong); opacity: .14; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.hint { font-size: 13px; margin: 8px 0 0; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 4px 0 0;
  padding: 0; list-style: none; font-size: 13px; color: var(--soft); }
.keys li::before { content: ''; display: inline-block; width: 14px; height: 3px;
  border-radius: 2px; margin-right: 6px; vertical-align: middle;
  background: var(--key); }
.keys b { color: var(--ink); font-weight: 600;
  font-variant-numeric: tabular-nums; }

details { margin-top: 12px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; margin: 12px 0 0; font: 13px/1.5 ui-monospace,
  SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }
.table { border-collapse: collapse; font-size: 15px; margin-top: 12px; }
.table th { text-align: left; font-weight: 500; color: var(--soft);
  padding: 3px 24px 3px 0; vertical-align: top; }
.table td { padding: 3px 24px 3px 0; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }

@media (max-width: 720px) {
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  h2 { margin-top: 40px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tiles .figure { font-size: 27px; }
  .card { padding: 12px; }
  .picture .views { grid-template-columns: repeat(3, minmax(0, 1fr));
    gap: 12px 8px; }
  .picture figcaption, .chips { font-size: 12px; }
  .bars { columns: 1; }
  .forming img { width: 88px; }
}
@media print {
  .card, .picture { break-inside: avoid; }
  nav { display: none; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
""" + ''.join(
  f'path.line-{i} {{ stroke: var(--line-{i}); }}\n'
  f'circle.line-{i} {{ fill: var(--line-{i}); }}\n'
  for i in range(6)
)
