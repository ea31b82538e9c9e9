"""Training augmentations: their levels, their random numbers, their operations.

Random numbers belong to positions (`draw`); the operations (`apply`) are plain
functions of them, in Pillow, whose arithmetic the original uses as well.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Num, UInt8
from PIL import Image, ImageEnhance, ImageOps

from groupvit_jax.data import crops, sampling

# RandAugment's operations, in the order of timm's "increasing" list
# (timm/data/auto_augment.py, _RAND_INCREASING_TRANSFORMS).
OPERATIONS = (
  'auto_contrast',
  'equalize',
  'invert',
  'rotate',
  'posterize',
  'solarize',
  'solarize_add',
  'color',
  'contrast',
  'brightness',
  'sharpness',
  'shear_x',
  'shear_y',
  'translate_x',
  'translate_y',
)
# Of training images. Phone photos pass; a 30,000 x 30,000 PNG of 1 MB does not.
MAX_PIXELS = 36_000_000
# Where an operation uncovers nothing: the ImageNet mean, as timm rounds it.
FILL = (124, 116, 104)

_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class Augment:
  """An augmentation level.

  Fields:
    scale: share of the area that RandomResizedCrop keeps (least, most), or
      None to keep the whole image.
    square: keep a random square of the full shorter side instead.
    flip: probability of a horizontal flip.
    operations: RandAugment operations per image.
    probability: of each RandAugment operation to happen.
    magnitude, deviation: of RandAugment, in timm's tenths.
  """

  scale: tuple[float, float] | None = None
  square: bool = False
  flip: float = 0.0
  operations: int = 0
  probability: float = 0.5
  magnitude: float = 9.0
  deviation: float = 0.5


AUGMENTS = {
  'none': Augment(),
  'flip': Augment(flip=0.5),
  # CLIP's only augmentation (arXiv 2103.00020, section 2.3).
  'square': Augment(square=True),
  'light': Augment(scale=(0.6, 1.0), flip=0.5),
  # The released recipe: NVlabs/GroupViT deit_aug with rand-m9-mstd0.5-inc1.
  'deit': Augment(scale=(0.08, 1.0), flip=0.5, operations=2),
}


def on_host(augment: Augment, on_device: bool) -> Augment:
  """The host's part of a level if the device flips and operates."""
  if not on_device:
    return augment
  return dataclasses.replace(augment, flip=0.0, operations=0)


# Of `Draw`: what a device needs to know.
DRAWN = ('flips', 'operations', 'arguments')


@dataclasses.dataclass(frozen=True)
class Draw:
  """Random decisions for each image of a batch.

  Fields:
    scale, square: as in Augment.
    crops: random numbers [b, attempts, 4] in [0, 1) of `crop_box`.
    flips: bool [b].
    operations: int32 [b, o], indices into OPERATIONS, -1 for nothing.
    arguments: float32 [b, o], argument of each operation (see `argument`).
  """

  scale: tuple[float, float] | None
  crops: Float[np.ndarray, 'b a 4']
  flips: Bool[np.ndarray, 'b']
  operations: Int32[np.ndarray, 'b o']
  arguments: Float32[np.ndarray, 'b o']
  square: bool = False

  def box(self, i: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Crop (top, left, height, width) of image `i`, which has this size."""
    if self.square:
      side = min(height, width)
      down, right = self.crops[i, 0, 2:].tolist()
      top, left = (
        int(down * (height - side + 1)),
        int(right * (width - side + 1)),
      )
      return top, left, side, side
    if self.scale is None:
      return 0, 0, height, width
    return crop_box(self.crops[i].tolist(), (height, width), self.scale)


def draw(augment: Augment, seed: int, positions: Int[np.ndarray, 'b']) -> Draw:
  """Draws a batch's augmentation from (seed, position)."""
  flips = sampling.uniform(seed, sampling.FLIP, positions, 1)[:, 0]
  attempts = 0 if augment.scale is None else _ATTEMPTS
  attempts = 1 if augment.square else attempts
  return Draw(
    augment.scale,
    _uniform(seed, sampling.CROP, positions, (attempts, 4)),
    flips < augment.flip,
    *_rand_augment(augment, seed, positions),
    augment.square,
  )


def _uniform(seed, stream, positions, shape):
  """Random numbers [b, *shape] in [0, 1) that belong to positions."""
  numbers = sampling.uniform(seed, stream, positions, int(np.prod(shape)))
  return numbers.reshape(len(positions), *shape)


def crop_box(
  uniform: Sequence[Sequence[float]],
  size: tuple[int, int],
  scale: tuple[float, float],
) -> tuple[int, int, int, int]:
  """RandomResizedCrop's box (torchvision: the first of ten that fits).

  Args:
    uniform: random numbers in [0, 1) of each attempt: area, ratio, top, left.
    size: height and width.
    scale: (least, most) share of the area.

  Returns:
    Top, left, height, width in pixels.
  """
  height, width = size
  low, high = map(math.log, _RATIO)
  for area, ratio, down, right in uniform:
    area = height * width * (scale[0] + area * (scale[1] - scale[0]))
    ratio = math.exp(low + ratio * (high - low))
    h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
    if 1 <= h <= height and 1 <= w <= width:
      return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
  # The central box of a permitted ratio.
  h = min(height, max(1, round(width / _RATIO[0])))
  w = min(width, max(1, round(height * _RATIO[1])))
  return (height - h) // 2, (width - w) // 2, h, w


def _rand_augment(augment, seed, positions):
  """Draws RandAugment's operations and arguments, each [b, o]."""
  shape = (augment.operations, 5)
  uniform = _uniform(seed, sampling.RAND_AUGMENT, positions, shape)
  operations = np.floor(uniform[..., 0] * len(OPERATIONS)).astype(np.int32)
  # Box-Muller, for the magnitude's normal noise.
  radius = np.sqrt(-2 * np.log1p(-uniform[..., 1]))
  normal = radius * np.cos(2 * np.pi * uniform[..., 2])
  level = np.clip(augment.magnitude + augment.deviation * normal, 0, 10)
  sign = np.where(uniform[..., 3] < 0.5, -1.0, 1.0)
  arguments = argument(operations, level, sign)
  happens = uniform[..., 4] < augment.probability
  return np.where(happens, operations, -1).astype(np.int32), arguments


def argument(
  operations: Int[np.ndarray, '*b'],
  level: Float[np.ndarray, '*b'],
  sign: Num[np.ndarray, '*b'],
) -> Float32[np.ndarray, '*b']:
  """Turns RandAugment levels into arguments of the operations.

  The increasing variants of timm/data/auto_augment.py (LEVEL_TO_ARG).

  Args:
    operations: indices into OPERATIONS.
    level: 0 to 10.
    sign: -1 or 1.

  Returns:
    Degrees (rotate), bits kept (posterize), threshold (solarize), amount
    (solarize_add), factor (color, contrast, brightness, sharpness), slope
    (shear), share of the side (translate), 0 (the others).
  """
  factor = np.maximum(0.1, 1 + sign * level * 0.09)
  shear, shift = sign * level * 0.03, sign * level * 0.045
  zero = np.zeros_like(level)
  table = {
    'rotate': sign * level * 3,
    'posterize': 4 - np.floor(level * 0.4),
    'solarize': 256 - np.floor(level * 25.6),
    'solarize_add': np.floor(level * 11),
    'color': factor,
    'contrast': factor,
    'brightness': factor,
    'sharpness': factor,
    'shear_x': shear,
    'shear_y': shear,
    'translate_x': shift,
    'translate_y': shift,
  }
  values = np.stack([table.get(name, zero) for name in OPERATIONS])
  chosen = np.take_along_axis(values, np.asarray(operations)[None], 0)[0]
  return chosen.astype(np.float32)


def apply(
  image: bytes | Image.Image | np.ndarray, drawn: Draw, i: int, size: int
) -> UInt8[np.ndarray, 's s 3']:
  """Decodes, crops, resizes, flips and augments image `i` of a batch.

  Raises:
    BadSampleError: see `images.decode`.
  """
  pixels = crops.decode_crop(
    image, functools.partial(drawn.box, i), size, MAX_PIXELS
  )
  if drawn.flips[i]:
    pixels = pixels[:, ::-1]
  operations = [
    (OPERATIONS[operation], value)
    for operation, value in zip(
      drawn.operations[i].tolist(), drawn.arguments[i].tolist(), strict=True
    )
    if operation >= 0
  ]
  if not operations:
    return pixels
  made = Image.fromarray(np.ascontiguousarray(pixels))
  for name, value in operations:
    made = operate(made, name, value)
  return np.asarray(made)


def operate(image: Image.Image, name: str, value: float) -> Image.Image:
  """Applies one RandAugment operation (timm/data/auto_augment.py).

  Args:
    image: RGB.
    name: one of OPERATIONS.
    value: its argument (see `argument`).

  Returns:
    Image of the same size.
  """
  if name in _PLAIN:
    return _PLAIN[name](image)
  if name in _ENHANCE:
    return _ENHANCE[name](image).enhance(value)
  if name == 'rotate':
    return image.rotate(value, Image.Resampling.BILINEAR, fillcolor=FILL)
  if name == 'posterize':
    # Not ImageOps.posterize: its newer versions refuse 0 bits, which level 10
    # asks for (a black image, as the original trained on).
    mask = 256 - (1 << (8 - int(value)))
    return image.point([x & mask for x in range(256)] * 3)
  if name == 'solarize':
    return ImageOps.solarize(image, int(value))
  if name == 'solarize_add':
    table = np.arange(256)
    table = np.where(table < 128, np.minimum(255, table + int(value)), table)
    return image.point(table.tolist() * 3)
  # From output to input pixels.
  matrix = {
    'shear_x': (1, value, 0, 0, 1, 0),
    'shear_y': (1, 0, 0, value, 1, 0),
    'translate_x': (1, 0, value * image.width, 0, 1, 0),
    'translate_y': (1, 0, 0, 0, 1, value * image.height),
  }[name]
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    Image.Resampling.BILINEAR,
    fillcolor=FILL,
  )


_PLAIN = {
  'auto_contrast': ImageOps.autocontrast,
  'equalize': ImageOps.equalize,
  'invert': ImageOps.invert,
}
_ENHANCE = {
  'color': ImageEnhance.Color,
  'contrast': ImageEnhance.Contrast,
  'brightness': ImageEnhance.Brightness,
  'sharpness': ImageEnhance.Sharpness,
}
