"""Training input without TensorFlow: batch gathers and PIL in threads.

The quicker choice for small images in memory, and the only one where
TensorFlow is not installed.
"""

import collections
import concurrent.futures
import itertools
import os

import numpy as np
from PIL import Image

from groupvit_jax.data import augment as augment_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data import order, pil_transforms

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
    chances = order.hash64(read.seed, order.CAPTION, where).tolist()
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
  return pil_transforms.apply(
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
