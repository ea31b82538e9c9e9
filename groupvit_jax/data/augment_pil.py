"""The training augmentations in PIL, whose arithmetic the original obeys.

Serves where TensorFlow is not installed; the TensorFlow operations are tested
against these.
"""

import collections
import concurrent.futures
import itertools
import os

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from groupvit_jax.data import augment as augment_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data import sampling


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


# Training input without TensorFlow: batch gathers and PIL in threads.
#
# The quicker choice for small images in memory, and the only one where
# TensorFlow is not installed.

# Samples per task of a thread: their chance is drawn in one go.
_READ = 16
# Batches that the threads work on at the same time.
_BATCHES_AHEAD = 2
# Batches of more bytes than this (256 images of 96 px) are worth the threads.
_THREADS_FROM = 256 * 96 * 96 * 3


def batches(read, augment, size, positions):
  """Yields augmented batches of a source, without end.

  Args:
    read: Reader of the source.
    augment: Augment.
    size: side of the pictures in pixels.
    positions: Positions of this process.

  Yields:
    Dict: positions int64 [b], image uint8 [b, size, size, 3], captions list
    of b str, skipped int.
  """
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    if hasattr(read.source, 'images'):
      yield from _array_batches(read, augment, size, positions, pool)
    else:
      yield from _read_batches(read, augment, size, positions, pool)


def _array_batches(read, augment, size, positions, pool):
  """Whole-batch gathers; only resizing looks at images one by one."""
  source = read.source
  sides = np.array(source.images.shape[1:3])
  for number in itertools.count():
    where = positions.batch(number)
    indices = read.shuffle(where)
    drawn = augment_lib.draw(
      augment, read.seed, where, np.broadcast_to(sides, (len(where), 2))
    )
    whole = augment.scale is None and (sides == size).all()
    if whole and not augment.operations:
      image = source.images[indices]
      image[drawn.flips] = image[drawn.flips, :, ::-1]
    else:
      image = _apply_all(source.images, indices, drawn, size, pool)
    chances = sampling.hash64(read.seed, sampling.CAPTION, where).tolist()
    choices = [source.captions[i] for i in indices.tolist()]
    captions = [
      choice[chance % len(choice)]
      for choice, chance in zip(choices, chances, strict=True)
    ]
    yield {
      'positions': where,
      'image': image,
      'captions': captions,
      'skipped': 0,
    }


def _apply_all(images, indices, drawn, size, pool):
  """Crops, flips and augments arrays, in threads if they are large."""
  out = np.empty((len(indices), size, size, 3), np.uint8)

  def apply(i):
    image = Image.fromarray(images[indices[i]])
    out[i] = _apply(image, drawn, i, size)

  large = out.size + images[0].size * len(out) > 2 * _THREADS_FROM
  for _ in (pool.map if large else map)(apply, range(len(out))):
    pass
  return out


def _apply(image, drawn, i, size):
  return apply(
    image,
    drawn.boxes[i],
    drawn.flips[i],
    drawn.operations[i],
    drawn.arguments[i],
    size,
  )


def _read_batches(read, augment, size, positions, pool):
  """Decodes and augments in threads, some batches ahead."""
  waiting = collections.deque()

  def submit(number):
    where = positions.batch(number)
    parts = [where[i : i + _READ] for i in range(0, len(where), _READ)]
    tasks = [pool.submit(_make, read, augment, size, part) for part in parts]
    waiting.append((where, tasks))

  try:
    for number in itertools.count():
      submit(number)
      if number < _BATCHES_AHEAD:
        continue
      where, tasks = waiting.popleft()
      done = [task.result() for task in tasks]
      samples = [sample for part, _ in done for sample in part]
      yield {
        'positions': where,
        'image': np.concatenate([image for _, image in done]),
        'captions': [sample.caption for sample in samples],
        'skipped': sum(sample.attempt for sample in samples),
      }
  finally:
    for _, tasks in waiting:
      for task in tasks:
        task.cancel()


def _make(read, augment, size, where):
  """Reads, decodes and augments samples: (list of Sample, uint8 array)."""
  samples, pictures = [], []
  for sample in read.read_many(where):
    while True:
      try:
        pictures.append(images_lib.to_pil(sample.image))
        break
      except images_lib.BadSampleError as error:
        sample = read.after(sample, error)
    samples.append(sample)
  sizes = [sample.size for sample in samples]
  drawn = augment_lib.draw(augment, read.seed, where, sizes)
  out = [_apply(picture, drawn, i, size) for i, picture in enumerate(pictures)]
  return samples, np.stack(out)
