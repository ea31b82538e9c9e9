"""Any picture to RGB pixels: files, bytes, PIL images and arrays.

What cannot be segmented is refused in one sentence that names the picture;
what is merely unusual (rotated, CMYK, 16 bits, see-through) is put right.
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

from groupvit_jax.data import images
from groupvit_jax.errors import ImageError

Source = str | os.PathLike | bytes | Image.Image | np.ndarray

# Pillow's own mark of a decompression bomb; phone cameras stay below it.
MAX_PIXELS = 89_000_000
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
  become RGB; of an animation the first frame is taken, with a warning.

  Args:
    source: a path, the bytes of an image file, a PIL image, or RGB pixels
      (uint8 [h, w, 3]), which are returned as they are.
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
    return pixels
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
    return path.expanduser().read_bytes()
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
  if height * width > MAX_PIXELS:
    raise ImageError(
      f'{name} has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} '
      'that are decoded; scale it down first.'
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
      f'{name} unpacks to more than {MAX_PIXELS:,} pixels (a decompression '
      'bomb?); scale it down first.'
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
  if not images.is_jpeg(data):
    return None
  try:
    return images.encoded_size(data)
  except images.BadSampleError as error:
    raise ImageError(f'{name} is a broken image: {error}.') from error


def _decode(image, name, upright):
  _check_size(image.size[::-1], name)
  try:
    frames = getattr(image, 'n_frames', 1)
    # A camera's JPEG may hold previews of itself (MPO): no animation.
    if frames > 1 and image.format != 'MPO':
      image.seek(0)
      warnings.warn(
        f'{name} has {frames} frames; the first is taken.', stacklevel=2
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
  if image.mode.startswith('I'):  # 16 bits, or 32 that hold 16
    high = np.asarray(image).astype(np.int64) >> 8
    image = Image.fromarray(np.clip(high, 0, 255).astype(np.uint8))
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
