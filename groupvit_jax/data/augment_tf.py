"""Training input through tf.data: JPEG crops decoded and augmented in C++.

Python only reads bytes and draws chance, for some samples at a time; every
element carries its position, so that nothing but that needs saving.
"""

import dataclasses
import functools
import importlib.util
import itertools
import math
import os

import numpy as np
from absl import logging

from groupvit_jax.data import augment as augment_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data import sampling

# Imports TensorFlow for input work only.
#
# It must not take the accelerator's memory, which belongs to JAX, nor fill the
# log; and only those who build a TensorFlow pipeline need it installed.


def available():
  """Whether TensorFlow is installed (without importing it)."""
  return importlib.util.find_spec('tensorflow') is not None


@functools.cache
def tensorflow():
  """Returns the tensorflow module, with its GPUs and chatter switched off."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(
      "This input needs TensorFlow: pip install 'groupvit_jax[train]', or "
      "choose backend='numpy'."
    ) from error
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:  # someone used TensorFlow before us
    logging.warning('TensorFlow had started already and may hold GPU memory.')
  return tf


# The training augmentations as TensorFlow operations.
#
# Plain functions of one uint8 image [h, w, 3] and of what `augment.draw` drew,
# equal to PIL's arithmetic, which the original obeys. They run eagerly and
# inside tf.data alike.


def apply(
  data, is_jpeg, shape, box, flip, size, operations=None, arguments=None
):
  """Decodes one image and applies what was drawn for it.

  Args:
    data: string tensor: a JPEG file, or the raw bytes of uint8 [h, w, 3].
    is_jpeg: bool tensor, which of the two.
    shape: int32 [2], height and width.
    box: int32 [4], crop (top, left, height, width) in pixels.
    flip: bool tensor, mirror left and right.
    size: int, side of the result in pixels.
    operations: int32 [o], indices into augment.OPERATIONS or -1; None for no
      RandAugment.
    arguments: float32 [o].

  Returns:
    uint8 [size, size, 3].
  """
  tf = tensorflow()
  image = decode_crop(data, is_jpeg, shape, box)
  image = resize(image, size)
  image = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
  for i in range(0 if operations is None else operations.shape[0]):
    image = operate(image, operations[i], arguments[i])
  return tf.ensure_shape(image, [size, size, 3])


def decode_crop(data, is_jpeg, shape, box):
  """Decodes only the crop of a JPEG, or slices it out of a raw image."""
  tf = tensorflow()

  def from_jpeg():
    return tf.io.decode_and_crop_jpeg(
      data, box, channels=3, dct_method='INTEGER_ACCURATE'
    )

  def from_raw():
    image = tf.reshape(
      tf.io.decode_raw(data, tf.uint8), [shape[0], shape[1], 3]
    )
    return tf.slice(image, [box[0], box[1], 0], tf.stack([box[2], box[3], 3]))

  return tf.cond(is_jpeg, from_jpeg, from_raw)


def resize(image, size):
  """Resizes to a square as PIL's BILINEAR does (antialiased).

  Args:
    image: uint8 [h, w, 3].
    size: int.

  Returns:
    uint8 [size, size, 3]; within one level of PIL, which rounds in between.
  """
  tf = tensorflow()
  sides = tf.shape(image)[:2]

  def shrink():
    return tf.raw_ops.ScaleAndTranslate(
      images=image[None],
      size=[size, size],
      scale=size / tf.cast(sides, tf.float32),
      translation=[0.0, 0.0],
      kernel_type='triangle',
      antialias=True,
    )

  def enlarge():  # the same where nothing shrinks, at a third of the cost
    return tf.raw_ops.ResizeBilinear(
      images=image[None], size=[size, size], half_pixel_centers=True
    )

  def resized():
    out = tf.cond(tf.reduce_all(sides <= size), enlarge, shrink)[0]
    return tf.cast(tf.clip_by_value(tf.round(out), 0, 255), tf.uint8)

  return tf.cond(tf.reduce_all(tf.equal(sides, size)), lambda: image, resized)


def operate(image, operation, value):
  """One RandAugment operation (timm/data/auto_augment.py).

  Args:
    image: uint8 [h, w, 3].
    operation: int32 tensor, index into augment.OPERATIONS; -1 does nothing.
    value: float32 tensor, its argument (see augment.argument).

  Returns:
    uint8 [h, w, 3].
  """
  tf = tensorflow()
  branches = [lambda: image]
  for name in augment_lib.OPERATIONS:
    branches.append(functools.partial(FUNCTIONS[name], image, value))
  return tf.switch_case(operation + 1, branches)


def auto_contrast(image, value=None):
  """Stretches each channel to 0..255."""
  tf = tensorflow()
  low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
  high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
  scale = 255 / tf.maximum(high - low, 1)
  levels = tf.range(256, dtype=tf.float64)[:, None]
  table = tf.clip_by_value(tf.floor(levels * scale - low * scale), 0, 255)
  table = tf.where(high > low, table, levels)
  return _look_up(image, table)


def equalize(image, value=None):
  """Flattens the histogram of each channel (PIL's ImageOps.equalize)."""
  tf = tensorflow()
  counts = _histogram(image)
  present = counts > 0
  last = 255 - tf.argmax(present[::-1], 0, output_type=tf.int32)
  last_count = tf.gather(counts, last, batch_dims=0)
  last_count = tf.linalg.diag_part(last_count)
  step = (tf.reduce_sum(counts, 0) - last_count) // 255
  before = tf.cumsum(counts, 0, exclusive=True)
  safe = tf.maximum(step, 1)
  table = tf.minimum((step // 2 + before) // safe, 255)
  levels = tf.range(256)[:, None]
  return _look_up(image, tf.where(step > 0, table, levels))


def invert(image, value=None):
  """Turns x into 255 - x."""
  return 255 - image


def rotate(image, degrees):
  """Rotates counter-clockwise around the centre."""
  tf = tensorflow()
  height, width = _float_sides(image)
  angle = -degrees * (math.pi / 180)
  cos, sin = tf.cos(angle), tf.sin(angle)
  x, y = width / 2, height / 2
  return _affine(
    image,
    (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y),
  )


def posterize(image, bits):
  """Keeps the highest bits of each value."""
  tf = tensorflow()
  mask = tf.bitwise.left_shift(255, 8 - tf.cast(bits, tf.int32))
  return tf.bitwise.bitwise_and(image, tf.cast(mask & 255, tf.uint8))


def solarize(image, threshold):
  """Inverts values from the threshold on."""
  tf = tensorflow()
  return tf.where(tf.cast(image, tf.float32) < threshold, image, 255 - image)


def solarize_add(image, amount):
  """Adds to the values below 128."""
  tf = tensorflow()
  added = tf.cast(image, tf.int32) + tf.cast(amount, tf.int32)
  added = tf.cast(tf.minimum(added, 255), tf.uint8)
  return tf.where(image < 128, added, image)


def color(image, factor):
  """Blends with its grey version."""
  tf = tensorflow()
  return _blend(tf.repeat(_gray(image), 3, axis=2), image, factor)


def contrast(image, factor):
  """Blends with its mean grey level."""
  tf = tensorflow()
  mean = tf.reduce_mean(tf.cast(_gray(image), tf.float64))
  return _blend(tf.cast(tf.floor(mean + 0.5), tf.int32), image, factor)


def brightness(image, factor):
  """Blends with black."""
  return _blend(0, image, factor)


def sharpness(image, factor):
  """Blends with its smoothed version (PIL's SMOOTH; the border stays)."""
  tf = tensorflow()
  values = tf.cast(image, tf.float32)[None]
  ones = tf.ones([3, 3, 3, 1])
  total = tf.nn.depthwise_conv2d(values, ones, [1, 1, 1, 1], 'VALID')
  total += 4 * values[:, 1:-1, 1:-1]
  inner = tf.cast(tf.floor(total / 13 + 0.5), tf.int32)[0]
  inside = tf.pad(tf.ones_like(inner, tf.bool), [[1, 1], [1, 1], [0, 0]])
  smooth = tf.pad(inner, [[1, 1], [1, 1], [0, 0]])
  smooth = tf.where(inside, smooth, tf.cast(image, tf.int32))
  return _blend(smooth, image, factor)


def shear_x(image, slope):
  """Shifts each row in proportion to its height."""
  return _affine(image, (1.0, slope, 0.0, 0.0, 1.0, 0.0))


def shear_y(image, slope):
  """Shifts each column in proportion to its place."""
  return _affine(image, (1.0, 0.0, 0.0, slope, 1.0, 0.0))


def translate_x(image, share):
  """Shifts by a share of the width."""
  _, width = _float_sides(image)
  return _affine(image, (1.0, 0.0, share * width, 0.0, 1.0, 0.0))


def translate_y(image, share):
  """Shifts by a share of the height."""
  height, _ = _float_sides(image)
  return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, share * height))


FUNCTIONS = {name: globals()[name] for name in augment_lib.OPERATIONS}


def _affine(image, matrix):
  """Samples bilinearly at (ax + by + c, dx + ey + f), as PIL does.

  PIL counts from pixel corners, repeats the border within half a pixel and
  fills beyond it.
  """
  tf = tensorflow()
  a, b, c, d, e, f = (tf.convert_to_tensor(v, tf.float32) for v in matrix)
  shift_x = a * 0.5 + b * 0.5 + c
  shift_y = d * 0.5 + e * 0.5 + f
  zero = tf.zeros([])
  transform = [a, b, shift_x - 0.5, d, e, shift_y - 0.5, zero, zero]
  out = tf.raw_ops.ImageProjectiveTransformV3(
    images=tf.cast(image, tf.float32)[None],
    transforms=tf.stack(transform)[None],
    output_shape=tf.shape(image)[:2],
    fill_value=0.0,
    interpolation='BILINEAR',
    fill_mode='NEAREST',
  )[0]
  height, width = _float_sides(image)
  x = tf.range(width)[None]
  y = tf.range(height)[:, None]
  from_x = a * x + b * y + shift_x
  from_y = d * x + e * y + shift_y
  inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
  out = tf.cast(out, tf.uint8)
  return tf.where(
    inside[..., None], out, tf.constant(augment_lib.FILL, tf.uint8)
  )


def _float_sides(image):
  tf = tensorflow()
  sides = tf.cast(tf.shape(image), tf.float32)
  return sides[0], sides[1]


def _gray(image):
  """ITU-R 601 luma in PIL's integers: int32 [h, w, 1]."""
  tf = tensorflow()
  weights = tf.constant([19595, 38470, 7471])
  total = tf.reduce_sum(tf.cast(image, tf.int32) * weights, 2, keepdims=True)
  return tf.bitwise.right_shift(total + 0x8000, 16)


def _blend(base, image, factor):
  """PIL's Image.blend: base + factor (image - base), cut to a byte."""
  tf = tensorflow()
  base = tf.cast(base, tf.float32)
  out = base + factor * (tf.cast(image, tf.float32) - base)
  return tf.cast(tf.clip_by_value(out, 0, 255), tf.uint8)


def _histogram(image):
  """Counts of each value per channel: int32 [256, 3]."""
  tf = tensorflow()
  bins = tf.cast(image, tf.int32) * 3 + tf.range(3)
  counts = tf.math.bincount(
    tf.reshape(bins, [-1]), minlength=768, maxlength=768
  )
  return tf.reshape(counts, [256, 3])


def _look_up(image, table):
  """Applies a table [256, 3] to each channel."""
  tf = tensorflow()
  table = tf.reshape(tf.cast(table, tf.uint8), [-1])
  return tf.gather(table, tf.cast(image, tf.int32) * 3 + tf.range(3))


# Samples per call into Python.
_READ = 16
# Threads of the pipeline: more than cores, since reads wait for the disk.
_THREADS = 16
# Reading runs ahead of what arrives by less than this, unless nothing decodes.
_LOST = 8192


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
  feed = _Feed(read, augment, positions)
  stream = _dataset(feed, augment, size, positions).as_numpy_iterator()
  held = None  # what has arrived and was not handed out
  for number in itertools.count():
    where = positions.batch(number)
    while held is None or held['position'][-1] < where[-1]:
      chunk = next(stream)
      feed.check(chunk)
      held = chunk if held is None else _join(held, chunk)
    absent = np.setdiff1d(where, held['position'])
    if absent.size:  # did not decode; from here on, chunks are not batches
      held = _join(held, _repair(read, augment, size, absent))
    batch, held = _cut(held, where)
    yield {
      'positions': where,
      'image': batch['image'],
      'captions': [caption.decode() for caption in batch['caption']],
      'skipped': int(batch['attempt'].sum()),
    }


def _join(first, second):
  """Joins two chunks by position."""
  joined = {key: np.concatenate([first[key], second[key]]) for key in first}
  order = np.argsort(joined['position'])
  return {key: values[order] for key, values in joined.items()}


def _cut(chunk, where):
  """Splits a chunk after the last of some positions."""
  at = np.searchsorted(chunk['position'], where[-1], 'right')
  if at == len(chunk['position']):
    return chunk, None
  rest = {key: values[at:] for key, values in chunk.items()}
  head = {key: values[:at] for key, values in chunk.items()}
  return head, rest


class _Feed:
  """What tf.data calls in Python; a failure there waits for `check`."""

  def __init__(self, read, augment, positions):
    self._reader = read
    self._augment = augment
    self._failure = None
    self._step = positions.process_count
    self._arrived = positions.start
    self._lost = (_LOST + 8 * positions.batch_size) * self._step

  def __call__(self, where):
    """Reads samples and draws their chance, as arrays for `_dataset`."""
    try:
      if self._failure is None:
        return self._read(where)
    except BaseException as error:
      self._failure = error
    return self._blank(where)

  def check(self, chunk):
    """Notes what arrived; raises what went wrong in `__call__`."""
    self._arrived = max(self._arrived, int(chunk['position'][-1]))
    if (chunk['attempt'] < 0).any():
      raise self._failure

  def _read(self, where):
    if where[0] - self._arrived > self._lost:
      raise sampling.BadSourceError(
        f'{sampling.source_name(self._reader.source)}: none of the last '
        f'{self._lost // self._step} images decodes. Check how this data was '
        'prepared.'
      )
    samples = [_prepare(self._reader, s) for s in self._reader.read_many(where)]
    return _elements(samples, self._augment, self._reader.seed)

  def _blank(self, where):
    """One black pixel each, with attempt -1."""
    size = (1, 1)
    blank = np.zeros((*size, 3), np.uint8)
    samples = [sampling.Sample(p, -1, blank, size, '') for p in where.tolist()]
    still = augment_lib.Augment(operations=self._augment.operations)
    return _elements(samples, still, self._reader.seed)


def _prepare(read, sample):
  """Leaves JPEG files to TensorFlow and decodes all else here."""
  while True:
    if _is_jpeg(sample):
      return sample
    try:
      image = images_lib.to_array(sample.image)
      return dataclasses.replace(sample, image=image)
    except images_lib.BadSampleError as error:
      sample = read.after(sample, error)


def _is_jpeg(sample):
  return isinstance(sample.image, bytes) and images_lib.is_jpeg(sample.image)


def _elements(samples, augment, seed):
  """Samples and their chance as a dict of arrays, see `_signature`."""
  where = np.array([sample.position for sample in samples], np.int64)
  sizes = np.array([sample.size for sample in samples], np.int32)
  drawn = augment_lib.draw(augment, seed, where, sizes)
  jpegs = [_is_jpeg(sample) for sample in samples]
  data = [
    sample.image if jpeg else sample.image.tobytes()
    for sample, jpeg in zip(samples, jpegs, strict=True)
  ]
  elements = {
    'position': where,
    'attempt': np.array([sample.attempt for sample in samples], np.int64),
    'caption': np.array([s.caption.encode() for s in samples], object),
    'data': np.array(data, object),
    'is_jpeg': np.array(jpegs),
    'shape': sizes,
    'box': drawn.boxes,
    'flip': drawn.flips,
  }
  if augment.operations:
    elements['operations'] = drawn.operations
    elements['arguments'] = drawn.arguments
  return elements


def _signature(operations):
  """Types and shapes of one element.

  Nothing of size 0 may be among them: `unbatch` crashes on it (TF 2.21).
  """
  tf = tensorflow()
  signature = {
    'position': (tf.int64, []),
    'attempt': (tf.int64, []),
    'caption': (tf.string, []),
    'data': (tf.string, []),
    'is_jpeg': (tf.bool, []),
    'shape': (tf.int32, [2]),
    'box': (tf.int32, [4]),
    'flip': (tf.bool, []),
  }
  if operations:
    signature['operations'] = (tf.int32, [operations])
    signature['arguments'] = (tf.float32, [operations])
  return signature


def _dataset(feed, augment, size, positions):
  """Endless batches, tied to their positions, without what fails to decode."""
  tf = tensorflow()
  signature = _signature(augment.operations)
  types = [kind for kind, _ in signature.values()]

  def call(where):
    elements = feed(where)
    return [elements[key] for key in signature]

  @tf.autograph.experimental.do_not_convert
  def read(where):
    values = tf.numpy_function(call, [where], types)
    return {
      key: tf.ensure_shape(value, [None, *shape])
      for (key, (_, shape)), value in zip(
        signature.items(), values, strict=True
      )
    }

  @tf.autograph.experimental.do_not_convert
  def decode(element):
    return _decode(element, size)

  first = int(positions.batch(0)[0])
  data = tf.data.Dataset.range(first, 2**62, positions.process_count)
  data = data.batch(min(_READ, positions.batch_size))
  data = data.map(read, tf.data.AUTOTUNE, deterministic=True).unbatch()
  data = data.map(decode, tf.data.AUTOTUNE, deterministic=True)
  data = data.ignore_errors()
  data = data.batch(positions.batch_size).prefetch(2)
  options = tf.data.Options()
  options.deterministic = True
  options.threading.private_threadpool_size = _THREADS
  options.experimental_optimization.inject_prefetch = False
  return data.with_options(options)


def _decode(element, size):
  """Turns what was read into what is batched, eagerly or in tf.data."""
  out = {key: element.pop(key) for key in ('position', 'attempt', 'caption')}
  return out | {'image': apply(**element, size=size)}


def _repair(read, augment, size, where):
  """Makes the samples of positions whose first choice did not decode."""
  rows = [
    _repair_one(read, augment, size, _prepare(read, sample))
    for sample in read.read_many(where)
  ]
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _repair_one(read, augment, size, sample):
  tf = tensorflow()
  while True:
    elements = _elements([sample], augment, read.seed)
    element = {key: tf.constant(value[0]) for key, value in elements.items()}
    try:
      row = _decode(element, size)
      return {key: value.numpy() for key, value in row.items()}
    except tf.errors.OpError as error:
      sample = _prepare(read, read.after(sample, error.message))
