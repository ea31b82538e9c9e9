"""Looks at encoded images before anything decodes them.

Sizes come from headers, so that a decompression bomb or a torn file is found
for the price of a few bytes.
"""

import io
import os
import pathlib
import struct
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from groupvit_jax import files
from groupvit_jax.errors import ImageError

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


# The middle of a picture, as it is classified.


def crop(
  image: UInt8[np.ndarray, 'h w 3'],
  size: tuple[int, int],
  *,
  clip: bool = False,
) -> UInt8[np.ndarray, 'H W 3']:
  """Scales a picture and cuts out its middle.

  Args:
    image: RGB pixels.
    size: (H, W) that the model was trained on.
    clip: as CLIP does: the shorter side is scaled to the crop's, bicubically,
      instead of 8/7 of it (256 for 224), bilinearly.

  Returns:
    RGB pixels, as torchvision's Resize and CenterCrop give them.
  """
  short = max(round(min(size) * (1 if clip else 256 / 224)), *size)
  resample = Image.Resampling.BICUBIC if clip else Image.Resampling.BILINEAR
  sides = image.shape[:2]
  # The longer side is rounded down, as there.
  scaled = [short * side // min(sides) for side in sides]
  picture = Image.fromarray(image).resize(scaled[::-1], resample)
  top, left = (
    round((old - new) / 2) for old, new in zip(scaled, size, strict=True)
  )
  picture = picture.crop((left, top, left + size[1], top + size[0]))
  return np.asarray(picture)


# Any picture to RGB pixels: files, bytes, PIL images and arrays.
#
# What cannot be segmented is refused in one sentence that names the picture;
# what is merely unusual (rotated, CMYK, 16 bits, see-through) is put right.

Source = str | os.PathLike | bytes | Image.Image | np.ndarray

# Pillow's own mark of a decompression bomb; phone cameras stay below it.
MAX_DECODED_PIXELS = 89_000_000
# A tracking pixel or a ruler line has no regions to find.
MIN_SIDE = 4

_NOT_AN_IMAGE = (UnidentifiedImageError, SyntaxError)
# Pillow would hand these to Ghostscript, which runs them.
_POSTSCRIPT = (b'%!PS', b'\xc5\xd0\xd3\xc6')


def open_image(
  source: Source, name: str | None = None, *, upright: bool = True
) -> UInt8[np.ndarray, 'h w 3']:
  """Reads a picture as people see it.

  EXIF rotation is applied unless `upright` is off; transparent parts become
  white; 16-bit pictures keep their high bytes; CMYK, grey and palette pictures
  become RGB; of an animation the first frame is taken (of a PIL image, the one
  it is at), with a warning.

  Args:
    source: a path, the bytes of an image file, a PIL image, or RGB pixels
      (uint8 [h, w, 3]), which are copied.
    name: what messages call the picture; by default its path or kind.
    upright: whether EXIF rotation is applied. A label map is drawn over the
      pixels as they are stored, more often than not.

  Returns:
    RGB pixels.

  Raises:
    ImageError: no image, a broken or truncated one, one above `MAX_PIXELS` or
      with a side below `MIN_SIDE`.
  """
  name = name or describe(source)
  if isinstance(source, np.ndarray):
    pixels = _check_array(source, name)
    _check_size(pixels.shape[:2], name)
    return pixels.copy()  # the caller may draw into its own
  if isinstance(source, Image.Image):
    return _decode(source, name, upright)
  if isinstance(source, bytes | bytearray | memoryview):
    return _decode_bytes(bytes(source), name, upright)
  if isinstance(source, str | os.PathLike):
    return _decode_bytes(_read(pathlib.Path(source), name), name, upright)
  raise ImageError(
    f'{name} is no picture: give a path, bytes, a PIL image or a uint8 array '
    '[h, w, 3].'
  )


def is_list(images: Source | Sequence[Source]) -> bool:
  """Whether several are meant: a list, tuple, or array [b, h, w, 3]."""
  array = isinstance(images, np.ndarray) and images.ndim == 4
  return array or isinstance(images, list | tuple)


def named(images: Source | Sequence[Source]) -> list[tuple[Source, str]]:
  """Pictures with what messages call them.

  Raises:
    ImageError: an empty list.
  """
  if not is_list(images):
    return [(images, describe(images))]
  if not len(images):
    raise ImageError('The list of pictures is empty.')

  def name(i, image):
    if isinstance(image, str | os.PathLike):
      return os.fspath(image)
    return f'picture {i} of the list'

  return [(image, name(i, image)) for i, image in enumerate(images)]


def describe(source: Source) -> str:
  """What messages call a picture."""
  if isinstance(source, str | os.PathLike):
    return os.fspath(source)
  if isinstance(source, Image.Image):
    return getattr(source, 'filename', '') or 'the PIL image'
  if isinstance(source, np.ndarray):
    return 'the array'
  return f'the {type(source).__name__}'


def _read(path, name):
  try:
    return files.expanded(path).read_bytes()
  except FileNotFoundError:
    raise ImageError(f'{name}: there is no such file.') from None
  except OSError as error:
    reason = (error.strerror or str(error)).lower()
    raise ImageError(f'{name} cannot be read: {reason}.') from error


def _check_array(array, name):
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
    raise ImageError(
      f'{name} is {array.dtype} {list(array.shape)}, and RGB pixels are uint8 '
      '[h, w, 3] in 0..255.'
    )
  return array


def _check_size(size, name):
  height, width = size
  if height * width > MAX_DECODED_PIXELS:
    raise ImageError(
      f'{name} has {width:,} x {height:,} pixels, more than the '
      f'{MAX_DECODED_PIXELS:,} that are decoded; scale it down first.'
    )
  if min(height, width) < MIN_SIDE:
    raise ImageError(
      f'{name} is {width} x {height} pixels; a picture needs sides of at least '
      f'{MIN_SIDE}.'
    )


def _decode_bytes(data, name, upright):
  if not data:
    raise ImageError(f'{name} is empty (zero bytes).')
  # From the header, before Pillow warns of large pictures or refuses them. (To
  # silence its warning would not be safe: files are read by several threads.)
  if data.startswith(_POSTSCRIPT):
    raise ImageError(f'{name} is PostScript, not an image that can be read.')
  if size := _size_in_header(data, name):
    _check_size(size, name)
  try:
    image = Image.open(io.BytesIO(data))
  except Image.DecompressionBombError:
    raise ImageError(
      f'{name} unpacks to more than {MAX_DECODED_PIXELS:,} pixels (a '
      'decompression bomb?); scale it down first.'
    ) from None
  except _NOT_AN_IMAGE:
    raise ImageError(f'{name} is not an image that can be read.') from None
  except Exception as error:  # Pillow's readers raise whatever they met
    raise ImageError(f'{name} is a broken image: {_short(error)}.') from error
  return _decode(image, name, upright)


def _size_in_header(data, name):
  """(h, w) of a JPEG or PNG; None for what Pillow has to look into."""
  if data.startswith(b'\x89PNG') and data[12:16] == b'IHDR':
    width, height = struct.unpack('>II', data[16:24].ljust(8, b'\0'))
    return height, width
  if not is_jpeg(data):
    return None
  try:
    return encoded_size(data)
  except BadSampleError as error:
    raise ImageError(f'{name} is a broken image: {error}.') from error


def _decode(image, name, upright):
  _check_size(image.size[::-1], name)
  try:
    frames = getattr(image, 'n_frames', 1)
    # A camera's JPEG may hold previews of itself (MPO): no animation.
    if frames > 1 and image.format != 'MPO':
      which = f'number {image.tell() + 1}' if image.tell() else 'the first'
      warnings.warn(
        f'{name} has {frames} frames; {which} is taken.', stacklevel=2
      )
    image.load()
    return _rgb(_upright(image) if upright else image)
  except Image.DecompressionBombError:
    raise ImageError(f'{name} is a decompression bomb.') from None
  except Exception as error:  # Pillow's readers raise whatever they met
    raise ImageError(
      f'{name} is a broken or truncated image: {_short(error)}.'
    ) from error


def _upright(image):
  """The picture turned as its camera says; broken EXIF turns nothing."""
  try:
    return ImageOps.exif_transpose(image)
  except Exception:  # parsers of broken EXIF raise whatever comes up
    return image


def _rgb(image):
  """RGB pixels of any mode."""
  if image.mode.startswith('I'):  # 16 bits, or 32 that hold 16 or 8
    values = np.asarray(image).astype(np.int64)
    bits = 8 if image.mode == 'I' and values.max() <= 255 else 16
    values = np.clip(values >> (bits - 8), 0, 255)
    image = Image.fromarray(values.astype(np.uint8))
  elif image.mode == 'F':
    image = Image.fromarray(_float_to_bytes(np.asarray(image)))
  elif image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or (
    'transparency' in image.info and image.mode in ('P', 'L', 'RGB', '1')
  ):
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  if image.mode != 'RGB':
    image = image.convert('RGB')
  return np.asarray(image)


def _float_to_bytes(
  values: Float[np.ndarray, 'h w'],
) -> UInt8[np.ndarray, 'h w']:
  """Grey levels of floating pixels, which run to 1 or to 255."""
  values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
  scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
  return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)


def _short(error):
  """The first line of a message, without its full stop."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip('.')
