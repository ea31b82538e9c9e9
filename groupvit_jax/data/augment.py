"""What the training augmentations are, and what they do to each position.

Chance is drawn here, once, in numpy; the image operations (`transforms` in
TensorFlow, `pil_transforms` in PIL) are plain functions of what was drawn.
"""

import dataclasses

import numpy as np

from groupvit_jax.data import sampling

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
    flip: probability of a horizontal flip.
    operations: RandAugment operations per image.
    probability: of each RandAugment operation to happen.
    magnitude, deviation: of RandAugment, in timm's tenths.
  """

  scale: tuple[float, float] | None = None
  flip: float = 0.0
  operations: int = 0
  probability: float = 0.5
  magnitude: float = 9.0
  deviation: float = 0.5


AUGMENTS = {
  'none': Augment(),
  'flip': Augment(flip=0.5),
  'light': Augment(scale=(0.6, 1.0), flip=0.5),
  # The released recipe: NVlabs/GroupViT deit_aug with rand-m9-mstd0.5-inc1.
  'deit': Augment(scale=(0.08, 1.0), flip=0.5, operations=2),
}


@dataclasses.dataclass(frozen=True)
class Draw:
  """What happens to each image of a batch.

  Fields:
    boxes: int32 [b, 4], crop (top, left, height, width) in pixels.
    flips: bool [b].
    operations: int32 [b, o], indices into OPERATIONS, -1 for nothing.
    arguments: float32 [b, o], what each operation takes (see `argument`).
  """

  boxes: np.ndarray
  flips: np.ndarray
  operations: np.ndarray
  arguments: np.ndarray


def get_augment(augment):
  """Looks up an augmentation level by name; an Augment passes through."""
  if isinstance(augment, Augment):
    return augment
  if augment not in AUGMENTS:
    raise ValueError(
      f'Unknown augmentation {augment!r}; choose from {sorted(AUGMENTS)}.'
    )
  return AUGMENTS[augment]


def draw(augment, seed, positions, sizes):
  """Draws a batch's augmentation from (seed, position).

  Args:
    augment: Augment.
    seed: int.
    positions: int [b].
    sizes: int [b, 2], heights and widths of the images.

  Returns:
    A Draw.
  """
  positions = np.asarray(positions)
  sizes = np.asarray(sizes)
  if augment.scale is None:
    boxes = np.concatenate([np.zeros_like(sizes), sizes], 1).astype(np.int32)
  else:
    chance = uniform_for(seed, sampling.CROP, positions, (_ATTEMPTS, 4))
    boxes = crop_boxes(chance, sizes, augment.scale)
  flips = (
    sampling.uniform(seed, sampling.FLIP, positions, 1)[:, 0] < augment.flip
  )
  return Draw(boxes, flips, *_rand_augment(augment, seed, positions))


def uniform_for(seed, stream, positions, shape):
  """Random numbers [b, *shape] in [0, 1) that belong to positions."""
  numbers = sampling.uniform(seed, stream, positions, int(np.prod(shape)))
  return numbers.reshape(len(positions), *shape)


def crop_boxes(chance, sizes, scale):
  """RandomResizedCrop's boxes (torchvision: the first of ten that fits).

  Args:
    chance: float [b, attempts, 4] in [0, 1): area, ratio, top, left.
    sizes: int [b, 2], heights and widths.
    scale: (least, most) share of the area.

  Returns:
    int32 [b, 4]: top, left, height, width.
  """
  full_h, full_w = sizes[:, :1].astype(np.float64), sizes[:, 1:]
  area = full_h * full_w * (scale[0] + chance[..., 0] * (scale[1] - scale[0]))
  low, high = np.log(_RATIO)
  ratio = np.exp(low + chance[..., 1] * (high - low))
  height = np.rint(np.sqrt(area / ratio))
  width = np.rint(np.sqrt(area * ratio))
  fits = (height >= 1) & (height <= full_h) & (width >= 1) & (width <= full_w)
  top = np.floor(chance[..., 2] * (full_h - height + 1))
  left = np.floor(chance[..., 3] * (full_w - width + 1))
  boxes = np.stack([top, left, height, width], -1)
  first = np.argmax(fits, 1)
  boxes = boxes[np.arange(len(boxes)), first]
  boxes = np.where(fits.any(1)[:, None], boxes, _central_boxes(sizes))
  return boxes.astype(np.int32)


def _central_boxes(sizes):
  """The central box of a permitted ratio, when no attempt fitted."""
  height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(float)
  new_h = np.minimum(height, np.maximum(1, np.rint(width / _RATIO[0])))
  new_w = np.minimum(width, np.maximum(1, np.rint(height * _RATIO[1])))
  top, left = (height - new_h) // 2, (width - new_w) // 2
  return np.stack([top, left, new_h, new_w], -1)


def _rand_augment(augment, seed, positions):
  """Draws RandAugment's operations and arguments, each [b, o]."""
  shape = (augment.operations, 5)
  chance = uniform_for(seed, sampling.RAND_AUGMENT, positions, shape)
  operations = np.floor(chance[..., 0] * len(OPERATIONS)).astype(np.int32)
  # Box-Muller, for the magnitude's normal noise.
  radius = np.sqrt(-2 * np.log1p(-chance[..., 1]))
  normal = radius * np.cos(2 * np.pi * chance[..., 2])
  level = np.clip(augment.magnitude + augment.deviation * normal, 0, 10)
  sign = np.where(chance[..., 3] < 0.5, -1.0, 1.0)
  arguments = argument(operations, level, sign)
  happens = chance[..., 4] < augment.probability
  return np.where(happens, operations, -1).astype(np.int32), arguments


def argument(operations, level, sign):
  """Turns RandAugment levels into what the operations take.

  The increasing variants of timm/data/auto_augment.py (LEVEL_TO_ARG).

  Args:
    operations: int array of indices into OPERATIONS.
    level: float array of the same shape, 0 to 10.
    sign: array of the same shape, -1 or 1.

  Returns:
    float32 array of the same shape: degrees (rotate), bits kept (posterize),
    threshold (solarize), amount (solarize_add), factor (color, contrast,
    brightness, sharpness), slope (shear), share of the side (translate),
    0 (the others).
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
