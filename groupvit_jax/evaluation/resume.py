"""Resume state of a long run: a JSONL file of the items that are finished.

A killed run loses only what it had not written yet: each line stands for
itself, and a line that was cut short is passed over.
"""

import json
import os
import pathlib
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from groupvit_jax import errors

T = TypeVar('T', bound=msgspec.Struct)


class ItemLog(Generic[T]):
  """JSONL file: a line of settings, then a line for each finished item.

  Attributes:
    path: of the file.
    settings: read from its first line; {} if there is no file, None if that
      line is not a JSON object.
    items: read from the other lines; a line of another form is passed over.
  """

  def __init__(
    self, path: str | os.PathLike, item_type: type[T], anew: bool = False
  ):
    """Reads the file, if there is one; `anew`, the first item replaces it."""
    self.path = pathlib.Path(path)
    exists = self.path.is_file() and not anew
    content = self.path.read_bytes() if exists else b''
    header, *lines = content.split(b'\n') if content else [b'{}']
    self.settings: dict[str, Any] | None = _convert(header, dict)
    items = [_convert(line, item_type) for line in lines]
    self.items: list[T] = [item for item in items if item is not None]
    self._begun = bool(self.items)
    self._cut_short = bool(lines) and lines[-1] != b''

  def differing(self, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that have other values in the file, sorted.

    A file without items differs in nothing: `append` begins it anew.
    """
    if not self.items:
      return []
    held, wanted = self.settings or {}, _plain(settings)
    names = held.keys() | wanted.keys()
    return sorted(k for k in names if held.get(k) != wanted.get(k))

  def append(self, item: T, settings: Mapping[str, Any]) -> None:
    """Writes one more item; below the settings, if it is the first."""
    lines = [json.dumps(msgspec.to_builtins(item))]
    if not self._begun:
      lines.insert(0, json.dumps(_plain(settings)))
      self.path.parent.mkdir(parents=True, exist_ok=True)
    elif self._cut_short:
      lines.insert(0, '')
    with self.path.open('ab' if self._begun else 'wb') as file:
      file.write(''.join(f'{line}\n' for line in lines).encode())
    self._begun, self._cut_short = True, False


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
  """As JSON returns it: lists for tuples, text for unknown types."""
  return json.loads(json.dumps(settings, default=str))


def _convert(line: bytes, kind: Any) -> Any:
  """A line as `kind`; None if it is not one.

  The json module reads it: msgspec refuses file names that are not UTF-8.
  """
  try:
    return msgspec.convert(json.loads(line), kind)
  # The errors of json, of Unicode and of msgspec; nested deeply.
  except (ValueError, RecursionError):
    return None


class _Rows(msgspec.Struct):
  """An array, to the last bit."""

  dtype: str
  shape: tuple[int, int]
  data: bytes


class _Counted(msgspec.Struct):
  """Some images, their counts by name, and the seconds of the run so far."""

  positions: list[int]
  counts: dict[str, Any]
  seconds: float
  rows: _Rows | None = None


# What differs, and the option that it may come from.
_DIFFERENCES = {
  'captions': 'another number of captions',
  'class_names': 'other class names (--class-names)',
  'classes': 'other classes (--class-names)',
  'crop': 'other crops',
  'data': 'other data (--data, --split, --set data.NAME)',
  'grouping': 'another grouping (--regions, --num-groups)',
  'image_size': 'another image size',
  'images': 'other images (--limit, --split)',
  'labels': 'other labels of the same images',
  'measures': 'other measures (--no-boundary)',
  'protocol': 'another protocol (--protocol, --set, --size)',
  'templates': 'other templates (--set templates)',
  'weights': 'other weights (--model)',
}


class ResumeState:
  """Counts of the images that are done, in a file or in memory only.

  Attributes:
    done: positions of the images that are counted.
    counts: int64 arrays by name, summed over these images.
    rows: vectors of the images by position, if the evaluation keeps them.
    skipped: (name, reason) of unusable images by position. Not in the file: a
      resumed run tries them again, and may not be allowed to skip them.
    seconds: from the first run's beginning to the last image counted, without
      the time between runs.
  """

  def __init__(
    self,
    path: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
  ):
    """Reads what an interrupted run has left.

    Args:
      path: of the file; None keeps nothing on disk.
      settings: plain values that the counts depend on.

    Raises:
      errors.WorkdirError: the file is of an evaluation with other settings, or
        is not a resume state.
    """
    self.done: set[int] = set()
    self.counts: dict[str, np.ndarray] = {}
    self.rows: dict[int, np.ndarray] = {}
    self.skipped: dict[int, tuple[str, str]] = {}
    self.seconds = 0.0
    self._settings = settings or {}
    self._log = None if path is None else ItemLog(path, _Counted)
    if self._log is not None:
      self._read(self._log)
    self._begin = time.monotonic() - self.seconds

  def _read(self, log: ItemLog[_Counted]) -> None:
    if log.settings is None:
      raise errors.WorkdirError(
        f'{log.path} is not the resume state of an evaluation; remove it, or '
        'choose another place for the report.'
      )
    if names := log.differing(self._settings):
      other = [_DIFFERENCES.get(name, f'another {name}') for name in names]
      raise errors.WorkdirError(
        f'{log.path} is of an unfinished evaluation with '
        f'{" and ".join(other)}; delete it to start again, or choose another '
        'place for the report.'
      )
    for item in log.items:
      table = None
      if item.rows is not None:
        table = np.frombuffer(item.rows.data, jnp.dtype(item.rows.dtype))
        table = table.reshape(item.rows.shape)
      self._count(item.counts, item.positions, table)
      self.seconds = item.seconds

  def add(
    self,
    counts: Mapping[str, np.ndarray],
    positions: Sequence[int],
    rows: np.ndarray | None = None,
  ) -> None:
    """Adds counts of some images to the file, then to the attributes.

    Ctrl-C may come anywhere: whoever calls this again with the same images
    counts them once, and a line that stands twice in the file is read once.

    Raises:
      OSError: the file cannot be written.
    """
    if self.done.issuperset(positions):
      return
    seconds = time.monotonic() - self._begin
    if self._log is not None:
      item = _Counted(
        positions=list(map(int, positions)),
        counts={k: np.asarray(x).tolist() for k, x in counts.items()},
        seconds=round(seconds, 3),
      )
      if rows is not None:
        item.rows = _Rows(rows.dtype.name, rows.shape, rows.tobytes())
      self._log.append(item, self._settings)
    self.seconds = seconds
    self._count(counts, positions, rows)

  def _count(
    self,
    counts: Mapping[str, Any],
    positions: Sequence[int],
    rows: np.ndarray | None,
  ) -> None:
    if self.done.issuperset(positions):
      return
    total = added(self.counts, counts)
    kept = {} if rows is None else dict(zip(positions, rows, strict=True))
    done = self.done.union(positions)
    self.counts, self.rows, self.done = total, self.rows | kept, done

  def remove(self) -> None:
    """Deletes the file, once its result is kept elsewhere."""
    if self._log is not None:
      self._log.path.unlink(missing_ok=True)


def added(
  total: Mapping[str, np.ndarray], counts: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Counts by name, added up: int64 arrays, or float64 for fractions."""
  result = {}
  for name, value in counts.items():
    value = np.asarray(value)
    wide = np.int64 if value.dtype.kind in 'iu' else np.float64
    result[name] = np.asarray(total.get(name, 0) + value.astype(wide))
  return result


def process_path(path: str | os.PathLike) -> pathlib.Path:
  """File of this process: of several processes each has its own."""
  path, count = pathlib.Path(path), jax.process_count()
  if count == 1:
    return path
  return path.with_name(f'{path.name}.{jax.process_index()}-of-{count}')


def fingerprint(names: Sequence[str]) -> list[int]:
  """Number and checksum of the images' names."""
  return [len(names), zlib.crc32('\n'.join(names).encode())]


def checksum(tree: Any) -> int:
  """Checksum that changes with any weight; the arrays are local ones."""
  value = 0
  for leaf in jax.tree.leaves(tree):
    array: Any = np.ascontiguousarray(leaf)
    value = zlib.crc32(array, value)
  return value
