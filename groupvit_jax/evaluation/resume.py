"""What an evaluation has counted so far, so that a crash costs little.

One file, always whole: counts, and which pictures they are of; of whole
pictures that are ranked in the end, their vectors.
"""

import base64
import json
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax import errors, files

# What differs, and the option that it may come from.
_WORDS = {
  'captions': 'another number of captions',
  'class_names': 'other class names (--class-names)',
  'classes': 'other classes (--class-names)',
  'crop': 'other crops',
  'data': 'other data (--data, --split, --set data.NAME)',
  'image_size': 'another image size',
  'measures': 'other measures (--no-boundary)',
  'pictures': 'other pictures (--limit, --split)',
  'protocol': 'another protocol (--protocol, --set, --size)',
  'grouping': 'another grouping (--regions, --num-groups)',
  'templates': 'other templates (--set templates)',
  'truth': 'other labels of the same pictures',
  'weights': 'other weights (--model)',
}


class Journal:
  """Counts of the pictures that are done, on disk or in memory alone.

  Attributes:
    done: positions of the pictures that are counted.
    counts: int64 arrays by name.
    rows: vectors of the pictures by position, where single ones are kept.
    refused: (name, reason) of pictures that cannot be used, by position. Not
      kept on disk: whoever goes on tries them again, and may not skip them.
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
    self.rows: dict[int, np.ndarray] = {}
    self.refused: dict[int, tuple[str, str]] = {}
    self.seconds = 0.0
    if self._path is not None and self._path.exists():
      self._read()

  def _read(self):
    try:
      held = json.loads(self._path.read_text(encoding='utf-8'))
      found = dict(held['settings'])
      done, counts, seconds = (
        held[key] for key in ('done', 'counts', 'seconds')
      )
      rows = _unpacked(held['rows'], done)
    except (ValueError, TypeError, KeyError) as error:
      raise errors.WorkdirError(
        f'{self._path} is not the journal of an evaluation; choose another '
        'place for it, or take the file away.'
      ) from error
    if not done:
      return  # whatever it was of, nothing is mixed
    other = [
      _WORDS.get(key, f'another {key}')
      for key in sorted(self._settings.keys() | found.keys())
      if self._settings.get(key) != found.get(key)
    ]
    if other:
      raise errors.WorkdirError(
        f'{self._path} is of an evaluation with {" and ".join(other)}; delete '
        'it to begin anew, or choose another place.'
      )
    self.done, self.rows, self.seconds = set(done), rows, seconds
    self.counts = {
      name: np.asarray(value, np.int64) for name, value in counts.items()
    }

  def add(
    self,
    counts: Mapping[str, np.ndarray],
    positions: Sequence[int],
    rows: np.ndarray | None = None,
  ) -> None:
    """Adds counts by name, the pictures that they are of, a vector of each.

    Both or neither, and no picture twice, wherever Ctrl-C comes: so it may be
    called again after an interruption.
    """
    if self.done.issuperset(positions):
      return
    done = self.done.union(positions)
    total = dict(self.counts)
    for name, value in counts.items():
      total[name] = total.get(name, 0) + np.asarray(value, np.int64)
    kept = {} if rows is None else dict(zip(positions, rows, strict=True))
    kept |= self.rows
    self.counts, self.rows, self.done = total, kept, done

  def save(self) -> None:
    """Writes the file, whole or not at all. OSError if it cannot.

    Of nothing, none: it would refuse whoever corrects the command.
    """
    if self._path is None or not self.done:
      return
    held = {
      'settings': self._settings,
      'done': sorted(self.done),
      'counts': {name: value.tolist() for name, value in self.counts.items()},
      'rows': _packed(self.rows),
      'seconds': self.seconds,
    }
    self._path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(self._path, json.dumps(held))

  def remove(self) -> None:
    """Deletes the file, once its result is kept elsewhere."""
    if self._path is not None:
      self._path.unlink(missing_ok=True)


def part(path: str | os.PathLike) -> pathlib.Path:
  """Where this process keeps its journal: each of several has its own."""
  path, count = pathlib.Path(path), jax.process_count()
  if count == 1:
    return path
  return path.with_name(f'{path.name}.{jax.process_index()}-of-{count}')


def in_memory(variables: Any) -> Journal:
  """A journal that nothing is left of, whatever the weights."""
  del variables
  return Journal(None, {})


def _packed(rows: Mapping[int, np.ndarray]) -> list[Any] | None:
  """As they are, to the last bit, in the order of the pictures."""
  if not rows:
    return None
  table = np.stack([rows[i] for i in sorted(rows)])
  text = base64.b64encode(table.tobytes()).decode()
  return [table.dtype.name, table.shape, text]


def _unpacked(packed: Any, done: Sequence[int]) -> dict[int, np.ndarray]:
  if packed is None:
    return {}
  kind, shape, text = packed
  table = np.frombuffer(base64.b64decode(text), jnp.dtype(kind))
  return dict(zip(sorted(done), table.reshape(shape), strict=True))


def fingerprint(names: Sequence[str]) -> list[int]:
  """Tells a set of pictures from another by their names."""
  return [len(names), zlib.crc32('\n'.join(names).encode())]


def checksum(tree: Any) -> int:
  """A number that changes with any weight; the arrays are local ones."""
  value = 0
  for leaf in jax.tree.leaves(tree):
    value = zlib.crc32(np.ascontiguousarray(leaf), value)
  return value
