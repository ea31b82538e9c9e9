"""What an evaluation has counted so far, so that a crash costs little.

One file, always whole: counts, and which pictures they are of.
"""

import json
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from groupvit_jax import errors, files


class Journal:
  """Counts of the pictures that are done, on disk or in memory alone.

  Attributes:
    done: positions of the pictures, the refused ones included.
    counts: int64 arrays by name.
    skipped: (name, reason) of refused pictures.
    seconds: spent so far.
  """

  def __init__(
    self, path: str | os.PathLike | None, settings: Mapping[str, Any]
  ):
    """Reads what is there.

    Args:
      path: of the file; None keeps nothing on disk.
      settings: plain values that the counts depend on.

    Raises:
      errors.WorkdirError: the file is of an evaluation with other settings, or
        is none of ours.
    """
    self._path = None if path is None else pathlib.Path(path)
    self._settings = json.loads(json.dumps(settings, default=str))
    self.done: set[int] = set()
    self.counts: dict[str, np.ndarray] = {}
    self.skipped: list[tuple[str, str]] = []
    self.seconds = 0.0
    if self._path is not None and self._path.exists():
      self._read()

  def _read(self):
    try:
      held = json.loads(self._path.read_text(encoding='utf-8'))
      found = dict(held['settings'])
      kept = [held[key] for key in ('done', 'counts', 'skipped', 'seconds')]
    except (ValueError, TypeError, KeyError) as error:
      raise errors.WorkdirError(
        f'{self._path} is not the journal of an evaluation; choose another '
        'place for it, or take the file away.'
      ) from error
    other = [
      key
      for key in sorted(self._settings.keys() | found.keys())
      if self._settings.get(key) != found.get(key)
    ]
    if other:
      raise errors.WorkdirError(
        f'{self._path} is of an evaluation with another {" and ".join(other)}; '
        'delete it to begin anew, or choose another place.'
      )
    done, counts, skipped, self.seconds = kept
    self.done = set(done)
    self.counts = {
      name: np.asarray(value, np.int64) for name, value in counts.items()
    }
    self.skipped = [(name, reason) for name, reason in skipped]

  def add(
    self, counts: Mapping[str, np.ndarray], positions: Sequence[int]
  ) -> None:
    """Adds counts by name, and the pictures that they are of.

    Both or neither, and no picture twice, wherever Ctrl-C comes: so it may be
    called again after an interruption.
    """
    if self.done.issuperset(positions):
      return
    done = self.done.union(positions)
    total = dict(self.counts)
    for name, value in counts.items():
      total[name] = total.get(name, 0) + value
    self.counts, self.done = total, done

  def refuse(self, position: int, name: str, reason: str) -> None:
    """Notes a picture that cannot be used; both or neither, as in `add`."""
    skipped, done = [*self.skipped, (name, reason)], self.done | {position}
    self.skipped, self.done = skipped, done

  def save(self) -> None:
    """Writes the file, whole or not at all. OSError if it cannot."""
    if self._path is None:
      return
    held = {
      'settings': self._settings,
      'done': sorted(self.done),
      'counts': {name: value.tolist() for name, value in self.counts.items()},
      'skipped': self.skipped,
      'seconds': self.seconds,
    }
    self._path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(self._path, json.dumps(held))

  def remove(self) -> None:
    """Deletes the file, once its result is kept elsewhere."""
    if self._path is not None:
      self._path.unlink(missing_ok=True)


def checksum(tree: Any) -> int:
  """A number that changes with any weight; the arrays are local ones."""
  value = 0
  for leaf in jax.tree.leaves(tree):
    value = zlib.crc32(np.ascontiguousarray(leaf), value)
  return value
