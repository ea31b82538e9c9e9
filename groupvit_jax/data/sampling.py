"""Which sample a position means, its random numbers, and the sample itself.

One integer, the global sample count, is the whole state of the input: samples,
random numbers and the replacements of bad samples are functions of it, so that
a resumed run sees the same.
"""

import collections
import dataclasses
import math
import threading
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, Int64, UInt64
from numpy.typing import ArrayLike
from PIL import Image

from groupvit_jax.data import captions as captions_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.errors import SourceError

# Of training images. Phone photos pass; a 30,000 x 30,000 PNG of 1 MB does not.
MAX_PIXELS = 36_000_000

# Streams of random numbers; two uses never share one.
CROP, FLIP, RAND_AUGMENT, CAPTION, REPLACE = range(5)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


def _mix(x: np.ndarray) -> np.ndarray:
  """The finaliser of SplitMix64 (Steele et al. 2014) on uint64 arrays."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def hash64(*keys: int | np.ndarray) -> UInt64[np.ndarray, '...']:
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


def uniform(
  seed: int, stream: int, positions: ArrayLike, count: int
) -> Float[np.ndarray, 'b n']:
  """Random numbers in [0, 1) that belong to positions.

  Args:
    seed: of the run.
    stream: one of this module's streams.
    positions: integers [b].
    count: how many numbers per position.
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

  def __init__(self, n: int, seed: int):
    if n < 1:
      raise ValueError(f'Cannot shuffle {n} examples: the source is empty.')
    self.n = int(n)
    self.seed = int(seed)
    self._rows = math.isqrt(self.n - 1) + 1 if self.n > 1 else 1
    self._columns = -(-self.n // self._rows)

  def __call__(self, positions: ArrayLike) -> Int64[np.ndarray, '...']:
    """Returns the example indices of positions (>= 0)."""
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

  Each takes its block of the global batch, so that a row of the global batch
  has the same example, and the same noise, however many processes share it.

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

  @classmethod
  def of_process(cls, batch_size: int, start: int = 0) -> 'Positions':
    """The share of this process, as jax counts processes."""
    return cls(start, batch_size, jax.process_index(), jax.process_count())

  @property
  def global_batch(self) -> int:
    """Samples per batch over all processes."""
    return self.batch_size * self.process_count

  def batch(self, number: int) -> Int64[np.ndarray, 'b']:
    """Returns the positions of batch `number`."""
    blocks = number * self.process_count + self.process_index
    return self.start + blocks * self.batch_size + np.arange(self.batch_size)


_WARNINGS = 5
_MAX_ATTEMPTS = 100
# The share of bad samples is judged between these numbers of reads.
_JUDGE_FROM, _JUDGE_UNTIL = 200, 2000


class BadSourceError(SourceError, ValueError):
  """Most of a source is unusable; the message names it."""


@runtime_checkable
class Source(Protocol):
  """Random access to samples.

  A sample is {'image': encoded bytes or uint8 [h, w, 3], 'caption': str or
  bytes, or several of them}; labelled ones have 'mask', uint8 [h, w].
  `source[i]` may raise BadSampleError. A source may have a `name`, and
  `describe(i)`, which messages call a sample.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Sample:
  """One usable sample.

  Fields:
    image: decoded, RGB.
    caption: has a visible character.
    rejected: reasons of the bad samples that it stands in for.
  """

  image: Image.Image
  caption: str
  rejected: tuple[str, ...]


class Reader:
  """Random access by position over a source, past its bad samples.

  Safe to share between threads.

  Fields:
    source: a Source.
    shuffle: the EpochShuffle that orders it.
    seed: of the run.
    bad: counts of bad samples met so far, by reason.
  """

  def __init__(self, source: Source, seed: int):
    self.source = source
    self.seed = seed
    self.shuffle = EpochShuffle(len(source), seed)
    self.bad: collections.Counter[str] = collections.Counter()
    self._reads = 0
    self._lock = threading.Lock()

  def read(self, positions: Int64[np.ndarray, 'b']) -> Iterator[Sample]:
    """Yields the samples of global positions, decoded one at a time.

    Raises:
      BadSourceError: too much of the source is bad.
    """
    indices = self.shuffle(positions).tolist()
    for position, index in zip(positions.tolist(), indices, strict=True):
      yield self._read(position, index)

  def _read(self, position, index):
    rejected = ()
    while True:
      with self._lock:
        self._reads += 1
      try:
        raw = self.source[index]
        caption = pick_caption(raw['caption'], self.seed, position)
        image = images_lib.decode(raw['image'], max_pixels=MAX_PIXELS)
        return Sample(image, caption, rejected)
      except BadSampleError as error:
        rejected += (error.reason,)
        self._count(index, error, len(rejected))
        # The stand-in depends on seed, position and attempt only.
        attempt = np.array([len(rejected)])
        bits = hash64(self.seed, REPLACE, position, attempt)
        index = int(bits[0] % np.uint64(len(self.source)))

  def _count(self, index, error, attempts):
    with self._lock:
      self.bad[error.reason] += 1
      bad, reads = self.bad.total(), self._reads
      kinds = ', '.join(f'{n} {kind}' for kind, n in self.bad.most_common())
    if bad <= _WARNINGS:
      more = ' (no more such warnings)' if bad == _WARNINGS else ''
      sample = sample_name(self.source, index)
      logging.warning('%s skipped: %s%s', sample, error, more)
    judged = _JUDGE_FROM <= reads <= _JUDGE_UNTIL
    if attempts >= _MAX_ATTEMPTS or (judged and bad > reads / 2):
      raise BadSourceError(
        f'{source_name(self.source)}: {bad} of the first {reads} samples are '
        f'unusable ({kinds}; the last one: {error}). Check how this data was '
        'prepared.'
      )


def source_name(source: Source) -> str:
  """What messages call a source."""
  return getattr(source, 'name', type(source).__name__)


def sample_name(source: Source, index: int) -> str:
  """What messages call a sample."""
  if describe := getattr(source, 'describe', None):
    return describe(index)
  return f'{source_name(source)}: sample {index}'


def pick_caption(
  captions: captions_lib.Captions, seed: int, position: int
) -> str:
  """Takes one usable caption of a sample, at random by its position."""
  good = captions_lib.clean_captions(captions)
  if len(good) == 1:
    return good[0]
  bits = hash64(seed, CAPTION, np.array([position]))
  return good[int(bits[0] % np.uint64(len(good)))]
