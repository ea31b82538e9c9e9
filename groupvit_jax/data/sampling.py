"""Which sample a position means, and the random numbers of the position.

One integer, the global sample count, is the whole state of the input: samples,
random numbers and the replacements of bad samples are functions of it, so that
a resumed run sees the same.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt64
from numpy.typing import ArrayLike

# Streams of random numbers; two uses never share one.
CROP, FLIP, RAND_AUGMENT, CAPTION, REPLACE, SHARDS, WINDOW, MIX = range(8)

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


@runtime_checkable
class Order(Protocol):
  """Which sample a position means: a pure function, so that runs resume."""

  def __call__(self, positions: ArrayLike, /) -> Int64[np.ndarray, '...']:
    """Returns the sample numbers of positions (>= 0)."""
    ...

  def stand_in(self, position: int, attempt: int) -> int:
    """Returns the sample that replaces a bad one, from attempt 1 on."""
    ...

  def upcoming(self, position: int, count: int) -> list[int]:
    """Shards that are read next by who takes `count` positions of each batch.

    Args:
      position: the first of them in this batch.
      count: how many follow it.

    Returns:
      Soonest first; none where samples come from everywhere.
    """
    ...


class EpochShuffle:
  """Maps global positions to example indices, freshly shuffled every epoch.

  The permutation is a Feistel network over a grid of about sqrt(n) by
  sqrt(n) cells with cycle walking (Black and Rogaway, "Ciphers with
  arbitrary finite domains", 2002): no array of n entries is stored or
  shuffled, so a start at any position of 27 million pairs costs nothing.

  This order is named 'full' in a config.

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

  def stand_in(self, position: int, attempt: int) -> int:
    """Any other sample of the source."""
    bits = hash64(self.seed, REPLACE, position, np.array([attempt]))
    return int(bits[0] % np.uint64(self.n))

  def upcoming(self, position: int, count: int) -> list[int]:
    """No shards: a permutation reads from all."""
    return []

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
class Turns:
  """Positions that streams take in turns.

  A row of a batch always belongs to the same stream if runs are a batch divided
  by the number of streams; then a process that takes a block of the rows reads
  its own streams.

  Fields:
    streams: how many there are.
    run: neighbouring positions that one stream takes.
  """

  streams: int = 1
  run: int = 1

  def split(
    self, positions: Int64[np.ndarray, 'b']
  ) -> tuple[Int64[np.ndarray, 'b'], Int64[np.ndarray, 'b']]:
    """The stream of each position, and its place in the stream."""
    runs, inside = np.divmod(positions, self.run)
    turns, stream = np.divmod(runs, self.streams)
    return stream, turns * self.run + inside

  def join(
    self, stream: Int64[np.ndarray, 'b'], at: Int64[np.ndarray, 'b']
  ) -> Int64[np.ndarray, 'b']:
    """The positions of places in streams."""
    turns, inside = np.divmod(at, self.run)
    return (turns * self.streams + stream) * self.run + inside


class StreamOrder:
  """Reads shards one after another, in a few streams, shuffled nearby.

  For sets that are read over a network: at any time samples come from a few
  shards. This order is named 'streams' in a config.

  An epoch lays the shards out in a new random order and cuts the row of their
  samples into equal parts, the streams, which take turns. Each stream shuffles
  within windows. So every sample comes once an epoch, whatever the number of
  shards. At the end of an epoch the samples that fill no turn of all streams
  follow in order.

  Fields:
    n: number of examples.
    seed: int.
    turns: of the streams.
    window: samples of a stream that are shuffled together.
  """

  _NEAR_ATTEMPTS = 4

  def __init__(
    self, lengths: Sequence[int], seed: int, turns: Turns, window: int = 4096
  ):
    """Makes the order of shards with these numbers of samples.

    Raises:
      ValueError: no sample, or a number below 1.
    """
    self._lengths = np.asarray(lengths, np.int64)
    self.n = int(self._lengths.sum())
    if self.n < 1:
      raise ValueError('Cannot order 0 examples: the source is empty.')
    if min(turns.streams, turns.run, window) < 1:
      raise ValueError(
        f'streams and window must be at least 1, not {turns.streams} and '
        f'{window}.'
      )
    self.seed, self.turns, self.window = int(seed), turns, int(window)
    self._starts = np.cumsum(self._lengths) - self._lengths
    # Of a stream.
    self._length = self.n // (turns.streams * turns.run) * turns.run
    self._windows = -(-self._length // self.window)
    self._layout = functools.lru_cache(4)(self._make_layout)
    self._shuffle_of = functools.lru_cache(2)(
      lambda size: EpochShuffle(size, _seed(self.seed, WINDOW))
    )

  def __call__(self, positions: ArrayLike) -> Int64[np.ndarray, '...']:
    """Returns the sample numbers of positions (>= 0)."""
    positions = np.asarray(positions, np.int64)
    epochs, ranks = np.divmod(positions.ravel(), self.n)
    out = np.empty_like(ranks)
    for epoch in np.unique(epochs).tolist():
      here = epochs == epoch
      out[here] = self._samples(epoch, ranks[here])
    return out.reshape(positions.shape)

  def stand_in(self, position: int, attempt: int) -> int:
    """A sample that is read at about the same time.

    From the same window of the same stream; later attempts take any stream, as
    a whole shard may be bad.
    """
    bits = int(hash64(self.seed, REPLACE, position, np.array([attempt]))[0])
    stream, at = self.turns.split(np.array([position]))
    at = at // self.window * self.window + bits % self.window
    if attempt > self._NEAR_ATTEMPTS:
      stream[:] = bits // self.window % self.turns.streams
    return int(self(self.turns.join(stream, at))[0])

  def upcoming(self, position: int, count: int) -> list[int]:
    """Shards of the current windows, and the next one of each stream."""
    epoch, rank = divmod(position, self.n)
    streams, at = self.turns.split(rank + np.arange(count))
    first = min(int(at[0]) // self.window * self.window, self._length)
    found: list[tuple[int, int]] = []  # samples until then, shard
    for stream in np.unique(streams).tolist():
      found += self._ahead(epoch, stream, first)
    return list(dict.fromkeys(shard for _, shard in sorted(found)))

  def _ahead(self, epoch, stream, at):
    """(Samples until then, shard) of a stream from its sample `at` on."""
    order, ends = self._layout(epoch)
    place, end = stream * self._length + at, (stream + 1) * self._length
    found = []
    for k in range(int(np.searchsorted(ends, place, 'right')), len(order)):
      begin = int(ends[k] - self._lengths[order[k]])
      if begin >= end:
        break
      found.append((max(0, begin - place), int(order[k])))
      if begin >= place + self.window:
        return found
    if at:  # the next epoch is near
      found += [
        (end - place + wait, shard)
        for wait, shard in self._ahead(epoch + 1, stream, 0)
      ]
    return found

  def _make_layout(self, epoch):
    """The order of shards of an epoch, and where each ends."""
    keys = hash64(self.seed, SHARDS, epoch, np.arange(len(self._lengths)))
    order = np.argsort(keys, kind='stable')
    return order, np.cumsum(self._lengths[order])

  def _samples(self, epoch, ranks):
    order, ends = self._layout(epoch)
    places = self._places(epoch, ranks)
    which = np.searchsorted(ends, places, 'right')
    shards = order[which]
    return self._starts[shards] + places - (ends[which] - self._lengths[shards])

  def _places(self, epoch, ranks):
    """Where in the row of an epoch's samples the samples of ranks lie."""
    stream, at = self.turns.split(ranks)
    window, inside = np.divmod(at, self.window)
    sizes = np.minimum(self.window, self._length - window * self.window)
    key = (epoch * self.turns.streams + stream) * self._windows + window
    places = ranks.copy()  # right for those that fill no turn
    for size in np.unique(sizes[at < self._length]).tolist():
      here = (at < self._length) & (sizes == size)
      shuffled = self._shuffle_of(size)(key[here] * size + inside[here])
      start = stream[here] * self._length + window[here] * self.window
      places[here] = start + shuffled
    return places


class Ingredient(NamedTuple):
  """A source of a mixture.

  Fields:
    order: of its samples.
    samples: how many.
    shards: how many.
    weight: positive, in any unit.
  """

  order: Order
  samples: int
  shards: int
  weight: float


class MixedOrder:
  """Draws from several sources by their weights, each in its own order.

  The streams take the same source at the same time. Of 1,024 places of a stream
  each source has its share to the nearest one, in a shuffled order.

  Fields:
    ingredients: the sources.
  """

  _CYCLE = 1024

  def __init__(
    self, ingredients: Sequence[Ingredient], seed: int, turns: Turns
  ):
    """Mixes sources, whose orders take these turns.

    Raises:
      ValueError: a weight that is not positive, or below a thousandth of all.
    """
    self.ingredients = list(ingredients)
    weights = np.array([part.weight for part in ingredients], np.float64)
    exact = weights / weights.sum() * self._CYCLE
    if not np.all(exact >= 1):
      raise ValueError(
        'weights must be positive, and each at least a thousandth of their '
        f'sum: {weights.tolist()}'
      )
    counts = np.floor(exact).astype(np.int64)
    missing = self._CYCLE - counts.sum()
    counts[np.argsort(counts - exact, kind='stable')[:missing]] += 1
    self._counts, self._turns = counts, turns
    self._first = np.cumsum(counts) - counts
    self._shuffle = EpochShuffle(self._CYCLE, _seed(seed, MIX))

  def __call__(self, positions: ArrayLike) -> Int64[np.ndarray, '...']:
    """Returns the sample numbers of positions (>= 0)."""
    positions = np.asarray(positions, np.int64)
    which, inner = self._split(positions.ravel())
    out, first = np.empty_like(inner), 0
    for k, part in enumerate(self.ingredients):
      here = which == k
      out[here] = first + part.order(inner[here])
      first += part.samples
    return out.reshape(positions.shape)

  def stand_in(self, position: int, attempt: int) -> int:
    """A stand-in from the same source."""
    which, inner = self._split(np.array([position]))
    first = sum(part.samples for part in self.ingredients[: which[0]])
    part = self.ingredients[which[0]]
    return first + part.order.stand_in(int(inner[0]), attempt)

  def upcoming(self, position: int, count: int) -> list[int]:
    """Shards that each source reads next."""
    stream, at = self._turns.split(np.array([position]))
    found, first = [], 0
    for part, share in zip(self.ingredients, self._counts, strict=True):
      inner = self._turns.join(stream, at // self._CYCLE * share)
      found += [first + k for k in part.order.upcoming(int(inner[0]), count)]
      first += part.shards
    return found

  def _split(self, positions):
    """The source of each position, and the position in its own order."""
    stream, at = self._turns.split(positions)
    slots = self._shuffle(at)
    which = np.searchsorted(self._first, slots, 'right') - 1
    inner = at // self._CYCLE * self._counts[which]
    return which, self._turns.join(stream, inner + slots - self._first[which])


def _seed(seed, stream):
  """A seed of its own for a use of the run's seed."""
  return int(hash64(seed, np.array([stream]))[0])


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

  @classmethod
  def of_process(cls, batch_size: int, start: int = 0) -> 'Positions':
    """The share of this process, as jax counts processes."""
    import jax  # here: preparing data in many processes goes without

    return cls(start, batch_size, jax.process_index(), jax.process_count())

  @property
  def global_batch(self) -> int:
    """Samples per batch over all processes."""
    return self.batch_size * self.process_count

  def batch(self, number: int) -> Int64[np.ndarray, 'b']:
    """Returns the positions of batch `number`."""
    blocks = number * self.process_count + self.process_index
    return self.start + blocks * self.batch_size + np.arange(self.batch_size)
