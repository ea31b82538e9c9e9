"""Scores of whole pictures from those of their windows, on the device.

A window tells the group of each of its pixels and a score per group and class;
where windows overlap, scores are averaged.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from groupvit_jax.errors import ImageError
from groupvit_jax.evaluation import resize, segmentation

# Windows whose steps stand one after the other in the program, where XLA joins
# them; published protocols have fewer. More of them, as a small stride makes,
# are a loop of so many at a time: else compiling takes minutes.
_AT_A_TIME = 8


class Windows(NamedTuple):
  """What the network said of the n windows of b pictures.

  Attributes:
    pixels: groups n b h w, or their shares n b h w g.
    scores: b n g c, without the background.
    places: int32 b n 4: top, left, height and width in the scaled picture.
  """

  pixels: Any
  scores: Any
  places: Any


def scan(
  step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, windows: Any
) -> tuple[Any, Any]:
  """`jax.lax.scan` over windows: of usual many, no loop is left.

  Args:
    step: from what is carried and one window to the same and a result.
    carry: what is carried.
    windows: arrays whose first axis are the windows.

  Returns:
    What is carried in the end, and all results.
  """
  return jax.lax.scan(step, carry, windows, unroll=_AT_A_TIME)


def kept_classes(
  scores: Float[Array, 'b n g c'], top_k: int | None, floor: float
) -> Int[Array, 'b m']:
  """The classes that any window of a picture lets through, in their order.

  Of 171 classes and two windows the gate leaves ten: nothing of pixels times
  classes is then made of the rest. The first two classes always stay, since
  equals go to the first (of all, and of those that are not the background).

  Args:
    scores: of every group; `floor` for classes that did not pass.
    top_k: of the gate; None keeps every class.
    floor: see `scoring.group_scores`.

  Returns:
    Class indices, ascending; c where there are fewer than m.
  """
  windows, classes = scores.shape[1], scores.shape[3]
  every = jnp.arange(classes)
  if top_k is None or top_k * windows + 2 >= classes:
    return jnp.broadcast_to(every, (scores.shape[0], classes))
  passed = (scores > floor).any((1, 2)) | (every < 2)
  return jnp.sort(jnp.where(passed, every, classes))[:, : top_k * windows + 2]


def take_classes(
  tables: Float[Array, 'b n g c'], kept: Int[Array, 'b m'], floor: float
) -> Float[Array, 'b n g m']:
  """The columns of the kept classes; `floor` where there is none."""
  padded = jnp.pad(tables, ((0, 0),) * 3 + ((0, 1),), constant_values=floor)
  return jnp.take_along_axis(padded, kept[:, None, None, :], axis=-1)


def backgrounds(
  scores: Float[Array, 'b n g c'], config: segmentation.SegmentConfig
) -> Float[Array, 'b n g 1']:
  """The background's scores, by every window's own limit."""
  # Before any class is left out: the limit may depend on all of them.
  add = jax.vmap(lambda scores: segmentation.with_background(scores, config))
  return add(scores)[..., :1]


def on_canvas(
  window: Array, places: Int[Array, 'b 4'], canvas: tuple[int, int]
) -> tuple[Array, Bool[Array, 'b H W']]:
  """A window's pixels where they lie in the scaled picture.

  Args:
    window: b h w or b h w g.
    places: of the window in each picture.
    canvas: (H, W) that holds every scaled picture.

  Returns:
    Its pixels (anything outside of it), and where it is.
  """
  top, left, height, width = places.T
  y = jnp.arange(canvas[0]) - top[:, None]
  x = jnp.arange(canvas[1]) - left[:, None]
  inside = ((y >= 0) & (y < height[:, None]))[:, :, None] & (
    (x >= 0) & (x < width[:, None])
  )[:, None, :]
  limits = window.shape[1] - 1, window.shape[2] - 1
  pixels = jax.vmap(lambda pixels, y, x: pixels[y][:, x])(
    window, jnp.clip(y, 0, limits[0]), jnp.clip(x, 0, limits[1])
  )
  return pixels, inside


def mean_scores(
  windows: Windows,
  tables: Float[Array, 'b n g m'],
  canvas: tuple[int, int],
  config: segmentation.SegmentConfig,
) -> Float[Array, 'b H W k']:
  """Scores of every pixel of the scaled pictures, averaged over windows.

  Args:
    windows: of each picture.
    tables: their groups' scores; with soft maps and a threshold, without the
      background, which is then decided pixel by pixel.
    canvas: (H, W) that holds every scaled picture.
    config: see `segmentation.SegmentConfig`.

  Returns:
    Scores, zero beyond a picture; with soft maps and a threshold, k counts the
    background too.
  """

  def values(window):
    pixels, inside = on_canvas(window.pixels, window.places, canvas)
    found = _values(pixels, window.tables, window.scores, config)
    return jnp.where(inside[..., None], found, 0), inside

  def step(carry, window):
    found, inside = values(window)
    total, count = carry
    return (total + found, count + inside.astype(jnp.float32)), None

  each = _Each(
    windows.pixels,
    *(jnp.moveaxis(x, 1, 0) for x in (windows.places, windows.scores, tables)),
  )
  first = jax.eval_shape(values, jax.tree.map(lambda x: x[0], each))
  zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in first)
  (total, count), _ = scan(step, zeros, each)
  return total / jnp.maximum(count, 1)[..., None]


class _Each(NamedTuple):
  """What a step takes; the first axis are the windows."""

  pixels: Any
  places: Any
  scores: Any
  tables: Any


def _values(pixels, table, scores, config):
  if pixels.ndim == 3:
    return resize.take_groups(table, pixels.astype(jnp.int32))
  values = jnp.einsum(
    'bhwg,bgc->bhwc', pixels, table, precision=jax.lax.Precision.HIGHEST
  )
  if config.one_hot or config.background_threshold is None:
    return values
  limit = segmentation.background_limit(scores, config)
  return segmentation.with_background(values, config, limit)


# Sizes of pictures at inference: a few static canvases for all of them.
#
# A picture is scaled by its shorter side, cut into windows if asked for, and
# put into the top left corner of a canvas, so that few shapes are ever
# compiled.

# The longer side of a canvas in 28ths of the shorter one: 38 fits pictures of
# 4:3, 43 of 3:2, 50 of 16:9, and 128 is the released limit, 2048 : 448.
LONG_SIDES = (28, 32, 38, 43, 50, 64, 96, 128)
_UNIT = 28

# At 448 px (784 tokens) the released network takes 206 ms for a picture alone
# and 344 ms a picture in a batch of 8, whose attention leaves the caches; at
# 224 px (196 tokens) 76 and 63 ms (2 cores; benchmarks/RESULTS.md).
_CPU_PAIRS = 700_000  # of tokens that attend to each other
# Pixels of truth that are scored together on a CPU: nothing is gained by more,
# and what fills up the last batch of a shape is scored too.
_CPU_PIXELS = 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
  """How pictures become inputs: pixels, all resolved.

  Attributes:
    short_side, long_side: a picture is scaled until its shorter side is the
      one, or its longer the other, whichever comes first.
    window, stride: of the windows; None for whole pictures.
    patch_size: side of a token.
  """

  short_side: int
  long_side: int
  window: int | None
  stride: int | None
  patch_size: int


def plan(
  config: segmentation.SegmentConfig, short_side: int, patch_size: int
) -> Plan:
  """Fills in what a config leaves to the model.

  Args:
    config: see `SegmentConfig`.
    short_side: the model's own.
    patch_size: the model's.

  Returns:
    The plan. Where only the shorter side is given, longer side, window and
    stride follow it in the released proportions (2048, 448, 224 to 448).

  Raises:
    ValueError: a side without room for a token, or a stride that skips pixels.
  """
  short = config.short_side or short_side
  long = config.long_side or round(short * LONG_SIDES[-1] / _UNIT)
  window = stride = None
  if config.mode == 'slide':
    window = config.window or short
    stride = config.stride or max(1, window // 2)
    if stride > window:
      raise ValueError(
        f'A stride of {stride} skips pixels between windows of {window}; give '
        'a stride of at most the window.'
      )
  sides = {'short_side': short, 'long_side': long, 'window': window}
  for name, side in sides.items():
    if side is not None and side < patch_size:
      raise ValueError(
        f'{name}={side} is less than one patch of {patch_size} pixels.'
      )
  if long < short:
    raise ValueError(f'long_side={long} is less than short_side={short}.')
  return Plan(short, long, window, stride, patch_size)


def scaled_size(
  size: tuple[int, int], plan: Plan, name: str = 'the picture'
) -> tuple[int, int]:
  """The (h, w) at which the network sees a picture (as mmcv rounds it).

  Raises:
    ImageError: the picture is so long and thin that, scaled, it has no room for
      a token.
  """
  scale = min(plan.short_side / min(size), plan.long_side / max(size))
  height, width = (int(side * scale + 0.5) for side in size)
  if min(height, width) < plan.patch_size:
    raise ImageError(
      f'{name} is {size[1]:,} x {size[0]:,} pixels: too long and thin to '
      'segment; crop it into parts first.'
    )
  return height, width


def canvas(size: tuple[int, int], plan: Plan) -> tuple[int, int]:
  """The smallest canvas (h, w) in pixels that holds a scaled picture."""
  patch = plan.patch_size
  basis = plan.window or plan.short_side
  short = math.ceil(basis / patch)
  if plan.window:
    return short * patch, short * patch
  largest = math.ceil(plan.long_side / patch)
  sides = [min(math.ceil(short * long / _UNIT), largest) for long in LONG_SIDES]
  sides.append(largest)
  long = next(side for side in sides if side * patch >= max(size))
  if size[0] > size[1]:
    return long * patch, short * patch
  return short * patch, long * patch


def windows(
  size: tuple[int, int], plan: Plan
) -> list[tuple[int, int, int, int]]:
  """Windows (top, left, height, width) over a scaled picture.

  As mmsegmentation lays them: in steps of the stride, the last one shifted
  inward; a picture smaller than a window is its own.
  """
  if not plan.window:
    return [(0, 0, *size)]
  tops, lefts = (_starts(side, plan.window, plan.stride) for side in size)
  height, width = (min(side, plan.window) for side in size)
  return [(top, left, height, width) for top in tops for left in lefts]


def _starts(side, window, stride):
  """Where windows begin along one side."""
  steps = max(side - window + stride - 1, 0) // stride + 1
  return [max(min(i * stride, side - window), 0) for i in range(steps)]


def at_a_time(
  canvas: tuple[int, int],
  patch_size: int,
  most: int,
  truth: tuple[int, int] = (1, 1),
) -> int:
  """How many pictures on a canvas go together, at most `most`.

  On a CPU, few enough that their attention stays in its caches.

  Args:
    canvas: (h, w) in pixels, what the network sees.
    patch_size: side of a token.
    most: what is asked for.
    truth: (h, w) of the canvas on which each is scored.
  """
  if jax.default_backend() != 'cpu':
    return most
  tokens = (canvas[0] // patch_size) * (canvas[1] // patch_size)
  pixels = truth[0] * truth[1]
  return max(1, min(most, _CPU_PAIRS // tokens**2, _CPU_PIXELS // pixels))


def resize_image(
  image: UInt8[np.ndarray, 'h w 3'], size: tuple[int, int]
) -> UInt8[np.ndarray, 'H W 3']:
  """Bilinear without antialiasing, in OpenCV's arithmetic.

  The released pipeline scales pictures by `cv2.resize`, which reads the four
  nearest pixels and rounds weights to 1/2048 (OpenCV, resize.cpp, INTER_LINEAR
  of 8-bit pixels); antialiasing changes what the network sees.
  """
  if image.shape[:2] == tuple(size):
    return image
  top, bottom, down = _taps(image.shape[0], size[0])
  left, right, across = _taps(image.shape[1], size[1])
  across = across[:, None]

  def row(index):
    # The needed rows first: a photo has many more than are looked at.
    rows = image[index]
    first, second = rows[:, left], rows[:, right]
    mixed = first * (2048 - across) + second * across  # int32
    return mixed >> 4

  down = down[:, None, None]
  upper = (row(top) * (2048 - down)) >> 16
  lower = (row(bottom) * down) >> 16
  return ((upper + lower + 2) >> 2).astype(np.uint8)


def _taps(old, new):
  """Both neighbours of each new pixel, and the second's weight in 2048ths."""
  place = (np.arange(new) + 0.5) * (old / new) - 0.5
  place = place.astype(np.float32).clip(0, old - 1)
  first = np.floor(place).astype(np.int32)
  weight = np.rint((place - first) * 2048).astype(np.int32)
  return first, np.minimum(first + 1, old - 1), weight


def paste(
  pictures: Sequence[UInt8[np.ndarray, '_h _w 3']],
  canvas: tuple[int, int],
  count: int,
) -> UInt8[np.ndarray, 'b H W 3']:
  """Pictures in the top left corners of `count` canvases, the rest black."""
  out = np.zeros((count, *canvas, 3), np.uint8)
  for place, picture in zip(out, pictures, strict=False):
    place[: picture.shape[0], : picture.shape[1]] = picture
  return out


def bucket(count: int, smallest: int = 1) -> int:
  """The next power of two, at least `smallest`."""
  return max(smallest, 1 << max(count - 1, 0).bit_length())


def batches(keys: Sequence, batch_size: int) -> Iterator[tuple[object, list]]:
  """Splits positions into batches of one key each, in order of appearance.

  Args:
    keys: a hashable per item (its canvas).
    batch_size: the most that go together.

  Yields:
    (key, positions of at most `batch_size` items that have it).
  """
  together = {}
  for i, key in enumerate(keys):
    together.setdefault(key, []).append(i)
  for key, places in together.items():
    for start in range(0, len(places), batch_size):
      yield key, places[start : start + batch_size]


# Static shapes for scaled pictures with their windows, and for their truth.

# Sizes of the truth's canvas in those of the scaled picture's.
TRUTH_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


def window_grid(size: tuple[int, int], plan: Plan) -> tuple[int, int]:
  """How many windows lie over a scaled picture, down and across."""
  if not plan.window:
    return 1, 1
  down, across = (
    len({window[i] for window in windows(size, plan)}) for i in (0, 1)
  )
  return down, across


def field_canvas(size: tuple[int, int], plan: Plan) -> tuple[int, int]:
  """A canvas for a scaled picture and all of its windows.

  With windows, the largest picture that as many of them cover: then one shape
  goes with one number of windows.
  """
  if not plan.window:
    return canvas(size, plan)
  height, width = (
    plan.window + (count - 1) * plan.stride for count in window_grid(size, plan)
  )
  return height, width


def truth_canvas(
  size: tuple[int, int], field: tuple[int, int]
) -> tuple[int, int]:
  """A canvas for the truth of a picture whose scaled form goes on `field`.

  Both have one aspect ratio, so that few multiples of the one serve as the
  other: a new size adds no shape unless the picture is larger than those seen.
  """
  needed = max(new / old for new, old in zip(size, field, strict=True))
  factor = next((f for f in TRUTH_FACTORS if f >= needed), None)
  if factor is None:
    factor = 2.0 ** math.ceil(math.log2(needed))
  height, width = (math.ceil(factor * side) for side in field)
  return height, width
