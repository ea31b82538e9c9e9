"""Batches for training and evaluation.

Training batches are an endless function of one integer, the position. They are
decoded, augmented and tokenized in the threads of tf.data or of Python: both
give the same bits. A background thread keeps some batches ahead of the step.
"""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Int32, Int64, UInt8

from groupvit_jax.data import augment as augment_lib
from groupvit_jax.data import sampling, sources
from groupvit_jax.data.augment import Augment, Draw
from groupvit_jax.data.reading import Reader
from groupvit_jax.data.sampling import Positions
from groupvit_jax.errors import SourceError

BACKENDS = ('auto', 'tf', 'numpy')

# Samples per task of a thread.
_CHUNK = 16
# Batches that threads work on at the same time, and that wait for the step.
_BATCHES_AHEAD = 2
# Batches of more bytes than this (256 images of 96 px) are worth the threads.
_THREADS_FROM = 256 * 96 * 96 * 3
# How long a full queue waits before it looks whether anyone still listens.
_PATIENCE = 0.1  # seconds
# How often a waiting step looks whether the accelerator still computes.
_GLANCE = 0.02  # seconds
_LONGEST_GLANCE = 1.0  # more is no waiting: the process was suspended
_NOTHING: Any = object()
# A batch that takes longer never comes: a disk or a network does not answer.
_LONGEST = 600.0  # seconds
# How long a closed iterator waits for the thread that makes its batches.
_FAREWELL = 5.0  # seconds


Batcher = Callable[
  [list[str], Int64[np.ndarray, 'b']], Int32[np.ndarray, 'b t l']
]


AUGMENT_ON = ('host', 'device')


class Part(NamedTuple):
  """Samples of consecutive positions of a process.

  Fields:
    images: pixels, augmented as far as the host does it.
    tokens: texts of each sample.
    rejected: reasons of the bad samples that they stand in for.
  """

  images: UInt8[np.ndarray, 'b s s 3']
  tokens: Int32[np.ndarray, 'b t l']
  rejected: list[str]


class Work(NamedTuple):
  """Parts that the drivers of a pipeline share.

  Fields:
    reader: of the source.
    batcher: makes tokens of captions.
    augment: the augmentation level.
    size: side of the images in pixels.
    positions: of this process.
    on_device: whether the step flips and applies RandAugment.
  """

  reader: Reader
  batcher: Batcher
  augment: Augment
  size: int
  positions: Positions
  on_device: bool = False

  @property
  def chunks(self) -> int:
    """Chunks in a batch."""
    return -(-self.positions.batch_size // _CHUNK)

  def draw(self, where: Int64[np.ndarray, 'b']) -> Draw:
    """The random numbers of positions, for the host."""
    level = augment_lib.on_host(self.augment, self.on_device)
    return augment_lib.draw(level, self.reader.seed, where)

  def chunk(self, number: int) -> Part:
    """Reads, decodes, augments and tokenizes a chunk of a batch."""
    batch, at = divmod(number, self.chunks)
    if not at:
      first = int(self.positions.batch(batch)[0])
      self.reader.ahead(first, self.positions.batch_size)
    where = self.positions.batch(batch)[at * _CHUNK : (at + 1) * _CHUNK]
    drawn = self.draw(where)
    images = np.empty((len(where), self.size, self.size, 3), np.uint8)
    captions, rejected = [], []

    # One at a time: a decoded image may take 150 MB.
    def make(raw, i):
      images[i] = augment_lib.apply(raw, drawn, i, self.size)

    for sample in self.reader.read(where, make):
      captions.append(sample.caption)
      rejected += sample.rejected
    return Part(images, self.batcher(captions, where), rejected)

  def finished(self, batches: Iterable[Part]) -> Iterator[Any]:
    """Yields rejected samples, shares of the sources, and the batch."""
    for number, (images, tokens, rejected) in enumerate(batches):
      where = self.positions.batch(number)
      batch = {'image': images, 'tokens': tokens}
      if self.on_device:
        drawn = augment_lib.draw(self.augment, self.reader.seed, where)
        batch |= {name: getattr(drawn, name) for name in augment_lib.DRAWN}
      yield rejected, self.reader.shares(where), batch


def train_batches(
  reader: Reader,
  batcher: Batcher,
  positions: Positions,
  *,
  image_size: int,
  augment: str | Augment,
  backend: str = 'auto',
  augment_on: str = 'host',
) -> 'TrainIterator':
  """Endless shuffled, augmented, tokenized batches.

  Args:
    reader: of the source. Batches depend on its seed and the position only.
    batcher: (b captions, b positions) -> int32 [b, t, l].
    positions: where this process starts or resumes, and its batch size.
    image_size: side of the images in pixels.
    augment: 'none', 'flip', 'light', 'deit' (the released one) or an Augment.
    backend: whose threads work: 'tf' (tf.data), 'numpy' (Python's), or 'auto',
      which is 'numpy': it was the faster one wherever it was measured.
    augment_on: 'host', or 'device': images are only cropped here, and batches
      say how `on_device.augmented` flips them and applies RandAugment.

  Raises:
    ValueError: an unknown backend.
  """
  if isinstance(augment, str):
    augment = augment_lib.AUGMENTS[augment]
  if backend not in BACKENDS:
    raise ValueError(f'Unknown backend {backend!r}; choose from {BACKENDS}.')
  in_memory = isinstance(reader.source, sources.ArraySource)
  if backend == 'tf':
    tensorflow()  # its absence is an error here and now
    make = _tf_batches
  else:
    make = _array_batches if in_memory else _threaded_batches
  on_device = augment_on == 'device'
  work = Work(reader, batcher, augment, image_size, positions, on_device)
  return TrainIterator(work.finished(make(work)), positions, reader.slowest)


@functools.cache
def tensorflow() -> ModuleType:
  """Returns the tensorflow module, kept off the GPUs, which belong to JAX.

  Raises:
    ImportError: it is not installed.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(
      "data.backend='tf' needs TensorFlow: pip install "
      "'groupvit_jax[train]', or choose data.backend=numpy."
    ) from error
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:  # someone used TensorFlow before us
    logging.warning('TensorFlow had started already and may hold GPU memory.')
  return tf


def _tf_batches(work: Work) -> Iterator[Part]:
  """Chunks made by tf.data, in order."""
  tf = tensorflow()
  failures = []

  def chunk(number):
    try:
      images, tokens, rejected = work.chunk(int(number))
    except BaseException as error:  # tf.data would make a text of it
      failures.append(error)
      raise
    return images, tokens, np.array(rejected, object)

  @tf.autograph.experimental.do_not_convert
  def call(number):
    return tf.numpy_function(chunk, [number], (tf.uint8, tf.int32, tf.string))

  data = tf.data.Dataset.range(2**62)
  data = data.map(call, tf.data.AUTOTUNE, deterministic=True)
  data = data.prefetch(_BATCHES_AHEAD * work.chunks)
  try:
    parts = (
      Part(images, tokens, [reason.decode() for reason in rejected])
      for images, tokens, rejected in data.as_numpy_iterator()
    )
    while True:
      yield _join(itertools.islice(parts, work.chunks))
  except tf.errors.OpError as error:
    raise (failures[0] if failures else error) from None


def _threaded_batches(work: Work) -> Iterator[Part]:
  """Chunks made by Python's threads, in order."""
  waiting = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    try:
      for number in itertools.count():
        first = number * work.chunks
        chunks = range(first, first + work.chunks)
        waiting.append([pool.submit(work.chunk, chunk) for chunk in chunks])
        if number >= _BATCHES_AHEAD:
          yield _join(task.result() for task in waiting.popleft())
    finally:
      for task in itertools.chain(*waiting):
        task.cancel()


def _join(parts: Iterable[Part]) -> Part:
  images, tokens, rejected = zip(*parts, strict=True)
  rejected = list(itertools.chain(*rejected))
  if len(images) == 1:
    return Part(images[0], tokens[0], rejected)
  return Part(np.concatenate(images), np.concatenate(tokens), rejected)


def _array_batches(work):
  """Whole-batch gathers; only resizing looks at images one by one."""
  reader, size = work.reader, work.size
  source = reader.source
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for number in itertools.count():
      where = work.positions.batch(number)
      indices = reader.order(where)
      drawn = work.draw(where)
      images = source.images[indices]
      whole = drawn.scale is None and images.shape[1:3] == (size, size)
      if whole and not drawn.operations.size:
        images[drawn.flips] = images[drawn.flips, :, ::-1]
      else:
        images = _augment_arrays(images, drawn, size, pool)
      numbers = sampling.hash64(reader.seed, sampling.CAPTION, where).tolist()
      captions = [
        source.captions[index][number % len(source.captions[index])]
        for index, number in zip(indices.tolist(), numbers, strict=True)
      ]
      yield Part(images, work.batcher(captions, where), [])


def _augment_arrays(images, drawn, size, pool):
  """Crops, flips and augments arrays, in threads if they are large."""
  out = np.empty((len(images), size, size, 3), np.uint8)

  def chunk(start):
    for i in range(start, min(start + _CHUNK, len(images))):
      out[i] = augment_lib.apply(images[i], drawn, i, size)

  starts = range(0, len(images), _CHUNK)
  few = images.nbytes + 3 * len(images) * size**2 < 2 * _THREADS_FROM
  for _ in (map if few else pool.map)(chunk, starts):
    pass
  return out


class TrainIterator:
  """Batches, made in a background thread.

  Each is {'image': uint8 [b, h, w, 3], 'tokens': int32 [b, t, l]}. Use it as
  a context manager, or `close` it; the interpreter's exit closes it too.

  Fields:
    position: global position after the last batch handed out; a new iterator
      that starts there goes on with the very next batch.
    bad_samples: counts of bad samples that were replaced in this process's
      batches so far, by reason (see `images.BadSampleError`).
    seen: counts of this process's samples so far, by the part of the source
      that they come from.
    waited: seconds that `next` has waited for a batch so far, while nothing
      else was to do; not those in which the process was suspended.
    busy: tells whether the accelerator still computes, and so loses nothing.
  """

  def __init__(
    self,
    batches: Iterator,
    positions: Positions,
    slowest: Callable[[], str] = str,
  ):
    self.position = positions.start
    self.bad_samples: collections.Counter[str] = collections.Counter()
    self.seen: collections.Counter[str] = collections.Counter()
    self.waited = 0.0
    self.busy: Callable[[], bool] = lambda: False
    self._global_batch = positions.global_batch
    self._slowest = slowest
    self._queue = queue.Queue(_BATCHES_AHEAD)
    self._stop = threading.Event()
    thread = threading.Thread(
      target=_fill,
      args=(batches, self._queue, self._stop),
      name='train_batches',
      daemon=True,
    )
    # Holds no reference to self: an iterator that nobody keeps is closed.
    self._finalizer = weakref.finalize(self, _shut_down, thread, self._stop)
    thread.start()

  def __iter__(self) -> 'TrainIterator':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    item = self._wait()
    if item is None:
      raise StopIteration
    if isinstance(item, BaseException):
      self.close()
      raise item
    rejected, shares, batch = item
    self.position += self._global_batch
    self.bad_samples.update(rejected)
    self.seen.update(shares)
    return batch

  def _wait(self) -> Any:
    """The next item of the queue; None if it is closed."""
    now, waited = time.monotonic(), 0.0
    while not self._stop.is_set():
      begin, item = now, _NOTHING
      with contextlib.suppress(queue.Empty):
        item = self._queue.get(timeout=_GLANCE)
      now = time.monotonic()
      # The clock goes on while Ctrl-Z suspends a process.
      seconds = min(now - begin, _LONGEST_GLANCE)
      if not self.busy():
        self.waited += seconds
      if item is not _NOTHING:
        return item
      waited += seconds
      if waited > _LONGEST:
        sample = self._slowest() or 'the source'
        return SourceError(
          f'no batch for {_LONGEST:.0f} s: {sample} is not read to its end; '
          'does its disk or network answer?'
        )
    return None

  def close(self) -> None:
    """Stops the background work; the iterator then ends."""
    self._finalizer()

  def __enter__(self) -> 'TrainIterator':
    return self

  def __exit__(self, *unused: object) -> None:
    self.close()


def _fill(batches, out, stop):
  """Fills the queue until told to stop (in the background thread)."""

  def put(item):
    while not stop.is_set():
      try:
        out.put(item, timeout=_PATIENCE)
        return
      except queue.Full:
        continue

  try:
    for item in batches:
      put(item)
      if stop.is_set():
        break
  except BaseException as error:
    put(error)
  finally:
    batches.close()


def _shut_down(thread, stop):
  stop.set()
  if thread is not threading.current_thread():
    thread.join(_FAREWELL)
