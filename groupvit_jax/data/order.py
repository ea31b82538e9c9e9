"""The order of the samples and their chance, as functions of the position.

One integer, the global sample count, is the whole state of the input: which
example it means and every random draw for it are computed, never remembered.
"""

import dataclasses
import math

import numpy as np

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
