"""Atomic writes, paths of users, and reading ahead in threads.

Runs are killed, disks fill up, and browsers read while a run writes: a reader
finds the old file or the new one, never a part.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import secrets
from collections.abc import (
  Callable,
  Generator,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from concurrent import futures
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

_T = TypeVar('_T')


def expanded(path: str | os.PathLike) -> pathlib.Path:
  """A path with `~` resolved; `~nobody` stays as it is, and is not found.

  pathlib's own expanduser raises RuntimeError for a user that does not exist.
  """
  return pathlib.Path(os.path.expanduser(path))


def cache(name: str) -> pathlib.Path:
  """A folder of our own cache: $XDG_CACHE_HOME/groupvit_jax, or ~/.cache."""
  root = expanded(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  return root / 'groupvit_jax' / name


def check_writable(path: str | os.PathLike) -> None:
  """Checks that `write_atomically` could write a file; leaves none behind.

  Raises:
    OSError: it could not.
  """
  scratch = _scratch(pathlib.Path(path))
  scratch.open('xb').close()
  scratch.unlink()


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file under a scratch name beside it, then renames it.

  On any error the old file stays as it was and the scratch file is removed
  (only a kill -9 or a power cut leaves it, hidden).

  Args:
    path: of the file; its folder exists.
    content: all of it; a str is written as UTF-8, its line ends unchanged.

  Raises:
    OSError: it cannot be written.
  """
  path = pathlib.Path(path)
  data = content.encode() if isinstance(content, str) else content
  scratch = _scratch(path)
  try:
    with scratch.open('xb') as file:
      file.write(data)
      file.flush()
      # Else a power cut could keep the new name without its content.
      os.fsync(file.fileno())
    scratch.replace(path)
  except BaseException:  # Ctrl-C as well
    with contextlib.suppress(OSError):
      scratch.unlink()
    raise


def _scratch(path: pathlib.Path) -> pathlib.Path:
  # Unique also among threads, and among machines that share the folder. Not
  # by tempfile, whose files nobody but their owner may read.
  return path.with_name(f'.{path.name}.{secrets.token_hex(4)}')


_THREADS = min(16, os.cpu_count() or 1)


def results_ahead(
  function: Callable[[Any], _T], items: Iterable[Any], held: int
) -> Generator[_T, None, None]:
  """Results of `function`, in order; threads compute `held` of them ahead.

  An error of `function` is raised here.
  """
  remaining, pending = iter(items), collections.deque()
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    try:
      for item in itertools.islice(remaining, held):
        pending.append(pool.submit(function, item))
      while pending:
        result = pending.popleft().result()
        for item in itertools.islice(remaining, 1):
          pending.append(pool.submit(function, item))
        yield result
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def ahead(
  function: Callable[[Any], _T], items: Sequence[Any], chunk: int
) -> Iterator[list[_T]]:
  """Lists of results of `function`; threads compute the next list meanwhile.

  Args:
    function: of one item.
    items: its arguments.
    chunk: results in a list; two such lists are held at most.

  Yields:
    The results in order. An error of `function` is raised here.
  """
  if len(items) == 1:
    yield [function(items[0])]
    return
  with contextlib.closing(results_ahead(function, items, chunk)) as results:
    while part := list(itertools.islice(results, chunk)):
      yield part


def digest(
  arrays: Mapping[str, ArrayLike], record: Mapping[str, Any] | None = None
) -> str:
  """SHA-256 of names, types, shapes and bytes, whatever their order.

  Args:
    arrays: by name.
    record: JSON values that belong to them, and count too.
  """
  sha = hashlib.sha256()
  for name in sorted(arrays):
    x = np.asarray(arrays[name])  # one after the other, from a device
    sha.update(f'{name} {x.dtype} {x.shape}\n'.encode())
    # As bytes: bfloat16 has no buffer of its own.
    sha.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
  if record is None:
    return sha.hexdigest()
  text = f'{json.dumps(record, sort_keys=True)}{sha.hexdigest()}'
  return hashlib.sha256(text.encode()).hexdigest()
