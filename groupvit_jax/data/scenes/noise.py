"""Periodic noise tables with mip levels: what every texture is made of.

Tables are computed once per process and looked up bilinearly, which costs a
tenth of evaluating fractal noise for each scene.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

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


def sample(name: str, u, v, step: float) -> np.ndarray:
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
