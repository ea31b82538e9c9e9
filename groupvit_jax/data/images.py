"""Image files, bytes, PIL images and arrays become RGB pixels.

The one decoder of training, inference and benchmarks: what is merely unusual
(rotated, CMYK, 16 bits, transparent) is converted; what cannot be used is
refused in one sentence.
"""

import io
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from groupvit_jax import files
from groupvit_jax.errors import ImageError

Source = str | os.PathLike | bytes | Image.Image | np.ndarray

# Nothing else is opened. Pillow would hand PostScript to Ghostscript, which
# runs it, whatever the name of the file.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF')
# Of their files, in lower case; where images are looked for, not how opened.
SUFFIXES = (
  *('.jpg', '.jpeg', '.jfif', '.png', '.webp', '.gif', '.bmp'),
  *('.tif', '.tiff'),
)
# Of a file. Pixels beyond the next limit need more in no sensible format.
MAX_BYTES = 1 << 29
# Pillow's own mark of a decompression bomb; phone cameras stay below it.
MAX_PIXELS = 89_000_000
# A tracking pixel or a ruler line has no regions to find.
MIN_SIDE = 4
# Progressive JPEGs have about ten scans. Each is a pass over all pixels, which
# takes up to 0.2 s at 35 million.
MAX_SCANS = 100
MAX_SCANNED = 1_000_000_000
# A brightest pixel below this share is one of another range: 12 bits in 16.
_BRIGHTEST = 1 / 16

_START_OF_SCAN = b'\xff\xda'
_ORIENTATION = 0x0112
_TRANSPARENT = ('RGBA', 'LA', 'PA', 'RGBa', 'La')
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class BadSampleError(ValueError):
  """A sample that cannot be used; the message says why.

  Attributes:
    reason: kind of fault, under which it is counted: 'image_empty',
      'image_format', 'image_damaged', 'image_size', 'image_scans',
      'image_values', 'caption', 'record', or 'unreadable': the source raised
      another error.
  """

  def __init__(self, message: str, reason: str):
    super().__init__(message)
    self.reason = reason


def open_header(file: io.BytesIO | str | os.PathLike) -> Image.Image:
  """Opens an image without decoding its pixels.

  Args:
    file: bytes as a file, or a path.

  Raises:
    UnidentifiedImageError: none of `FORMATS`; OSError: no such file. Pillow's
      readers raise many other errors on broken headers.
  """
  return Image.open(file, formats=FORMATS)


def decode(
  image: bytes | Image.Image | np.ndarray,
  name: str = 'the image',
  *,
  upright: bool = True,
  max_pixels: int = MAX_PIXELS,
) -> Image.Image:
  """Decodes an image to RGB.

  EXIF rotation is applied unless `upright` is off; transparent parts become
  white; 16-bit images keep their high bytes; floating pixels count from 0 to 1
  or from 0 to 255; CMYK, grey and palette images become RGB; the first frame
  of an animation is taken (of a PIL image, the current one).

  Args:
    image: bytes of an image file, a PIL image, which stays as it is, or RGB
      pixels (uint8 [h, w, 3]).
    name: what the message calls the image.
    upright: whether EXIF rotation is applied.
    max_pixels: limit, checked before pixels are decoded.

  Returns:
    PIL image of mode RGB.

  Raises:
    BadSampleError: no image, a broken one, or one beyond the limits.
  """
  image = opened(image, name, max_pixels)
  return loaded(image, name, max_pixels, upright=upright)


def opened(
  image: bytes | Image.Image | np.ndarray, name: str, max_pixels: int
) -> Image.Image:
  """Opens an image for `decode`; its pixels may not be decoded yet.

  Raises:
    BadSampleError: no image, or one beyond the limits.
  """
  if isinstance(image, np.ndarray):
    check_array(image, name)
    image = Image.fromarray(np.ascontiguousarray(image))
  elif isinstance(image, bytes):
    image = _open(image, name, max_pixels)
  check_size(image.size[::-1], name, max_pixels)
  return image


def loaded(
  image: Image.Image, name: str, max_pixels: int, *, upright: bool = True
) -> Image.Image:
  """Decodes the RGB pixels of an `opened` image.

  Raises:
    BadSampleError: a broken image.
  """
  try:
    image.load()
    return _rgb(_upright(image) if upright else image, name)
  except BadSampleError:
    raise
  except _BOMB:
    raise _bomb(name, max_pixels) from None
  except Exception as error:  # Pillow's readers raise whatever they met
    raise BadSampleError(
      f'{name} is a broken or truncated image: {_short(error)}',
      'image_damaged',
    ) from error


def check_size(
  size: tuple[int, ...], name: str, max_pixels: int = MAX_PIXELS
) -> None:
  """Raises BadSampleError for a (height, width) that is not decoded."""
  height, width = size
  if height * width > max_pixels:
    raise BadSampleError(
      f'{name} has {width:,} x {height:,} pixels, more than the '
      f'{max_pixels:,} that are decoded; scale it down first',
      'image_size',
    )
  if min(height, width) < MIN_SIDE:
    raise BadSampleError(
      f'{name} is {width} x {height} pixels; an image needs sides of at least '
      f'{MIN_SIDE}',
      'image_size',
    )


def check_array(array: np.ndarray, name: str = 'the image') -> None:
  """Raises BadSampleError for an array that is no uint8 [h, w, 3]."""
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
    raise BadSampleError(
      f'{name} is {array.dtype} {list(array.shape)}, and RGB pixels are uint8 '
      '[h, w, 3] in 0..255',
      'image_format',
    )


def open_image(
  source: Source, name: str | None = None, *, upright: bool = True
) -> UInt8[np.ndarray, 'h w 3']:
  """Reads an image as people see it (see `decode`).

  Args:
    source: a path, the bytes of an image file, a PIL image, or RGB pixels
      (uint8 [h, w, 3]), which are copied.
    name: what messages call the image; by default its path or kind.
    upright: whether EXIF rotation is applied. A label map is drawn over the
      pixels as they are stored, more often than not.

  Returns:
    RGB pixels.

  Raises:
    ImageError: no image, a broken or truncated one, one above `MAX_PIXELS` or
      with a side below `MIN_SIDE`.
  """
  name = name or describe(source)
  try:
    if isinstance(source, np.ndarray):
      check_array(source, name)
      check_size(source.shape[:2], name)
      return source.copy()  # the caller may draw into its own
    if isinstance(source, str | os.PathLike):
      image = _open(_read(source, name), name, MAX_PIXELS)
    elif isinstance(source, bytes | bytearray | memoryview):
      image = _open(bytes(source), name, MAX_PIXELS)
    elif isinstance(source, Image.Image):
      image = source
    else:
      raise ImageError(
        f'{name} is no image: give a path, bytes, a PIL image or a uint8 '
        'array [h, w, 3].'
      )
    # A camera's JPEG may hold previews of itself (MPO): no animation.
    if getattr(image, 'is_animated', False) and image.format != 'MPO':
      which = f'number {image.tell() + 1}' if image.tell() else 'the first'
      warnings.warn(
        f'{name} has several frames; {which} is taken.', stacklevel=2
      )
    return np.asarray(decode(image, name, upright=upright))
  except BadSampleError as error:
    raise ImageError(f'{error}.') from error


def is_list(images: Source | Sequence[Source]) -> bool:
  """Whether several are meant: a list, tuple, or array [b, h, w, 3]."""
  array = isinstance(images, np.ndarray) and images.ndim == 4
  return array or isinstance(images, list | tuple)


def named(images: Source | Sequence[Source]) -> list[tuple[Source, str]]:
  """Images with what messages call them.

  Raises:
    ImageError: an empty list.
  """
  if not is_list(images):
    image = cast(Source, images)
    return [(image, describe(image))]
  several = list(cast(Sequence[Source], images))
  if not several:
    raise ImageError('The list of images is empty.')

  def name(i, image):
    if isinstance(image, str | os.PathLike):
      return os.fspath(image)
    return f'image {i} of the list'

  return [(image, name(i, image)) for i, image in enumerate(several)]


def describe(source: Source) -> str:
  """Name of an image in messages."""
  if isinstance(source, str | os.PathLike):
    return os.fspath(source)
  if isinstance(source, Image.Image):
    return getattr(source, 'filename', '') or 'the PIL image'
  if isinstance(source, np.ndarray):
    return 'the array'
  return f'the {type(source).__name__}'


def crop(
  image: UInt8[np.ndarray, 'h w 3'],
  size: tuple[int, int],
  *,
  clip: bool = False,
) -> UInt8[np.ndarray, 'H W 3']:
  """Scales an image and cuts out its centre, for classification.

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
  height, width = (short * side // min(sides) for side in sides)
  scaled = Image.fromarray(image).resize((width, height), resample)
  top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
  box = (left, top, left + size[1], top + size[0])
  return np.asarray(scaled.crop(box))


def _read(path, name):
  try:
    with files.expanded(pathlib.Path(path)).open('rb') as file:
      return file.read(MAX_BYTES + 1)
  except FileNotFoundError:
    raise ImageError(f'{name}: there is no such file.') from None
  except OSError as error:
    reason = (error.strerror or str(error)).lower()
    raise ImageError(f'{name} cannot be read: {reason}.') from error


def _open(data, name, max_pixels):
  """Opens bytes within the limits, without decoding pixels."""
  if not data:
    raise BadSampleError(f'{name} is empty (zero bytes)', 'image_empty')
  if len(data) > MAX_BYTES:
    raise BadSampleError(
      f'{name} has more than {MAX_BYTES >> 20} MB', 'image_size'
    )
  try:
    image = open_header(io.BytesIO(data))
  except _BOMB:
    raise _bomb(name, max_pixels) from None
  except (UnidentifiedImageError, SyntaxError):
    raise BadSampleError(
      f'{name} is not an image that can be read ({", ".join(FORMATS)})',
      'image_format',
    ) from None
  except Exception as error:  # Pillow's readers raise whatever they met
    raise BadSampleError(
      f'{name} is a broken image: {_short(error)}', 'image_damaged'
    ) from error
  # The marker never occurs in pixel data; in metadata only by accident.
  if image.format in ('JPEG', 'MPO'):
    most = min(MAX_SCANS, MAX_SCANNED // (image.width * image.height or 1))
    if data.count(_START_OF_SCAN) > max(most, 1):
      raise BadSampleError(
        f'{name} is a progressive JPEG of more than {most} scans; save it anew',
        'image_scans',
      )
  return image


def _bomb(name, max_pixels):
  return BadSampleError(
    f'{name} unpacks to more than {max_pixels:,} pixels (a decompression '
    'bomb?); scale it down first',
    'image_size',
  )


def orientation(image: Image.Image) -> int:
  """How the camera was held, as EXIF numbers it; 1 where EXIF is broken."""
  try:
    return image.getexif().get(_ORIENTATION, 1)
  except Exception:  # parsers of broken EXIF raise whatever comes up
    return 1


def _upright(image):
  """The image turned as its camera says; broken EXIF turns nothing."""
  if orientation(image) == 1:
    return image  # exif_transpose would copy it
  try:
    return ImageOps.exif_transpose(image)
  except Exception:
    return image


def _rgb(image, name):
  """An RGB image of any mode."""
  if image.mode.startswith('I'):
    image = Image.fromarray(_integers_to_bytes(np.asarray(image), image, name))
  elif image.mode == 'F':
    image = Image.fromarray(_floats_to_bytes(np.asarray(image), name))
  elif image.mode in _TRANSPARENT or (
    'transparency' in image.info and image.mode in ('P', 'L', 'RGB', '1')
  ):
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  return image if image.mode == 'RGB' else image.convert('RGB')


def _integers_to_bytes(
  values: Integer[np.ndarray, 'h w'], image: Image.Image, name: str
) -> UInt8[np.ndarray, 'h w']:
  """High bytes of 16-bit pixels, or of 32 bits that hold 16 or 8."""
  _check_range(values, 65535, '0 to 65535', name)
  bits = 8 if image.mode == 'I' and values.max() <= 255 else 16
  if bits == 16:
    _check_brightest(values, 65535, name)
  return (values >> (bits - 8)).astype(np.uint8)


def _floats_to_bytes(
  values: Float[np.ndarray, 'h w'], name: str
) -> UInt8[np.ndarray, 'h w']:
  """Grey levels of floating pixels, which run to 1 or to 255."""
  _check_range(values, 255, '0 to 1 or from 0 to 255', name)
  scale = 255.0 if values.max() <= 1.0 else 1.0
  _check_brightest(values, 255 / scale, name)
  return np.rint(values * scale).astype(np.uint8)


def _check_range(values, most, wanted, name):
  low, high = values.min(), values.max()
  if not (low >= 0 and high <= most):  # NaN as well
    raise BadSampleError(
      f'{name} has pixels from {low:.6g} to {high:.6g}, and they must run from '
      f'{wanted}: scale them',
      'image_values',
    )


def _check_brightest(values, white, name):
  """Refuses pixels that would become black; those of a black image may."""
  if 0 < (most := values.max()) < white * _BRIGHTEST:
    raise BadSampleError(
      f'{name} has no pixel above {most:.6g} of {white:g} and would be black: '
      'scale its pixels',
      'image_values',
    )


def _short(error):
  """The first line of a message, without its full stop."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip('.')
