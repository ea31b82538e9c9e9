"""Sizes of images at inference: a few padded shapes for all of them.

An image is scaled by its shorter side, cut into windows if asked for, and put
into the top left corner of a padded shape, so that few shapes are compiled.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from groupvit_jax import sharding
from groupvit_jax.errors import ImageError
from groupvit_jax.evaluation import resize
from groupvit_jax.evaluation.config import SegmentConfig

# The longer side of a padded shape in 28ths of the shorter one: 38 fits images
# of 4:3, 43 of 3:2, 50 of 16:9, and 128 is the released limit, 2048 : 448.
LONG_SIDES = (28, 32, 38, 43, 50, 64, 96, 128)
_UNIT = 28

# Padded shapes of outputs, in sizes of the scaled image's.
OUTPUT_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)

# At 448 px (784 tokens) the released network takes 206 ms for an image alone
# and 344 ms an image in a batch of 8, whose attention leaves the caches; at
# 224 px (196 tokens) 76 and 63 ms (2 cores; benchmarks/RESULTS.md).
_CPU_PAIRS = 700_000  # of tokens that attend to each other
# Output pixels that are labelled together on a CPU: more gain nothing, and the
# padding of a last batch is labelled too.
_CPU_PIXELS = 2**20

Size = tuple[int, int]  # (h, w) in pixels
Window = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclasses.dataclass(frozen=True)
class Plan:
  """How images become inputs; in pixels, all resolved.

  Attributes:
    short_side, long_side: an image is scaled until its shorter side is the
      one, or its longer the other, whichever comes first.
    window, stride: of the windows; None for whole images.
    patch_size: side of a token.
  """

  short_side: int
  long_side: int
  window: int | None
  stride: int | None
  patch_size: int


def plan(config: SegmentConfig, short_side: int, patch_size: int) -> Plan:
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


def scaled_size(size: Size, plan: Plan, name: str = 'the image') -> Size:
  """The (h, w) at which the network sees an image (as mmcv rounds it).

  Raises:
    ImageError: the image is so long and thin that, scaled, it has no room for
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


def windows(size: Size, plan: Plan) -> list[Window]:
  """Windows over a scaled image.

  As mmsegmentation lays them: in steps of the stride, the last one shifted
  inward; an image smaller than a window is its own.
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


class Shapes(NamedTuple):
  """The static shapes that an image needs, all (h, w) in pixels.

  Images of one key go through the same compiled programs; there are few keys,
  whatever the sizes of the images.

  Attributes:
    window: what the network sees at a time.
    full: whether every window fills it, so that nothing is masked.
    count: windows of an image.
    scaled: holds the scaled image.
  """

  window: Size
  full: bool
  count: int
  scaled: Size


def padded_window(size: Size, plan: Plan) -> Size:
  """The smallest padded shape that holds a window or whole scaled image."""
  patch = plan.patch_size
  short = math.ceil((plan.window or plan.short_side) / patch)
  if plan.window:
    return short * patch, short * patch
  largest = math.ceil(plan.long_side / patch)
  sides = [min(math.ceil(short * long / _UNIT), largest) for long in LONG_SIDES]
  sides.append(largest)
  long = next(side for side in sides if side * patch >= max(size))
  if size[0] > size[1]:
    return long * patch, short * patch
  return short * patch, long * patch


def shapes(scaled: Size, plan: Plan) -> Shapes:
  """The padded shapes for a scaled image and its windows.

  With windows, `Shapes.scaled` holds the largest image that as many of them
  cover: then one shape goes with one number of windows.
  """
  places = windows(scaled, plan)
  window = padded_window(places[0][2:], plan)
  whole = window
  if plan.window and plan.stride:
    down, across = (len({place[i] for place in places}) for i in (0, 1))
    whole = (
      plan.window + (down - 1) * plan.stride,
      plan.window + (across - 1) * plan.stride,
    )
  return Shapes(window, places[0][2:] == window, len(places), whole)


def output_shape(size: Size, scaled: Size) -> Size:
  """A padded shape for the labels of an image.

  The image and its scaled form have one aspect ratio, so that few multiples of
  the one's padded shape serve as the other's: a new size adds no shape unless
  the image is larger than those before.
  """
  needed = max(new / old for new, old in zip(size, scaled, strict=True))
  factor = next((f for f in OUTPUT_FACTORS if f >= needed), None)
  if factor is None:
    factor = 2.0 ** math.ceil(math.log2(needed))
  height, width = (math.ceil(factor * side) for side in scaled)
  return height, width


@dataclasses.dataclass(frozen=True)
class InputImage:
  """An image that is ready for the network.

  Attributes:
    scaled: its pixels as the network sees them.
    windows: over `scaled`.
    shapes: the padded shapes that it needs.
  """

  scaled: UInt8[np.ndarray, 'H W 3']
  windows: Sequence[Window]
  shapes: Shapes


def prepare(
  image: UInt8[np.ndarray, 'h w 3'], plan: Plan, name: str = 'the image'
) -> InputImage:
  """Scales an image and lays its windows; ImageError if it is too thin."""
  size = scaled_size(image.shape[:2], plan, name)
  return InputImage(
    resize.resize_image(image, size), windows(size, plan), shapes(size, plan)
  )


def pad_images(
  images: Sequence[UInt8[np.ndarray, '_h _w 3']], shape: Size, count: int
) -> UInt8[np.ndarray, 'b H W 3']:
  """Images in the top left corners of `count` padded ones, the rest black."""
  out = np.zeros((count, *shape, 3), np.uint8)
  for place, image in zip(out, images, strict=False):
    place[: image.shape[0], : image.shape[1]] = image
  return out


def bucket(count: int, smallest: int = 1) -> int:
  """The next power of two, at least `smallest`."""
  return max(smallest, 1 << max(count - 1, 0).bit_length())


def at_a_time(
  window: Size, patch_size: int, most: int, output: Size = (1, 1)
) -> int:
  """How many images of a padded shape go together, at most `most`.

  On a CPU, few enough that their attention stays in its caches.

  Args:
    window: what the network sees.
    patch_size: side of a token.
    most: what is asked for.
    output: padded shape at which each is labelled.
  """
  if sharding.platform() != 'cpu':
    return most
  tokens = (window[0] // patch_size) * (window[1] // patch_size)
  pixels = output[0] * output[1]
  return max(1, min(most, _CPU_PAIRS // tokens**2, _CPU_PIXELS // pixels))
