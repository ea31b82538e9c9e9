"""Batches for training and evaluation.

Training batches are an endless function of one integer, the position; they
are made in a background thread, a few ahead of the step that eats them.
"""

import queue
import threading
import weakref

import jax
import numpy as np
from PIL import Image

from groupvit_jax.data import augment as augment_lib
from groupvit_jax.data import augment_pil, augment_tf, sampling, sources
from groupvit_jax.data import images as images_lib

IGNORE = 255  # label of pixels that evaluation leaves out

_BACKENDS = ('auto', 'tf', 'numpy')
# How long a full queue waits before it looks whether anyone still listens.
_PATIENCE = 0.1  # seconds


def train_batches(
  source,
  *,
  batch_size,
  image_size,
  augment,
  batcher,
  seed,
  start=0,
  backend='auto',
  process_index=None,
  process_count=None,
  max_pixels=images_lib.MAX_PIXELS,
  prefetch=2,
):
  """Endless shuffled, augmented, tokenized batches.

  Args:
    source: random-access source (see `sources`).
    batch_size: samples per process.
    image_size: side of the pictures in pixels.
    augment: 'none', 'flip', 'light', 'deit' (the released one) or an Augment.
    batcher: (captions list of b str, positions int64 [b]) -> int32 [b, t, l].
    seed: int; the batches depend on it and on the position only.
    start: position to start or resume at.
    backend: 'tf', 'numpy', or 'auto': numpy for arrays in memory and where
      TensorFlow is not installed, else tf. Resume with the same one: their
      rounding differs.
    process_index, process_count: which share of each global batch; None asks
      jax.
    max_pixels: larger images are skipped as bad samples.
    prefetch: batches made ahead.

  Returns:
    A TrainIterator.

  Raises:
    ValueError: an unknown augmentation or backend, or an empty source.
  """
  augment = augment_lib.get_augment(augment)
  if not len(source):
    raise ValueError(f'{sampling.source_name(source)} is empty.')
  positions = sampling.Positions(
    start,
    batch_size,
    jax.process_index() if process_index is None else process_index,
    jax.process_count() if process_count is None else process_count,
  )
  read = sampling.Reader(source, seed, max_pixels)
  if choose_backend(source, backend) == 'numpy':
    batches = augment_pil.batches(read, augment, image_size, positions)
  else:
    from groupvit_jax.data import augment_tf

    augment_tf.tensorflow()  # its absence is an error here and now
    batches = augment_tf.batches(read, augment, image_size, positions)
  batches = _tokenized(batches, batcher)
  return TrainIterator(batches, start, positions.global_batch, prefetch)


def choose_backend(source, backend):
  """Resolves 'auto' to 'tf' or 'numpy' (see `train_batches`)."""
  if backend not in _BACKENDS:
    raise ValueError(f'Unknown backend {backend!r}; choose from {_BACKENDS}.')
  if backend != 'auto':
    return backend
  if hasattr(source, 'images') or not augment_tf.available():
    return 'numpy'
  return 'tf'


def _tokenized(batches, batcher):
  for batch in batches:
    tokens = batcher(batch['captions'], batch['positions'])
    yield batch['skipped'], {'image': batch['image'], 'tokens': tokens}


class TrainIterator:
  """Batches, made in a background thread.

  Each is {'image': uint8 [b, h, w, 3], 'tokens': int32 [b, t, l]}. Use it as
  a context manager, or `close` it; the interpreter's exit closes it too.

  Fields:
    position: global position after the last batch handed out; a new iterator
      with start=position goes on with the very next batch.
    skipped: bad samples replaced in this process's batches so far.
  """

  def __init__(self, batches, start, global_batch, prefetch):
    self.position = start
    self.skipped = 0
    self._global_batch = global_batch
    self._queue = queue.Queue(prefetch)
    self._stop = threading.Event()
    thread = threading.Thread(
      target=_work,
      args=(batches, self._queue, self._stop),
      name='train_batches',
      daemon=True,
    )
    # Holds no reference to self: an iterator that nobody keeps is closed.
    self._finalizer = weakref.finalize(self, _shut_down, thread, self._stop)
    thread.start()

  def __iter__(self):
    return self

  def __next__(self):
    if self._stop.is_set():
      raise StopIteration
    skipped, batch = self._take()
    self.position += self._global_batch
    self.skipped += skipped
    return batch

  def _take(self):
    while True:
      try:
        kind, value = self._queue.get(timeout=_PATIENCE)
        break
      except queue.Empty:
        if self._stop.is_set():
          raise StopIteration from None
    if kind == 'error':
      self.close()
      raise value
    return value

  def close(self):
    """Stops the background work; the iterator then ends."""
    self._finalizer()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()


def _work(batches, out, stop):
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
      put(('batch', item))
      if stop.is_set():
        break
  except BaseException as error:
    put(('error', error))
  finally:
    batches.close()


def _shut_down(thread, stop):
  stop.set()
  if thread is not threading.current_thread():
    thread.join(timeout=60)


def eval_batches(
  source, *, batch_size, image_size, process_index=None, process_count=None
):
  """One epoch of pictures with their truth, in order.

  Args:
    source: random-access source with masks.
    batch_size: samples per process.
    image_size: side in pixels; pictures are resized bilinearly (antialiased),
      masks by nearest neighbour.
    process_index, process_count: which share (p, p + P, ...); None asks jax.
      All processes yield equally many batches.

  Yields:
    Dict: 'image' uint8 [b, s, s, 3]; 'label' int32 [b, s, s], 255 = ignore;
    'mask' float32 [b], 1 for a real sample, 0 for padding at the end.

  Raises:
    ValueError: a sample without a mask, or a picture that does not decode.
  """
  index = jax.process_index() if process_index is None else process_index
  count = jax.process_count() if process_count is None else process_count
  positions = sampling.Positions(0, batch_size, index, count)
  for number in range(-(-len(source) // positions.global_batch)):
    image = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
    label = np.full((batch_size, image_size, image_size), IGNORE, np.int32)
    mask = np.zeros(batch_size, np.float32)
    for i, position in enumerate(positions.batch(number).tolist()):
      if position < len(source):
        image[i], label[i] = _eval_sample(source, position, image_size)
        mask[i] = 1
    yield {'image': image, 'label': label, 'mask': mask}


def _eval_sample(source, index, size):
  """Picture and label map of one sample, resized."""
  name = sampling.source_name(source)
  sample = source[index]
  if 'mask' not in sample:
    raise ValueError(
      f'{name}, sample {index} has no mask: evaluation needs a source with '
      'masks, such as SceneSource(..., masks=True).'
    )
  try:
    image = images_lib.to_pil(sample['image'])
  except images_lib.BadSampleError as error:
    raise ValueError(f'{name}, sample {index}: {error}') from error
  if image.size != (size, size):
    image = image.resize((size, size), Image.Resampling.BILINEAR)
  return np.asarray(image), sources.resize_mask(sample['mask'], size)
