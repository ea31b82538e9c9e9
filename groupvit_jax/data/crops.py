"""Crops of encoded images, at the least work: the hot loop of training input.

With simplejpeg and cykooz_resizer (extra `train`) it takes less time than with
Pillow alone: JPEGs decode to the same pixels, resized ones differ by one level.
"""

import functools
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from groupvit_jax.data import images

Box = tuple[int, int, int, int]  # top, left, height, width

_NAME = 'the image'
# A JPEG is decoded at this many times the pixels of a side that are needed, at
# least. On photos of VOC pixels then differ by 0.3 levels in the mean from full
# decoding; by 1.3 with a gap of 1.
_GAP = 1.5
_threads = threading.local()


def decode_crop(
  image: bytes | Image.Image | np.ndarray,
  box_of: Callable[[int, int], Box],
  size: int,
  max_pixels: int = images.MAX_PIXELS,
) -> Image.Image:
  """Decodes a crop of an upright image as a square.

  A JPEG with more pixels than the square needs is decoded at a half, a quarter
  or an eighth of its size: by fewer coefficients of its blocks.

  Args:
    image: see `images.decode`.
    box_of: function of height and width that returns the crop.
    size: side of the square; the filter is bilinear and antialiased.
    max_pixels: limit, checked before pixels are decoded.

  Returns:
    PIL image of mode RGB.

  Raises:
    BadSampleError: see `images.decode`.
  """
  opened = images.opened(image, _NAME, max_pixels)
  orientation = images.orientation(opened)
  width, height = opened.size
  if orientation >= 5:  # turned by a quarter
    width, height = height, width
  box = box_of(height, width)
  scale = min(box[2:]) / (_GAP * size)
  scale = next((power for power in (8, 4, 2) if power <= scale), 1)
  reduced = opened.width // scale, opened.height // scale
  if scale > 1 and opened.draft(None, reduced) is None:
    scale = 1
  plain = orientation == 1 and opened.mode == 'RGB' and scale == 1
  pixels = None
  if plain and isinstance(image, bytes):
    pixels = _jpeg(image)
  if pixels is None:
    pixels = images.loaded(opened, _NAME, max_pixels)
  return crop_resize(pixels, box, size, 1 / scale)


def crop_resize(
  image: Image.Image, box: Box, size: int, scale: float = 1.0
) -> Image.Image:
  """Crops and resizes to a square (bilinear, antialiased).

  Args:
    image: of mode RGB or RGBA.
    box: crop.
    size: side of the square.
    scale: of the image beside the one that the crop is of.
  """
  top, left, height, width = (value * scale for value in box)
  # Crop first: `resize(box=)` would let pixels from outside bleed in.
  region = (
    *(math.floor(left), math.floor(top)),
    *(math.ceil(left + width), math.ceil(top + height)),
  )
  if region != (0, 0, *image.size):
    image = image.crop(region)
  if image.size != (size, size):
    left, top = left - region[0], top - region[1]
    image = _resized(image, size, (left, top, width, height))
  return image if image.mode == 'RGB' else image.convert('RGB')


def _resized(image, size, box):
  """The part (left, top, width, height) of an image as a square."""
  left, top, width, height = box
  if (fast := packages()) is None:
    box = left, top, left + width, top + height
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
  if not hasattr(_threads, 'resizer'):  # it has memory of its own
    _threads.resizer = fast.resizing.Resizer()
  options = fast.resizing.ResizeOptions(
    fast.resizing.ResizeAlg.convolution(fast.resizing.FilterType.bilinear),
    crop_box=fast.resizing.CropBox(*box),
    use_alpha=False,
  )
  out = Image.new(image.mode, (size, size))
  _threads.resizer.resize_pil(image, out, options)
  return out


def _jpeg(data):
  """The pixels of a JPEG as RGBA; None where Pillow has to look."""
  if (fast := packages()) is None or not data.startswith(b'\xff\xd8'):
    return None
  try:
    pixels = fast.jpeg.decode_jpeg(data, 'RGBA')
  except ValueError:
    return None
  height, width, _ = pixels.shape
  raw = 'raw', 'RGBA', 0, 1
  return Image.frombuffer('RGBA', (width, height), pixels, *raw)


class Packages(NamedTuple):
  """Faster than Pillow at decoding JPEGs and at resizing."""

  jpeg: Any
  resizing: Any


@functools.cache
def packages() -> Packages | None:
  """The two, if both are installed."""
  try:
    import cykooz_resizer
    import simplejpeg
  except ImportError:
    return None
  return Packages(simplejpeg, cykooz_resizer)
