"""Looks at encoded images before anything decodes them.

Sizes come from headers, so that a decompression bomb or a torn file is found
for the price of a few bytes.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

# Phone photos pass; a 30,000 x 30,000 PNG of 1 MB does not.
MAX_PIXELS = 36_000_000

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset([0x01, *range(0xD0, 0xD9)])
_PIL_ERRORS = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  IndexError,
  OverflowError,
  MemoryError,
  UnidentifiedImageError,
  Image.DecompressionBombError,
)


class BadSampleError(ValueError):
  """A sample that training cannot use; the message says why."""


def is_jpeg(data):
  """Whether bytes start as a JPEG does."""
  return data[:3] == b'\xff\xd8\xff'


def encoded_size(data):
  """Reads (height, width) from the header of an encoded image.

  Args:
    data: bytes of an image file.

  Returns:
    (height, width), both ints.

  Raises:
    BadSampleError: no known image format, or a broken header.
  """
  if not data:
    raise BadSampleError('the image has zero bytes')
  if is_jpeg(data):
    return _jpeg_size(data)
  try:
    with Image.open(io.BytesIO(data)) as image:
      return image.height, image.width
  except _PIL_ERRORS as error:
    raise BadSampleError(f'not a readable image ({error})') from error


def _jpeg_size(data):
  """Walks the marker segments to the frame header (ITU T.81, B.2.2)."""
  at, end = 2, len(data)
  while at + 9 <= end:
    if data[at] != 0xFF:
      break
    marker = data[at + 1]
    if marker == 0xFF:
      at += 1
    elif marker in _JPEG_BARE:
      at += 2
    elif marker in _JPEG_FRAMES:
      height = data[at + 5] << 8 | data[at + 6]
      width = data[at + 7] << 8 | data[at + 8]
      return height, width
    else:
      at += 2 + (data[at + 2] << 8 | data[at + 3])
  raise BadSampleError('a JPEG without a frame header (truncated?)')


def check_size(size, max_pixels=MAX_PIXELS):
  """Raises BadSampleError for empty images and decompression bombs."""
  height, width = size
  if height < 1 or width < 1:
    raise BadSampleError(f'the image is {width} x {height} pixels')
  if height * width > max_pixels:
    raise BadSampleError(
      f'the image has {width} x {height} pixels, more than {max_pixels:,}'
    )


def looks_cut(data):
  """Whether a JPEG lacks its end marker, as a cut download does."""
  return b'\xff\xd9' not in data[-1024:]


def decode_pil(data):
  """Decodes an image file to an RGB PIL image.

  16-bit images keep their high byte; transparency is dropped; the first frame
  of an animation is taken; EXIF rotation is ignored (as the original does).

  Args:
    data: bytes.

  Returns:
    PIL image of mode RGB.

  Raises:
    BadSampleError: the data is truncated or broken.
  """
  try:
    image = Image.open(io.BytesIO(data))
    image.load()
    if image.mode.startswith('I'):
      high = np.asarray(image).astype(np.int64) >> 8
      image = Image.fromarray(np.clip(high, 0, 255).astype(np.uint8))
    return image if image.mode == 'RGB' else image.convert('RGB')
  except _PIL_ERRORS as error:
    raise BadSampleError(f'the image does not decode ({error})') from error


def to_array(image):
  """Turns a sample's image (bytes or uint8 array) into uint8 [h, w, 3]."""
  if isinstance(image, bytes):
    return np.asarray(decode_pil(image))
  return image


def to_pil(image):
  """Turns a sample's image (bytes or uint8 array) into a PIL image."""
  return decode_pil(image) if isinstance(image, bytes) else _from_array(image)


def _from_array(image):
  return Image.fromarray(np.ascontiguousarray(image))
