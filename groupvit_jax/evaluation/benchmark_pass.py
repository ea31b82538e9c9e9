"""One pass over a benchmark: pictures to batches to counts to the journal."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from groupvit_jax.evaluation import benchmark_programs
from groupvit_jax.evaluation.benchmark_counts import BenchmarkCounts
from groupvit_jax.evaluation.benchmark_journal import Journal
from groupvit_jax.evaluation.benchmark_pictures import Key, Picture, Refused

# Batches that may be under way: the host must not run far ahead of the device,
# since what waits there fills memory.
_UNDER_WAY = 2


class Pass:
  """Counts pictures as they come, a batch whenever one is full."""

  def __init__(
    self,
    measure: Callable[[Sequence[Picture]], BenchmarkCounts],
    together: Callable[[Key], int],
    journal: Journal,
    *,
    every: int,
    progress: Callable[[int], None],
  ):
    """Prepares an empty pass.

    Args:
      measure: starts a batch of pictures of one key.
      together: how many of a key make a batch.
      journal: gets the counts.
      every: pictures from one writing of it to the next.
      progress: called with the pictures done.
    """
    self._measure, self._together = measure, together
    self._journal, self._every, self._progress = journal, every, progress
    # The total and the pictures that it is of. Always replaced together, since
    # Ctrl-C may come between two lines, and the journal is written even then.
    self._pending = None, ()
    self._under_way = collections.deque()
    self._begin, self._saved = time.monotonic(), len(journal.done)

  def run(
    self, items: Iterable[Picture | Refused], name: Callable[[int], str]
  ) -> None:
    """Counts all items; whatever stops it, the journal has what was counted.

    Args:
      items: from `benchmark_pictures.read`.
      name: of a position.
    """
    waiting = {}
    try:
      for item in items:
        if isinstance(item, Refused):
          told = name(item.position), item.reason
          self._journal.refused[item.position] = told
        else:
          together = waiting.setdefault(item.key, [])
          together.append(item)
          if len(together) == self._together(item.key):
            self._start(waiting.pop(item.key))
        self._tell()
      for together in waiting.values():
        self._start(together)
        self._tell()
    finally:
      self._save()

  def _start(self, pictures):
    update = self._measure(pictures)
    # Starting from the first update, not from zeros made elsewhere, keeps one
    # kind of array in the loop, hence one compilation.
    total, positions = self._pending
    if total is not None:
      update = benchmark_programs.merge(total, update)
    positions = (*positions, *(picture.position for picture in pictures))
    self._pending = update, positions
    self._under_way.append(update.images)
    if len(self._under_way) > _UNDER_WAY:
      jax.block_until_ready(self._under_way.popleft())

  def _tell(self):
    done = len(self._journal.done) + len(self._pending[1])
    if done - self._saved >= self._every:
      self._save()
    self._progress(done + len(self._journal.refused))

  def _save(self):
    """Fetches the counts and keeps them, with the pictures that they are of."""
    total, positions = self._pending
    if total is not None:
      self._journal.add(_by_name(jax.device_get(total)), positions)
      self._pending = None, ()
    now = time.monotonic()
    self._journal.seconds += now - self._begin
    self._begin, self._saved = now, len(self._journal.done)
    self._journal.save()


def _by_name(counts: BenchmarkCounts) -> Mapping[str, np.ndarray]:
  tallies = {
    field.name: getattr(counts, field.name)
    for field in dataclasses.fields(counts)
  }
  return {
    name: tally.compute()
    for name, tally in tallies.items()
    if tally is not None
  }


def summed(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Counts by name, added up; lists become int64 arrays."""
  total = {}
  for counts in parts:
    for name, value in counts.items():
      total[name] = total.get(name, 0) + np.asarray(value, np.int64)
  return total
