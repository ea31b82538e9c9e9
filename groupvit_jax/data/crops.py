"""Crops of encoded images, at the least work: the hot loop of training input.

With simplejpeg and cykooz_resizer (extra `train`) it takes less time than with
Pillow alone: pixels differ by a level where an image is resized, and by a few
where colours were stored at half the resolution and the crop is scaled down.
"""

import functools
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from groupvit_jax.data import images

Box = tuple[int, int, int, int]  # top, left, height, width

_NAME = 'the image'
# A JPEG is decoded at this many times the pixels of a side that are needed, at
# least. On photos of VOC pixels then differ by 0.3 levels in the mean from full
# decoding; by 1.3 with a gap of 1. From that gap on, colours that are stored at
# half the resolution are repeated, not interpolated: 0.2 levels in the mean.
_GAP = 1.5
_threads = threading.local()


def decode_crop(
  image: bytes | Image.Image | np.ndarray,
  box_of: Callable[[int, int], Box],
  size: int,
  max_pixels: int = images.MAX_PIXELS,
) -> UInt8[np.ndarray, 's s 3']:
  """Decodes a crop of an upright image as a square.

  A JPEG with more pixels than the square needs is decoded at a half, a quarter
  or an eighth of its size: by fewer coefficients of its blocks.

  Args:
    image: see `images.decode`.
    box_of: function of height and width that returns the crop.
    size: side of the square; the filter is bilinear and antialiased.
    max_pixels: limit, checked before pixels are decoded.

  Returns:
    RGB pixels; they may be a view of an array that was given.

  Raises:
    BadSampleError: see `images.decode`.
  """
  if isinstance(image, np.ndarray):
    images.check_array(image, _NAME)
    images.check_size(image.shape[:2], _NAME, max_pixels)
    return crop_resize(image, box_of(*image.shape[:2]), size)
  opened = images.opened(image, _NAME, max_pixels)
  orientation = images.orientation(opened)
  width, height = opened.size
  if orientation >= 5:  # turned by a quarter
    width, height = height, width
  box = box_of(height, width)
  gap = min(box[2:]) / (_GAP * size)
  scale = next((power for power in (8, 4, 2) if power <= gap), 1)
  reduced = opened.width // scale, opened.height // scale
  if scale > 1 and opened.draft(None, reduced) is None:
    scale = 1
  plain = orientation == 1 and opened.mode == 'RGB' and scale == 1
  pixels = None
  if plain and isinstance(image, bytes):
    pixels = _jpeg(image, fast=gap >= 1)
  if pixels is None:
    pixels = np.asarray(images.loaded(opened, _NAME, max_pixels))
  return crop_resize(pixels, box, size, 1 / scale)


def crop_resize(
  pixels: UInt8[np.ndarray, 'h w 3'], box: Box, size: int, scale: float = 1.0
) -> UInt8[np.ndarray, 's s 3']:
  """Crops and resizes to a square (bilinear, antialiased).

  Args:
    pixels: RGB.
    box: crop.
    size: side of the square.
    scale: of these pixels beside those that the crop is of.
  """
  top, left, height, width = (value * scale for value in box)
  # Crop first: a resizer's own box lets pixels from outside bleed in.
  first_row, first_column = math.floor(top), math.floor(left)
  cropped = pixels[
    first_row : math.ceil(top + height),
    first_column : math.ceil(left + width),
  ]
  if cropped.shape[:2] == (size, size):
    return cropped
  return _resized(
    cropped, size, (left - first_column, top - first_row, width, height)
  )


def _resized(pixels, size, box):
  """The part (left, top, width, height) of an image as a square."""
  if (fast := packages()) is None:
    left, top, width, height = box
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(
      (size, size),
      Image.Resampling.BILINEAR,
      box=(left, top, left + width, top + height),
    )
    return np.asarray(image)
  resizing = fast.resizing
  if not hasattr(_threads, 'resizer'):  # it has memory of its own
    _threads.resizer = resizing.Resizer()
  options = resizing.ResizeOptions(
    resizing.ResizeAlg.convolution(resizing.FilterType.bilinear),
    crop_box=resizing.CropBox(*box),
  )
  kind, (height, width, _) = resizing.PixelType.U8x3, pixels.shape
  source = resizing.ImageData(width, height, kind, pixels.tobytes())
  out = resizing.ImageData(size, size, kind)
  _threads.resizer.resize(source, out, options)
  return np.frombuffer(out.get_buffer(), np.uint8).reshape(size, size, 3)


def _jpeg(data, fast):
  """The pixels of a JPEG; None where Pillow has to look.

  With `fast` colours at half the resolution are repeated.
  """
  if (found := packages()) is None or not data.startswith(b'\xff\xd8'):
    return None
  try:
    return found.jpeg.decode_jpeg(data, 'RGB', fastupsample=fast)
  except ValueError:
    return None


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
