"""Training input through tf.data: JPEG crops decoded and augmented in C++.

Python only reads bytes and draws chance, for some samples at a time; every
element carries its position, so that nothing but that needs saving.
"""

import dataclasses
import itertools

import numpy as np

from groupvit_jax.data import augment as augment_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data import reader, transforms
from groupvit_jax.data.tensorflow_import import tensorflow

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
      raise reader.BadSourceError(
        f'{reader.source_name(self._reader.source)}: none of the last '
        f'{self._lost // self._step} images decodes. Check how this data was '
        'prepared.'
      )
    samples = [_prepare(self._reader, s) for s in self._reader.read_many(where)]
    return _elements(samples, self._augment, self._reader.seed)

  def _blank(self, where):
    """One black pixel each, with attempt -1."""
    size = (1, 1)
    blank = np.zeros((*size, 3), np.uint8)
    samples = [reader.Sample(p, -1, blank, size, '') for p in where.tolist()]
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
  return out | {'image': transforms.apply(**element, size=size)}


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
