"""Reads the sample of a position and stands a good one in for a bad one.

The stand-in depends on (seed, position, attempt) only, so that a resumed run
replaces the same samples by the same others.
"""

import dataclasses
import math
import threading

import numpy as np
from absl import logging

from groupvit_jax.data import images as images_lib
from groupvit_jax.errors import SourceError

# The order of the samples and their chance, as functions of the position.
#
# One integer, the global sample count, is the whole state of the input: which
# example it means and every random draw for it are computed, never remembered.

# Streams of random numbers; two uses never share one.
CROP, FLIP, RAND_AUGMENT, CAPTION, REPLACE = range(5)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def _mix(x):
  """The finaliser of SplitMix64 (Steele et al. 2014) on uint64 arrays."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def hash64(*keys):
  """Hashes integers (or broadcastable integer arrays) to uint64.

  Args:
    *keys: integers or integer arrays, at least one of them an array.

  Returns:
    uint64 array of the broadcast shape; the same on every platform and
    numpy version, which numpy's own generators do not promise (NEP 19).
  """
  state = np.zeros(1, np.uint64)
  for key in keys:
    if isinstance(key, (int, np.integer)):
      key = np.array([int(key) & _MASK], np.uint64)
    key = np.asarray(key).astype(np.uint64)
    state = _mix(state + _GOLDEN + _mix(key + _GOLDEN))
  return state


def uniform(seed, stream, positions, count):
  """Random numbers that belong to positions.

  Args:
    seed: int.
    stream: int, one of this module's streams.
    positions: int array [b].
    count: how many numbers per position.

  Returns:
    float64 [b, count] in [0, 1).
  """
  positions = np.asarray(positions)[:, None]
  bits = hash64(seed, stream, positions, np.arange(count)[None])
  return (bits >> np.uint64(11)) * 2.0**-53


class EpochShuffle:
  """Maps global positions to example indices, freshly shuffled every epoch.

  The permutation is a Feistel network over a grid of about sqrt(n) by
  sqrt(n) cells with cycle walking (Black and Rogaway, "Ciphers with
  arbitrary finite domains", 2002): no array of n entries is stored or
  shuffled, so a start at any position of 27 million pairs costs nothing.

  Fields:
    n: number of examples.
    seed: int; two seeds give unrelated orders.
  """

  _ROUNDS = 8

  def __init__(self, n, seed):
    if n < 1:
      raise ValueError(f'Cannot shuffle {n} examples: the source is empty.')
    self.n = int(n)
    self.seed = int(seed)
    self._rows = math.isqrt(self.n - 1) + 1 if self.n > 1 else 1
    self._columns = -(-self.n // self._rows)

  def __call__(self, positions):
    """Returns int64 example indices [b] of int positions [b] (>= 0)."""
    positions = np.asarray(positions, np.int64)
    epoch, x = np.divmod(positions.ravel(), self.n)
    keys = [hash64(self.seed, epoch, r) for r in range(self._ROUNDS)]
    x = self._permute(x, keys)
    while (walk := np.flatnonzero(x >= self.n)).size:
      x[walk] = self._permute(x[walk], [key[walk] for key in keys])
    return x.reshape(positions.shape)

  def _permute(self, x, keys):
    left, right = np.divmod(x, self._columns)
    for round_, key in enumerate(keys):
      if round_ % 2:
        noise = _mix(key + left.astype(np.uint64) * _GOLDEN)
        shift = (noise % np.uint64(self._columns)).astype(np.int64)
        right = (right + shift) % self._columns
      else:
        noise = _mix(key + right.astype(np.uint64) * _GOLDEN)
        shift = (noise % np.uint64(self._rows)).astype(np.int64)
        left = (left + shift) % self._rows
    return left * self._columns + right


@dataclasses.dataclass(frozen=True)
class Positions:
  """Which positions one process takes for each batch.

  Process p of P takes start + p, start + p + P, ...: the global batch is the
  same set of examples however many processes share it.

  Fields:
    start: global position of the first sample.
    batch_size: samples per process and batch.
    process_index: p.
    process_count: P.
  """

  start: int
  batch_size: int
  process_index: int = 0
  process_count: int = 1

  def __post_init__(self):
    if self.start < 0 or self.batch_size < 1:
      raise ValueError(
        f'start must be >= 0 and batch_size >= 1, not {self.start} and '
        f'{self.batch_size}.'
      )
    if not 0 <= self.process_index < self.process_count:
      raise ValueError(
        f'process_index {self.process_index} is not below process_count '
        f'{self.process_count}.'
      )

  @property
  def global_batch(self):
    """Samples per batch over all processes."""
    return self.batch_size * self.process_count

  def batch(self, number):
    """Returns the int64 positions [batch_size] of batch `number`."""
    first = self.start + number * self.global_batch + self.process_index
    return first + self.process_count * np.arange(self.batch_size)


MAX_CAPTION = 10_000  # characters; what is beyond is cut
_WARNINGS = 5
_MAX_ATTEMPTS = 100
# The share of bad samples is judged between these numbers of reads.
_JUDGE_FROM, _JUDGE_UNTIL = 200, 2000


class BadSourceError(SourceError, ValueError):
  """Most of a source is unusable; the message names it."""


@dataclasses.dataclass(frozen=True)
class Sample:
  """One usable sample.

  Fields:
    position: global position that it serves.
    attempt: how many samples were rejected before it.
    image: bytes of an encoded image, or uint8 array [h, w, 3].
    size: (height, width).
    caption: str, not empty.
  """

  position: int
  attempt: int
  image: bytes | np.ndarray
  size: tuple[int, int]
  caption: str


class Reader:
  """Random access by position over a source, past its bad samples.

  Fields:
    source: a random-access source (see `sources`).
    shuffle: the EpochShuffle that orders it.
    seed: int.
    max_pixels: larger images are bad.
    bad: bad samples met so far, by any thread.
  """

  def __init__(self, source, seed, max_pixels=images_lib.MAX_PIXELS):
    self.source = source
    self.seed = seed
    self.max_pixels = max_pixels
    self.shuffle = EpochShuffle(len(source), seed)
    self.bad = 0
    self._reads = 0
    self._lock = threading.Lock()

  def read_many(self, positions):
    """Reads the samples of int positions [b].

    Args:
      positions: int array [b], global positions.

    Returns:
      List of Sample, whose headers, sizes and captions are good.

    Raises:
      BadSourceError: too much of the source is bad.
    """
    indices = self.shuffle(positions).tolist()
    return [
      self._read(position, index, 0)
      for position, index in zip(positions.tolist(), indices, strict=True)
    ]

  def after(self, sample, reason):
    """Counts a sample that did not decode and reads its stand-in."""
    position, attempt = sample.position, sample.attempt
    self._count(self._index(position, attempt), attempt, reason)
    attempt += 1
    return self._read(position, self._index(position, attempt), attempt)

  def _read(self, position, index, attempt):
    while True:
      with self._lock:
        self._reads += 1
      try:
        return self._check(self.source[index], position, attempt)
      except images_lib.BadSampleError as error:
        self._count(index, attempt, error)
        attempt += 1
        index = self._index(position, attempt)

  def _index(self, position, attempt):
    if not attempt:
      return int(self.shuffle(np.array([position]))[0])
    bits = hash64(self.seed, REPLACE, np.array([position]), attempt)
    return int(bits[0] % np.uint64(len(self.source)))

  def _check(self, raw, position, attempt):
    image = raw['image']
    if isinstance(image, bytes):
      size = images_lib.encoded_size(image)
      images_lib.check_size(size, self.max_pixels)
      if images_lib.is_jpeg(image) and images_lib.looks_cut(image):
        images_lib.decode_pil(image)  # raises if it is
    else:
      if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise images_lib.BadSampleError(
          f'the image is {image.dtype} {image.shape}, not uint8 [h, w, 3]'
        )
      size = image.shape[:2]
      images_lib.check_size(size, self.max_pixels)
    caption = pick_caption(raw['caption'], self.seed, position)
    return Sample(position, attempt, image, size, caption)

  def _count(self, index, attempt, reason):
    with self._lock:
      self.bad += 1
      bad, reads = self.bad, self._reads
    name = source_name(self.source)
    if bad <= _WARNINGS:
      more = ' (no more such warnings)' if bad == _WARNINGS else ''
      logging.warning('%s: sample %d skipped: %s%s', name, index, reason, more)
    judged = _JUDGE_FROM <= reads <= _JUDGE_UNTIL
    if attempt + 1 >= _MAX_ATTEMPTS or (judged and bad > reads / 2):
      raise BadSourceError(
        f'{name}: {bad} of the first {reads} samples are unusable (the last '
        f'one: {reason}). Check how this data was prepared.'
      )


def source_name(source):
  """What messages call a source."""
  return getattr(source, 'name', type(source).__name__)


def clean_captions(captions):
  """Returns the usable captions of a sample.

  Args:
    captions: str or bytes, or a sequence of them.

  Returns:
    Tuple of str, stripped, each with 1 to MAX_CAPTION characters.

  Raises:
    BadSampleError: there is no caption that has a visible character.
  """
  if isinstance(captions, (str, bytes)):
    captions = (captions,)
  good = tuple(c for c in map(_clean, captions) if c)
  if not good:
    raise images_lib.BadSampleError('the caption is empty')
  return good


def pick_caption(captions, seed, position):
  """Takes one usable caption of a sample, by chance of its position."""
  good = clean_captions(captions)
  if len(good) == 1:
    return good[0]
  bits = hash64(seed, CAPTION, np.array([position]))
  return good[int(bits[0] % np.uint64(len(good)))]


def _clean(caption):
  if isinstance(caption, bytes):
    caption = caption.decode('utf-8', 'replace')
  return caption.strip()[:MAX_CAPTION]
