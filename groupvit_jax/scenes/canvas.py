"""The patch on which one thing is painted: shapes, patterns and light.

Shapes are signed distances in the thing's own coordinates (about a unit
circle, y down), so that edges are anti-aliased at any size.
"""

import colorsys
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from groupvit_jax.scenes.rng import Rng

Number = float | int
Map = Float[np.ndarray, '...']  # [h, w], or what broadcasts with it
Value = Number | Map
Point = tuple[Number, Number]
Window = tuple[slice, slice]

# Periodic noise tables with mip levels: what every texture is made of.
#
# Tables are computed once per process and looked up bilinearly, which costs a
# tenth of evaluating fractal noise for each scene.

TEXELS = 256
_LEVELS = 7
# Exponent of the spectrum's fall: 'cloud' is smooth, 'grain' almost white.
_FALL = {'cloud': 2.4, 'rough': 1.5, 'grain': 0.4}
_CELLS = 14


def _bits(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Uniform numbers in [0, 1) that belong to a table's name."""
  seed = np.random.SeedSequence(tuple(name.encode()))
  raw = np.random.Philox(seed).random_raw(int(np.prod(shape)))
  return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


def _fractal(name: str) -> np.ndarray:
  """Noise with a power-law spectrum, zero mean and unit variance."""
  phase = np.exp(2j * np.pi * _bits(name, (TEXELS, TEXELS)))
  frequency = np.fft.fftfreq(TEXELS) * TEXELS
  radius = np.hypot(frequency[:, None], frequency[None, :])
  gain = np.where(radius > 0, np.maximum(radius, 1.0) ** -_FALL[name], 0.0)
  table = np.fft.ifft2(phase * gain).real
  return table / table.std()


@functools.cache
def _cells() -> dict[str, np.ndarray]:
  """Cellular noise: distance to the gap, a stone's dome and its number."""
  jitter = _bits('cells', (3, _CELLS, _CELLS))
  y, x = np.mgrid[0:TEXELS, 0:TEXELS] * (_CELLS / TEXELS)
  near = np.full((2, TEXELS, TEXELS), np.inf)
  tone = np.zeros((TEXELS, TEXELS))
  for dy in range(-1, 2):
    for dx in range(-1, 2):
      row, column = np.floor(y) + dy, np.floor(x) + dx
      at = row.astype(int) % _CELLS, column.astype(int) % _CELLS
      distance = np.hypot(
        row + 0.1 + 0.8 * jitter[0][at] - y,
        column + 0.1 + 0.8 * jitter[1][at] - x,
      )
      closer = distance < near[0]
      near[1] = np.where(closer, near[0], np.minimum(near[1], distance))
      near[0] = np.where(closer, distance, near[0])
      tone = np.where(closer, jitter[2][at], tone)
  return {'gap': near[1] - near[0], 'dome': 1 - near[0], 'tone': tone}


def _blades() -> np.ndarray:
  """Blades of grass, dark at the root, thick enough to hide the ground."""
  count, side = 2600, 2 * TEXELS
  lots = _bits('blades', (count, 6))
  plate = Image.new('L', (side, side), 20)
  pen = ImageDraw.Draw(plate)
  for i, (x, y, lean, length, tone, bend) in enumerate(lots.tolist()):
    x, y = x * side, y * side
    angle = (lean - 0.5) * 1.3
    length = 26 + 44 * length
    # Later blades lie on top and catch more light.
    bright = 40 + 130 * tone + 70 * i / count
    reach = 80
    for ox in (0, -side if x > side - reach else side if x < reach else 0):
      for oy in (0, -side if y > side - reach else side if y < reach else 0):
        px, py = x + ox, y + oy
        for part in range(3):
          turn = angle + (bend - 0.5) * 0.9 * part
          qx = px + math.sin(turn) * length / 3
          qy = py - math.cos(turn) * length / 3
          fill = int(bright * (0.62 + 0.19 * part))
          pen.line((px, py, qx, qy), fill=fill, width=(5, 4, 2)[part])
          px, py = qx, qy
  table = np.asarray(plate, np.float64).reshape(TEXELS, 2, TEXELS, 2)
  return table.mean((1, 3)) / 255


@functools.cache
def _levels(name: str) -> tuple[np.ndarray, ...]:
  """A table and its halvings, flattened for `take`."""
  if name in _FALL:
    table = _fractal(name)
  else:
    table = _blades() if name == 'blades' else _cells()[name]
  levels = [table.astype(np.float32)]
  for _ in range(_LEVELS - 1):
    half = levels[-1].shape[0] // 2
    levels.append(levels[-1].reshape(half, 2, half, 2).mean((1, 3)))
  return tuple(np.ascontiguousarray(level).reshape(-1) for level in levels)


def sample(name: str, u: Map, v: Map, step: float) -> np.ndarray:
  """Looks a table up, bilinearly, at the detail that pixels can show.

  Args:
    name: 'cloud', 'rough', 'grain' (zero mean, unit variance) or 'gap',
      'dome', 'tone' (cellular) or 'blades' (of grass), 0 to about 1.
    u: float32 coordinates along rows; the table repeats after 1.
    v: float32 coordinates along columns, broadcastable with `u`.
    step: coordinate distance between neighbouring pixels.

  Returns:
    float32, of the broadcast shape.
  """
  level = int(np.clip(np.rint(np.log2(step * TEXELS + 1e-9)), 0, _LEVELS - 1))
  table, side = _levels(name)[level], TEXELS >> level
  u = u * np.float32(side)
  v = v * np.float32(side)
  column = np.floor(u)
  row = np.floor(v)
  fx, fy = u - column, v - row
  mask = side - 1
  left = column.astype(np.int32) & mask
  top = (row.astype(np.int32) & mask) * side
  right = (left + 1) & mask
  bottom = (top + side) & (side * side - 1)
  upper = table.take(top + left)
  upper += fx * (table.take(top + right) - upper)
  lower = table.take(bottom + left)
  lower += fx * (table.take(bottom + right) - lower)
  lower -= upper
  lower *= fy
  lower += upper
  return lower


@functools.cache
def _white() -> np.ndarray:
  """Nearly normal white noise (a sum of uniforms), for the camera."""
  bits = _bits('white', (4, 512, 512))
  return ((bits.sum(0) - 2.0) * np.sqrt(3.0)).astype(np.float32)


def white(size: int, x: int, y: int) -> np.ndarray:
  """Unit white noise [size, size], cut from a table at offset (x, y)."""
  rows = (np.arange(size) + y) % 512
  columns = (np.arange(size) + x) % 512
  return _white()[rows[:, None], columns[None, :]]


class Pose(NamedTuple):
  """Where a thing stands: image coordinates are 0 to 1, y down."""

  x: float
  y: float
  scale: float  # image lengths per unit of the thing's own coordinates
  angle: float  # radians
  flip: int  # 1, or -1 for the mirror image
  stretch: float  # width over height, about 1


def rgb(hue: Number, saturation: Number, value: Number) -> np.ndarray:
  """float32 [3, 1, 1] colour from hue, saturation and value."""
  colour = colorsys.hsv_to_rgb(
    hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
  )
  return np.array(colour, np.float32).reshape(3, 1, 1)


def blend(first: Value, second: Value, amount: Value) -> np.ndarray:
  """Mixes two colours; `amount` may be a map [h, w]."""
  return first + np.asarray(amount, np.float32) * (second - first)


def smooth(low: Value, high: Value, x: Value) -> np.ndarray:
  """0 below `low`, 1 above `high`, a smooth step between."""
  t = (x - low) * np.float32(1.0 / (high - low))
  t = np.minimum(np.maximum(t, 0.0), 1.0)
  return t * t * (3.0 - 2.0 * t)


def smooth_union(first: Value, second: Value, radius: Number) -> np.ndarray:
  """Union of two distances with a fillet of this radius."""
  h = np.maximum(radius - np.abs(first - second), 0.0) / radius
  return np.minimum(first, second) - h * h * radius * 0.25


class Light(NamedTuple):
  """Direction towards the light in image axes (unit), and its softness."""

  x: float
  y: float
  z: float
  ambient: float


class Canvas:
  """Pixels around one thing.

  Fields: x, y (own coordinates, float32 [h, w]), px (a pixel's width in own
  coordinates), rgb (premultiplied, float32 [3, h, w]), alpha ([h, w]), left,
  top, size_x, size_y (place in the image, output pixels).
  """

  def __init__(
    self, pose: Pose, light: Light, size: int, oversample: int, reach: float
  ):
    self.pose = pose
    self.light = light
    self._oversample = oversample
    span = reach * pose.scale * max(1.0, pose.stretch)
    self.left = max(0, math.floor((pose.x - span) * size))
    self.top = max(0, math.floor((pose.y - span) * size))
    self.size_x = max(
      1, min(size, math.ceil((pose.x + span) * size)) - self.left
    )
    self.size_y = max(
      1, min(size, math.ceil((pose.y + span) * size)) - self.top
    )
    self._per_unit = size * oversample
    columns = np.arange(self.size_x * oversample, dtype=np.float32) + 0.5
    rows = np.arange(self.size_y * oversample, dtype=np.float32) + 0.5
    dx = (columns / oversample + self.left) / size - pose.x
    dy = (rows / oversample + self.top) / size - pose.y
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    across = pose.flip / (pose.scale * pose.stretch)
    dx, dy = dx.astype(np.float32), dy.astype(np.float32)[:, None]
    self.x = dx * np.float32(cos * across) + dy * np.float32(sin * across)
    self.y = dy * np.float32(cos / pose.scale) - dx * np.float32(
      sin / pose.scale
    )
    self.px = 1.0 / (self._per_unit * pose.scale)
    self.rgb = np.zeros((3, *self.x.shape), np.float32)
    self.alpha = np.zeros(self.x.shape, np.float32)

  def window(self, x: Number, y: Number, radius: Number) -> Window:
    """Pixels that hold the circle (x, y, radius): a part needs no others."""
    pose = self.pose
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    dx, dy = pose.flip * pose.stretch * pose.scale * x, pose.scale * y
    centre_x = (pose.x + cos * dx - sin * dy) * self._per_unit
    centre_y = (pose.y + sin * dx + cos * dy) * self._per_unit
    reach = radius * pose.scale * max(1.0, pose.stretch) * self._per_unit + 2
    column = centre_x - self.left * self._oversample
    row = centre_y - self.top * self._oversample
    return (
      slice(max(0, int(row - reach)), max(0, int(row + reach) + 1)),
      slice(max(0, int(column - reach)), max(0, int(column + reach) + 1)),
    )

  def noise(
    self, name: str, scale: Number, rng: Rng, stretch: Number = 1.0
  ) -> np.ndarray:
    """A noise table in own coordinates; `scale` is repeats per unit."""
    u = self.x * np.float32(scale) + np.float32(rng.unit())
    v = self.y * np.float32(scale * stretch) + np.float32(rng.unit())
    return sample(name, u, v, self.px * scale * max(1.0, stretch))

  def cover(self, distance: Map) -> np.ndarray:
    """Share of each pixel inside the shape, 0 to 1."""
    cover = 0.5 - distance * np.float32(1.0 / self.px)
    return np.minimum(np.maximum(cover, 0.0), 1.0)

  def paint(
    self,
    distance: Map,
    colour: Value,
    window: Window = np.s_[:, :],
    opacity: Number = 1.0,
  ) -> np.ndarray:
    """Paints a shape over what is there; returns its cover."""
    cover = self.cover(distance)
    if opacity != 1.0:
      cover *= np.float32(opacity)
    under = self.rgb[:, *window]
    under += cover * (colour - under)
    alpha = self.alpha[window]
    alpha += cover * (1.0 - alpha)
    return cover

  def mark(
    self,
    distance: Map,
    colour: Value,
    window: Window = np.s_[:, :],
    opacity: Number = 1.0,
  ) -> None:
    """Paints a pattern on what is there, never beyond its edge."""
    self.tint(self.cover(distance) * np.float32(opacity), colour, window)

  def tint(
    self,
    amount: Value,
    colour: Value,
    window: Window = np.s_[:, :],
  ) -> None:
    """Moves colours towards `colour` by `amount` (a map), inside only."""
    under = self.rgb[:, *window]
    under += amount * (colour * self.alpha[window] - under)

  def shade(self, factor: Value, window: Window = np.s_[:, :]) -> None:
    """Multiplies brightness by a map."""
    self.rgb[:, *window] *= factor

  def relief(self, height: Map, shine: Number = 0.0) -> None:
    """Lights the surface as if raised by `height` (own units).

    Lambert's cosine, scaled so that flat stays as it is, and a highlight of
    strength `shine`.
    """
    slope = np.float32(0.5 / self.px)
    dx, dy = np.zeros_like(height), np.zeros_like(height)
    dx[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * slope
    dy[1:-1] = (height[2:] - height[:-2]) * slope
    light = self.light
    norm = 1.0 / np.sqrt(1.0 + dx * dx + dy * dy)
    cosine = (light.z - light.x * dx - light.y * dy) * norm
    np.maximum(cosine, 0.0, out=cosine)
    factor = cosine * np.float32((1 - light.ambient) / light.z)
    self.shade(factor + np.float32(light.ambient))
    if shine:
      # Half-way vector between the light and the viewer above (Blinn).
      half = math.sqrt(2 + 2 * light.z)
      facing = (light.z + 1 - light.x * dx - light.y * dy) * norm * (1 / half)
      spot = np.maximum(facing, 0.0)
      spot *= spot
      spot *= spot
      spot *= spot
      spot *= spot
      self.tint(np.minimum(spot * spot * np.float32(shine), 1.0), 1.0)

  # Parts that know their own extent, so that small ones are cheap.

  def disc(
    self,
    x: Number,
    y: Number,
    radius: Number,
    colour: Value,
    on: bool = False,
  ) -> None:
    """A filled circle; `on=True` keeps it inside what is there."""
    window = self.window(x, y, radius)
    distance = np.hypot(self.x[window] - x, self.y[window] - y) - radius
    (self.mark if on else self.paint)(distance, colour, window)

  def ellipse(
    self,
    centre: Point,
    axes: Point,
    turn: Number,
    colour: Value,
    on: bool = False,
    opacity: Number = 1.0,
  ) -> None:
    """A filled ellipse with half axes `axes`, turned by `turn` radians."""
    window = self.window(*centre, max(axes))
    distance = ellipse(self.x[window], self.y[window], *centre, *axes, turn)
    (self.mark if on else self.paint)(distance, colour, window, opacity)

  def stroke(
    self,
    points: Sequence[Point],
    radius: Number,
    colour: Value,
    on: bool = False,
    taper: Number = 1.0,
  ) -> None:
    """A line through points, its radius falling to `taper` of itself."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    middle = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    reach = math.hypot(max(xs) - min(xs), max(ys) - min(ys)) / 2 + radius
    window = self.window(*middle, reach)
    x, y = self.x[window], self.y[window]
    pieces = len(points) - 1
    ends = [radius * (1 + (taper - 1) * i / pieces) for i in range(pieces + 1)]
    distance = functools.reduce(
      np.minimum,
      (
        capsule(x, y, points[i], points[i + 1], ends[i], ends[i + 1])
        for i in range(pieces)
      ),
    )
    (self.mark if on else self.paint)(distance, colour, window)

  def convex(
    self,
    points: Sequence[Point],
    colour: Value,
    on: bool = False,
    radius: Number = 0.0,
    opacity: Number = 1.0,
  ) -> None:
    """A convex polygon, corners rounded by `radius`."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    middle = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    reach = max(math.hypot(a - middle[0], b - middle[1]) for a, b in points)
    window = self.window(*middle, reach + radius)
    distance = convex(self.x[window], self.y[window], points) - radius
    (self.mark if on else self.paint)(distance, colour, window, opacity)

  def downsample(self) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colours [3, h, w] and alpha [h, w] in output pixels."""
    k = self._oversample
    if k == 1:
      return self.rgb, self.alpha
    # Summing k * k slices is four times faster than a mean over new axes.
    parts = [np.s_[i::k, j::k] for i in range(k) for j in range(k)]
    share = np.float32(1 / (k * k))
    return (
      functools.reduce(np.add, (self.rgb[:, *p] for p in parts)) * share,
      functools.reduce(np.add, (self.alpha[p] for p in parts)) * share,
    )


def ellipse(
  x: Map,
  y: Map,
  cx: Number,
  cy: Number,
  a: Number,
  b: Number,
  turn: Number = 0.0,
) -> np.ndarray:
  """Distance to an ellipse, exact to first order at its edge."""
  cos, sin = math.cos(turn), math.sin(turn)
  dx, dy = x - np.float32(cx), y - np.float32(cy)
  u = (dx * np.float32(cos) + dy * np.float32(sin)) * np.float32(1 / a)
  v = (dy * np.float32(cos) - dx * np.float32(sin)) * np.float32(1 / b)
  k = np.hypot(u, v)
  slope = np.hypot(u * np.float32(1 / a), v * np.float32(1 / b))
  return k * (k - 1.0) / (slope + np.float32(1e-6))


def capsule(
  x: Map, y: Map, start: Point, end: Point, radius: Number, end_radius: Number
) -> np.ndarray:
  """Distance to a segment with a radius at either end."""
  dx, dy = end[0] - start[0], end[1] - start[1]
  px, py = x - np.float32(start[0]), y - np.float32(start[1])
  length = dx * dx + dy * dy + 1e-9
  t = np.clip(px * np.float32(dx / length) + py * np.float32(dy / length), 0, 1)
  distance = np.hypot(px - t * np.float32(dx), py - t * np.float32(dy))
  return distance - (np.float32(radius) + t * np.float32(end_radius - radius))


def convex(x: Map, y: Map, points: Sequence[Point]) -> np.ndarray:
  """Distance (inside exact) to a convex polygon given in either sense."""
  count = len(points)
  area = sum(
    points[i - 1][0] * points[i][1] - points[i][0] * points[i - 1][1]
    for i in range(count)
  )
  sign = 1.0 if area > 0 else -1.0
  sides = []
  for i in range(count):
    (ax, ay), (bx, by) = points[i - 1], points[i]
    length = math.hypot(bx - ax, by - ay) + 1e-9
    nx, ny = sign * (by - ay) / length, -sign * (bx - ax) / length
    side = x * np.float32(nx) + y * np.float32(ny)
    sides.append(side - np.float32(ax * nx + ay * ny))
  return functools.reduce(np.maximum, sides)


def dome(distance: Map, width: Number, depth: Number) -> np.ndarray:
  """Height of a cushion `depth` high that is flat `width` inside its edge."""
  t = np.clip(distance * np.float32(-1.0 / width), 0.0, 1.0)
  return np.sqrt(t * (2.0 - t)) * np.float32(depth)


def lens(x: Map, y: Map, start: Point, end: Point, width: Number) -> np.ndarray:
  """Distance to a lens (two arcs) from `start` to `end`."""
  dx, dy = end[0] - start[0], end[1] - start[1]
  half = math.hypot(dx, dy) / 2
  ux, uy = dx / (2 * half), dy / (2 * half)
  mx, my = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
  along = (x - mx) * np.float32(ux) + (y - my) * np.float32(uy)
  across = np.abs((y - my) * np.float32(ux) - (x - mx) * np.float32(uy))
  radius = (half * half + width * width) / (2 * width)
  return np.hypot(along, across + np.float32(radius - width)) - np.float32(
    radius
  )
