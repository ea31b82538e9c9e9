"""Finds shard files and reads pieces out of them.

What tar and TFRecord sources share: patterns, cached indices, random reads.
"""

import concurrent.futures
import glob
import hashlib
import io
import os
import pathlib
import re
import threading

import numpy as np
from absl import logging
from tqdm import tqdm

from groupvit_jax import files
from groupvit_jax.data import preparation

_VERSION = 1
_NUMBERS = re.compile(r'^(\d+)\.\.(\d+)$')
_MOST_OPEN = 256
_MOST_NAMED = 3


def expand(patterns):
  """Expands `{000..436}`, `{a,b}`, `*` and `~` in paths of shards.

  Args:
    patterns: str or path, or a list of them.

  Returns:
    List of paths (str), in order, without those that do not exist: warnings
    name the patterns that lack some or all of theirs.

  Raises:
    FileNotFoundError: nothing matches; the message says how to prepare it.
    ValueError: a pattern is a command or an address.
  """
  if isinstance(patterns, (str, os.PathLike)):
    patterns = [patterns]
  patterns = [os.fspath(pattern) for pattern in patterns]
  if not patterns:
    raise ValueError(
      'No shards are named: give a path or a pattern, such as '
      'data.shards=/data/{00000..00331}.tar.'
    )
  files_of = {pattern: _files_by_path(pattern) for pattern in patterns}
  found = [
    file
    for by_path in files_of.values()
    for there in by_path.values()
    for file in there
  ]
  if not found:
    raise FileNotFoundError(_nothing_found(patterns))
  _warn_of_absent(files_of)
  return list(dict.fromkeys(found))


def absent(patterns):
  """Paths that patterns spell out and that are not there.

  Args:
    patterns: as in `expand`.

  Returns:
    List of (pattern, path), in order.
  """
  if isinstance(patterns, (str, os.PathLike)):
    patterns = [patterns]
  return [
    (pattern, path)
    for pattern in map(os.fspath, patterns)
    for path, there in _files_by_path(pattern).items()
    if not there
  ]


def _files_by_path(pattern):
  """Maps each path that the braces spell to the files that are there."""
  if pattern.startswith('pipe:') or '://' in pattern:
    raise ValueError(
      f'{pattern!r} is not a path. Commands and addresses are not run or '
      'opened: copy or mount the shards and give their path.'
    )
  by_path = {}
  for path in _braces(os.path.expanduser(pattern)):
    matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    by_path[path] = [match for match in matches if os.path.isfile(match)]
  return by_path


def _warn_of_absent(files_of):
  """Names the patterns that lack files, those without any in one line."""
  empty = []
  for pattern, by_path in files_of.items():
    absent = [path for path, there in by_path.items() if not there]
    if len(absent) == len(by_path):
      empty.append(pattern)
    elif absent:
      logging.warning(
        '%s: %d of its %d paths are absent and skipped, such as %s',
        pattern,
        len(absent),
        len(by_path),
        absent[0],
      )
  if empty:
    logging.warning('%s', _left_out(empty))


def _left_out(patterns):
  """Names data sets of which nothing is there, while others are."""
  named = ', '.join(patterns[:_MOST_NAMED])
  more = len(patterns) - _MOST_NAMED
  if more > 0:
    named += f' and {more} more'
  return (
    f'no shard is there of {named}: training goes on without; '
    'docs/data.md tells how to prepare them'
  )


def _nothing_found(patterns):
  return (
    'no training data: none of the shards is there. How to prepare them:\n\n'
    + preparation.how_to_prepare(patterns)
  )


def _braces(pattern):
  """Expands the first {a..b} or {a,b} of a pattern, then the rest."""
  match = re.search(r'\{([^{}]*)\}', pattern)
  if not match:
    return [pattern]
  numbers = _NUMBERS.match(match[1])
  if numbers:
    first, last = numbers.groups()
    if int(last) < int(first):
      raise ValueError(f'{match[0]} in {pattern!r} counts down.')
    width = len(first)
    choices = [f'{i:0{width}d}' for i in range(int(first), int(last) + 1)]
  else:
    choices = match[1].split(',')
  head, tail = pattern[: match.start()], pattern[match.end() :]
  return [head + choice + rest for choice in choices for rest in _braces(tail)]


def build_index(paths, scan, kind):
  """Indexes shards, in parallel, with indices of earlier runs reused.

  Args:
    paths: list of paths.
    scan: function of a path that returns an integer array [n, columns].
    kind: str, tells index files of different scans apart.

  Returns:
    (shard int32 [n], table uint32 or int64 [n, columns]), shards in order.
  """
  with concurrent.futures.ThreadPoolExecutor(min(32, len(paths))) as pool:
    work = pool.map(lambda path: _indexed(path, scan, kind), paths)
    progress = tqdm(
      work, 'index shards', len(paths), unit=' shards', delay=2, leave=False
    )
    tables = list(progress)
  shard = np.repeat(
    np.arange(len(paths), dtype=np.int32), [len(table) for table in tables]
  )
  return shard, np.concatenate(tables)


def _indexed(path, scan, kind):
  """The table of one shard, from its index file if that is up to date."""
  status = os.stat(path)
  stamp = np.array([_VERSION, status.st_size, status.st_mtime_ns], np.int64)
  beside, in_cache = _index_paths(path, kind)
  for index_path in (beside, in_cache):
    table = _load(index_path, stamp)
    if table is not None:
      return table
  table = scan(path)
  if table.max(initial=0) < 2**32:  # half the memory, for most shards
    table = table.astype(np.uint32)
  for index_path in (beside, in_cache):
    if _save(index_path, stamp, table):
      break
  return table


def _index_paths(path, kind):
  """Where an index may lie: beside the shard, or in the user's cache."""
  path = os.path.abspath(path)
  name = f'{os.path.basename(path)}.{kind}.npz'
  root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  digest = hashlib.sha256(os.path.dirname(path).encode()).hexdigest()[:16]
  cache = pathlib.Path(root) / 'groupvit_jax' / 'shard_index' / digest
  return pathlib.Path(path).with_name(name), cache / name


def _load(index_path, stamp):
  """The table of an index file; None if absent, stale or broken."""
  try:
    with np.load(index_path, allow_pickle=False) as saved:
      if np.array_equal(saved['stamp'], stamp):
        return saved['table']
  except FileNotFoundError:
    pass
  except Exception as error:  # a torn zip raises many things
    logging.warning('%s is unreadable and made anew: %s', index_path, error)
  return None


def _save(index_path, stamp, table):
  """Writes an index file at once or not at all; tells whether it could."""
  packed = io.BytesIO()
  np.savez(packed, stamp=stamp, table=table)
  try:
    index_path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(index_path, packed.getvalue())
  except OSError:
    return False
  return True


class Files:
  """Reads byte ranges of many files from many threads.

  Some hundred files stay open; beyond that each read opens its own, since a
  process may not hold a thousand shards open.
  """

  def __init__(self, paths):
    self.paths = list(paths)
    self._open = {}
    self._lock = threading.Lock()

  def read(self, shard, offset, size):
    """Returns `size` bytes of file number `shard` from `offset` on."""
    handle = self._open.get(shard)
    if handle is None:
      handle = os.open(self.paths[shard], os.O_RDONLY | os.O_CLOEXEC)
      if not self._keep(shard, handle):
        try:
          return os.pread(handle, size, offset)
        finally:
          os.close(handle)
    return os.pread(handle, size, offset)

  def _keep(self, shard, handle):
    with self._lock:
      if shard in self._open or len(self._open) >= _MOST_OPEN:
        return False
      self._open[shard] = handle
      return True

  def close(self):
    """Closes all files; nothing may read any more."""
    with self._lock:
      handles, self._open = self._open, {}
    for handle in handles.values():
      os.close(handle)

  def __del__(self):
    self.close()

  def __getstate__(self):
    return self.paths

  def __setstate__(self, paths):
    self.__init__(paths)
