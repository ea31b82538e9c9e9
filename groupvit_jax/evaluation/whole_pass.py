"""One pass over whole pictures: batches to what is found to the journal."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from groupvit_jax.evaluation.benchmark_journal import Journal

# Pictures from one writing of the journal to the next. Writing the vectors of
# 5,000 pictures (10 MB) takes as long as encoding some of them.
_EVERY = 500


# Starts a pass over the pictures whose positions it is not given.
BatchesFn = Callable[[Collection[int]], Iterable[Any]]


class Found(NamedTuple):
  """What a batch tells; the arrays may still be on the device.

  Attributes:
    positions: int b, of the pictures; -1 for what does not count.
    counts: integers by name, which add up.
    rows: b e, kept picture by picture; None for nothing.
  """

  positions: Any
  counts: Mapping[str, Any]
  rows: Any = None


def run(
  batches: Iterable[Any],
  measure: Callable[[Any], Found],
  journal: Journal,
  *,
  every: int = _EVERY,
) -> None:
  """Measures all batches; whatever stops it, the journal has what was found.

  Args:
    batches: of the pictures that the journal does not have.
    measure: starts one of them.
    journal: gets what is found.
    every: pictures from one writing of it to the next.

  Raises:
    ValueError: there is no batch, or no picture that counts.
  """
  pending, waiting, begin = [], 0, time.monotonic()

  def keep():
    nonlocal waiting, begin
    for found in pending:
      journal.add(*_fetched(found))
    pending.clear()
    now = time.monotonic()
    journal.seconds += now - begin
    waiting, begin = 0, now
    journal.save()

  came = bool(journal.done)
  try:
    for batch in batches:
      came = True
      pending.append(measure(batch))
      waiting += len(pending[-1].positions)
      if waiting >= every:
        keep()
  finally:
    keep()
  if not came:
    raise ValueError(
      'The evaluation set gave no batches; check that its split is not empty '
      'and that batches_fn() starts a new pass each time it is called.'
    )
  if not journal.done:
    raise ValueError(
      'No picture of the evaluation set counts: every one was skipped, or is '
      'padding (mask 0).'
    )


def _fetched(found):
  """Counts, positions and rows on the host, without what does not count."""
  positions, counts, rows = jax.device_get(found)
  real = np.asarray(positions) >= 0
  rows = None if rows is None else rows[real]
  return counts, np.asarray(positions)[real].tolist(), rows
