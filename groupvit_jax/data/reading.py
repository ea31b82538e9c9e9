"""Samples by position: read, decoded, and replaced where they are bad."""

import collections
import dataclasses
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int64

from groupvit_jax.data import captions as captions_lib
from groupvit_jax.data import sampling
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.data.sampling import EpochShuffle, Order
from groupvit_jax.errors import SourceError, UserError

_WARNINGS = 5
_MAX_ATTEMPTS = 100
# The share of bad samples is judged between these numbers of reads.
_JUDGE_FROM, _JUDGE_UNTIL = 200, 2000


class BadSourceError(SourceError, ValueError):
  """Most of a source is unusable; the message names it."""


class Source:
  """Base of random access to samples.

  A sample is {'image': encoded bytes or uint8 [h, w, 3], 'caption': str or
  bytes, or several of them}; labelled ones have 'mask', uint8 [h, w].
  `source[i]` may raise BadSampleError; any error but a UserError counts as a
  bad sample.

  Fields:
    name: in messages.
    parts: (name, number of samples) of the sources that it joins, in order.
    lengths: numbers of samples of its shards, in order.
  """

  name: str = 'source'
  parts: Sequence[tuple[str, int]] = ()

  def __len__(self) -> int:
    raise NotImplementedError

  def __getitem__(self, index: int) -> dict[str, Any]:
    raise NotImplementedError

  @functools.cached_property
  def lengths(self) -> list[int]:
    """One shard of all samples."""
    return [len(self)]

  @property
  def is_remote(self) -> bool:
    """Whether a shard is remote."""
    return False

  def describe(self, index: int) -> str:
    """Name of a sample in messages."""
    return f'{self.name}: sample {index}'

  def ahead(self, shards: Sequence[int]) -> None:
    """Told which shards are read next."""

  def identity(self) -> dict[str, Any]:
    """Tells data sets apart, so that a run does not resume on other data.

    Returns:
      JSON values: `kind` of source, number of `samples` and of `shards`, and a
      `digest` that changes with the samples (not with the folder they are in).
    """
    return describe_identity(type(self).__name__, len(self), 0, [self.name])


@dataclasses.dataclass(frozen=True)
class Sample:
  """One usable sample.

  Fields:
    image: made by the function that `Reader.read` is given.
    caption: has a visible character.
    rejected: reasons of the bad samples that it stands in for.
  """

  image: Any
  caption: str
  rejected: tuple[str, ...]


class Reader:
  """Random access by position over a source, past its bad samples.

  Safe to share between threads.

  Fields:
    source: a Source.
    seed: of the run.
    order: of the samples; by default a permutation of all of them.
    bad: counts of bad samples met so far, by reason.
  """

  def __init__(self, source: Source, seed: int, order: Order | None = None):
    """Reads a source."""
    self.source = source
    self.seed = seed
    self.order = order or EpochShuffle(len(source), seed)
    self.bad: collections.Counter[str] = collections.Counter()
    self._reads = 0
    self._reading: dict[int, tuple[float, int]] = {}  # by thread
    self._lock = threading.Lock()

  def read(
    self,
    positions: Int64[np.ndarray, 'b'],
    make: Callable[[Any, int], Any],
  ) -> Iterator[Sample]:
    """Yields the samples of global positions, one at a time.

    Args:
      positions: of the samples.
      make: function of an image as the source gives it and its place among the
        positions; a BadSampleError makes the sample a bad one.

    Raises:
      BadSourceError: too much of the source is bad.
    """
    indices = self.order(positions).tolist()
    pairs = zip(positions.tolist(), indices, strict=True)
    for place, (position, index) in enumerate(pairs):
      yield self._read(position, index, lambda raw, i=place: make(raw, i))

  def ahead(self, position: int, count: int) -> None:
    """Tells the source which shards are read next (see `Order.upcoming`)."""
    self.source.ahead(self.order.upcoming(position, count))

  def shares(self, positions: Int64[np.ndarray, 'b']) -> dict[str, int]:
    """Counts the samples of positions by the named parts of the source."""
    parts = self.source.parts
    if not parts:
      return {}
    ends = np.cumsum([count for _, count in parts])
    which = np.searchsorted(ends, self.order(positions), 'right')
    counts = np.bincount(which, minlength=len(parts)).tolist()
    return dict(zip((name for name, _ in parts), counts, strict=True))

  def slowest(self) -> str:
    """The sample that has been read for longest, in words; '' without one."""
    reading = list(self._reading.values())
    # `describe` may read the file that does not answer.
    name = self.source.name
    return f'{name}: sample {min(reading)[1]}' if reading else ''

  def _read(self, position, index, make):
    rejected, thread = (), threading.get_ident()
    while True:
      with self._lock:
        self._reads += 1
      self._reading[thread] = (time.monotonic(), index)
      try:
        raw = self.source[index]
        caption = pick_caption(raw['caption'], self.seed, position)
        return Sample(make(raw['image']), caption, rejected)
      except UserError:
        raise
      except Exception as error:
        if not isinstance(error, BadSampleError):
          text = f'{type(error).__name__}: {error}'
          error = BadSampleError(text[:300], 'unreadable')
        rejected += (error.reason,)
        self._count(index, error, len(rejected))
        index = self.order.stand_in(position, len(rejected))
      finally:
        del self._reading[thread]

  def _count(self, index, error, attempts):
    with self._lock:
      self.bad[error.reason] += 1
      bad, reads = self.bad.total(), self._reads
      kinds = ', '.join(f'{n} {kind}' for kind, n in self.bad.most_common())
    if bad <= _WARNINGS:
      more = ' (no more such warnings)' if bad == _WARNINGS else ''
      sample = self.source.describe(index)
      logging.warning('%s skipped: %s%s', sample, error, more)
    judged = _JUDGE_FROM <= reads <= _JUDGE_UNTIL
    if attempts >= _MAX_ATTEMPTS or (judged and bad > reads / 2):
      raise BadSourceError(
        f'{self.source.name}: {bad} of the first {reads} samples are '
        f'unusable ({kinds}; the last one: {error}). Check how this data was '
        'prepared.'
      )


def pick_caption(
  captions: captions_lib.Captions, seed: int, position: int
) -> str:
  """Takes one usable caption of a sample, at random by its position."""
  good = captions_lib.clean_captions(captions)
  if len(good) == 1:
    return good[0]
  bits = sampling.hash64(seed, sampling.CAPTION, np.array([position]))
  return good[int(bits[0] % np.uint64(len(good)))]


def describe_identity(
  kind: str, samples: int, shards: int, facts: Iterable[object]
) -> dict[str, Any]:
  """A `Source.identity` with the digest of some facts."""
  text = '\n'.join(map(str, facts))
  digest = hashlib.sha256(text.encode()).hexdigest()
  return {'kind': kind, 'samples': samples, 'shards': shards, 'digest': digest}
