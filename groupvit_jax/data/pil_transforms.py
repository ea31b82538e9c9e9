"""The training augmentations in PIL, whose arithmetic the original obeys.

Serves where TensorFlow is not installed; the TensorFlow operations are tested
against these.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from groupvit_jax.data import augment as augment_lib


def apply(image, box, flip, operations, arguments, size):
  """Applies what was drawn for one image.

  Args:
    image: PIL image, RGB.
    box: crop (top, left, height, width) in pixels.
    flip: bool, mirror left and right.
    operations: int [o], indices into augment.OPERATIONS or -1.
    arguments: float [o].
    size: side of the result in pixels.

  Returns:
    uint8 [size, size, 3].
  """
  image = crop_resize(image, box, size)
  if flip:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  for operation, value in zip(operations, arguments, strict=True):
    if operation >= 0:
      image = operate(image, augment_lib.OPERATIONS[operation], float(value))
  return np.asarray(image)


def crop_resize(image, box, size):
  """Crops a PIL image and resizes it (bilinear, antialiased) to a square."""
  top, left, height, width = map(int, box)
  region = (left, top, left + width, top + height)
  if (height, width) == (size, size):
    return image.crop(region)
  # Crop first: `resize(box=)` would let pixels from outside bleed in.
  if region != (0, 0, image.width, image.height):
    image = image.crop(region)
  return image.resize((size, size), Image.Resampling.BILINEAR)


def operate(image, name, value):
  """One RandAugment operation (timm/data/auto_augment.py) on a PIL image.

  Args:
    image: PIL image, RGB.
    name: one of augment.OPERATIONS.
    value: its argument (see augment.argument).

  Returns:
    PIL image of the same size.
  """
  if name in _PLAIN:
    return _PLAIN[name](image)
  if name in _ENHANCE:
    return _ENHANCE[name](image).enhance(value)
  if name == 'rotate':
    return image.rotate(
      value, Image.Resampling.BILINEAR, fillcolor=augment_lib.FILL
    )
  if name == 'posterize':
    # Not ImageOps.posterize: its newer versions refuse 0 bits, which level 10
    # asks for (a black picture, as the original trained on).
    mask = 256 - (1 << (8 - int(value)))
    return image.point([x & mask for x in range(256)] * 3)
  if name == 'solarize':
    return ImageOps.solarize(image, int(value))
  if name == 'solarize_add':
    table = np.arange(256)
    table = np.where(table < 128, np.minimum(255, table + int(value)), table)
    return image.point(table.tolist() * 3)
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    _matrix(name, value, image.size),
    Image.Resampling.BILINEAR,
    fillcolor=augment_lib.FILL,
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


def _matrix(name, value, size):
  """Affine coefficients, from output to input pixels."""
  return {
    'shear_x': (1, value, 0, 0, 1, 0),
    'shear_y': (1, 0, 0, value, 1, 0),
    'translate_x': (1, 0, value * size[0], 0, 1, 0),
    'translate_y': (1, 0, 0, 0, 1, value * size[1]),
  }[name]
