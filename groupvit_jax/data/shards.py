"""Sources of shard files: indexed once, read at random, local or fetched."""

import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from absl import logging
from jaxtyping import Integer

from groupvit_jax import files, processes
from groupvit_jax.data import paths, reading, remote
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.data.paths import Patterns

_T = TypeVar('_T')

_VERSION = 1
_MOST_OPEN = 256

# A larger member or record is no training image.
MAX_IMAGE_BYTES = 1 << 27
# Of remote shards in memory; one is 0.2 MB for 10,000 samples.
_MOST_TABLES = 256
MANIFEST = 'manifest.json'  # of `groupvit data convert`

Table = Integer[np.ndarray, 'n columns']


class ShardSource(reading.Source):
  """Base of sources that are shard files of one format.

  A local shard is indexed when the source is opened. A remote one is fetched
  and indexed when it is first read, if its number of samples is known from the
  manifest of `groupvit data convert` or img2dataset's `_stats.json` beside it;
  else it is fetched now.

  Fields:
    name: what messages call it.
    paths: paths or addresses of the shards.
    lengths: number of samples of each.
    kind, suffix: of the format: names its index files, and shards in a folder.
  """

  kind = 'shards'
  suffix = 'tar'

  def __init__(
    self,
    patterns: Patterns,
    name: str | None = None,
    cache: remote.ShardCache | None = None,
  ):
    """Opens shards; unreadable ones are left out with a warning.

    Args:
      patterns: path, address or pattern (`{00000..00436}.tar`, `*.tar`, a
        folder), or a list.
      name: what messages call it; by default the patterns.
      cache: for remote shards.

    Raises:
      FileNotFoundError: no shard; the message says how to prepare the data.
      ValueError: no shard can be read.
    """
    listed = paths.listed(patterns)
    self.name = name or ', '.join(listed)
    found = paths.expand(listed, self.suffix)
    self._cache = cache
    self._stated = self._stat(found)
    self.paths = [path for path in found if path in self._stated]
    if not self.paths:
      raise FileNotFoundError(f'{self.name}: there is no such address.')
    self._files = Files(self.paths)
    self._tables: dict[int, Any] = {}
    self._lock = threading.Lock()
    self.lengths = self._index()
    self._ends = np.cumsum(self.lengths)

  def scan(self, path: str) -> Table:
    """Indexes one shard, a local file: a row for each sample.

    Raises:
      ValueError: it cannot be read; the message names it.
    """
    raise NotImplementedError

  def sample(self, shard: int, row: list[int]) -> dict[str, Any]:
    """Reads the sample of a row of a shard's table.

    Raises:
      BadSampleError: it cannot be used.
    """
    raise NotImplementedError

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns {'image': encoded bytes, 'caption': str, bytes or several}.

    Raises:
      BadSampleError: the sample cannot be used.
      SourceError: a shard cannot be fetched.
    """
    shard, row = self._row(index)
    if row is None:
      raise BadSampleError(
        f'{self.paths[shard]} is damaged, or has fewer samples than its '
        'manifest or _stats.json says',
        'shard',
      )
    return self.sample(shard, row)

  @property
  def is_remote(self) -> bool:
    """Whether a shard is remote."""
    return any(map(remote.is_remote, self.paths))

  def describe(self, index: int) -> str:
    """Names a sample by its shard."""
    shard = int(np.searchsorted(self._ends, index, 'right'))
    at = index - int(self._ends[shard]) + self.lengths[shard]
    return f'{self.paths[shard]}: sample {at}'

  def identity(self) -> dict[str, Any]:
    """See `Source.identity`: names, sizes and lengths of the shards."""
    facts = [
      (os.path.basename(path), self._stated[path].size, length)
      for path, length in zip(self.paths, self.lengths, strict=True)
    ]
    return reading.describe_identity(
      self.kind, len(self), len(self.paths), facts
    )

  def ahead(self, shards: Sequence[int]) -> None:
    """Fetches remote shards that are read next."""
    if self._cache is not None:
      wanted = (self._stated[self.paths[shard]] for shard in shards)
      self._cache.ahead(file for file in wanted if remote.is_remote(file.url))

  def with_file(self, shard: int, use: Callable[[str], _T]) -> _T:
    """Calls `use` with the path of a shard; a remote one is fetched first."""
    file = self._stated[self.paths[shard]]
    if not remote.is_remote(file.url):
      return use(file.url)
    if self._cache is None:
      raise ValueError(f'{file.url} needs a cache to be kept in.')
    while True:
      with contextlib.suppress(FileNotFoundError):  # it has just made room
        return use(self._cache.path(file))

  def read(self, shard: int, offset: int, size: int) -> bytes:
    """Reads bytes of a shard."""
    if not remote.is_remote(self.paths[shard]):
      return self._files.read(shard, offset, size)
    # Opened each time: a copy that stays open keeps its place on the disk.
    return self.with_file(shard, lambda path: _read(path, offset, size))

  def _row(self, index):
    """The shard of a sample, and its row; None where there is none."""
    shard = int(np.searchsorted(self._ends, index, 'right'))
    at = index - int(self._ends[shard]) + self.lengths[shard]
    table = self._tables.get(shard)
    if table is None:
      table = self._remote_table(shard)
    return shard, table[at].tolist() if at < len(table) else None

  def _remote_table(self, shard):
    """Indexes a remote shard; a broken one has no rows."""
    path = self.paths[shard]
    try:
      table = self._indexed(shard)
      if len(table) < self.lengths[shard]:
        logging.warning(
          '%s has %d samples instead of %d',
          *(path, len(table), self.lengths[shard]),
        )
    except ValueError as error:
      logging.warning('%s Its samples are replaced by others.', error)
      table = np.zeros((0, 1), np.int64)
    with self._lock:
      while len(self._tables) >= _MOST_TABLES:
        self._tables.pop(next(iter(self._tables)))
      self._tables[shard] = table
    return table

  def _stat(self, found):
    """RemoteFile of each path, also of local ones, that exists."""
    stated = {
      path: remote.RemoteFile(
        path, (status := os.stat(path)).st_size, str(status.st_mtime_ns)
      )
      for path in found
      if not remote.is_remote(path)
    }
    urls = [path for path in found if remote.is_remote(path)]
    there = dict(zip(urls, remote.stat(urls), strict=True))
    if absent := [url for url, file in there.items() if file is None]:
      logging.warning(
        '%s: %d of %d addresses are absent and skipped, such as %s',
        *(self.name, len(absent), len(urls), absent[0]),
      )
    return stated | {url: file for url, file in there.items() if file}

  def _index(self):
    """Numbers of samples; tables of all shards whose number is not stated."""
    stated = _stated_lengths(
      [path for path in self.paths if remote.is_remote(path)]
    )
    shards = [i for i, path in enumerate(self.paths) if path not in stated]
    tables = _indexed_all(
      [self.paths[i] for i in shards], lambda k: self._indexed(shards[k])
    )
    self._tables = {
      shard: table
      for shard, table in zip(shards, tables, strict=True)
      if not remote.is_remote(self.paths[shard])
    }
    lengths = dict(zip(shards, map(len, tables), strict=True))
    return [
      lengths[i] if i in lengths else stated[path]
      for i, path in enumerate(self.paths)
    ]

  def _indexed(self, shard):
    file = self._stated[self.paths[shard]]
    if not remote.is_remote(file.url):
      return _indexed(file.url, self.scan, self.kind)
    digest = hashlib.sha256(file.key.encode()).digest()[:8]
    stamp = int.from_bytes(digest, signed=True)

    def scan(unused_url):
      return self.with_file(shard, self.scan)

    return _indexed(file.url, scan, self.kind, stamp)


def _stated_lengths(urls):
  """Numbers of samples that files beside remote shards state."""
  folders = {url.rpartition('/')[0] for url in urls}
  lengths = {}
  for folder in sorted(folders):
    for name, shard in (
      _json(f'{folder}/{MANIFEST}').get('shards') or {}
    ).items():
      lengths[f'{folder}/{name}'] = int(shard['samples'])
  rest = [url for url in urls if url not in lengths]
  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    stats = pool.map(lambda url: _json(f'{url[:-4]}_stats.json'), rest)
    for url, found in zip(rest, stats, strict=True):
      if 'successes' in found:
        lengths[url] = int(found['successes'])
  return {url: lengths[url] for url in urls if url in lengths}


def _json(url):
  """The object in a JSON file at an address; {} without one."""
  try:
    fields = json.loads(remote.read(url) or b'{}')
  except ValueError as error:
    logging.warning('%s is no JSON and is not used: %s', url, error)
    fields = {}
  return fields if isinstance(fields, dict) else {}


def _indexed_all(paths, table_of):
  """Tables of numbered shards; empty, with a warning, for unreadable ones.

  Raises:
    ValueError: all are unreadable.
  """
  if not paths:
    return []

  def attempt(number):
    try:
      return table_of(number)
    except ValueError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(min(32, len(paths))) as pool:
    work = pool.map(attempt, range(len(paths)))
    progress = processes.Bar(
      work, 'index shards', len(paths), unit=' shards', delay=2, leave=False
    )
    tables = list(progress)
  errors = [table for table in tables if isinstance(table, ValueError)]
  if len(errors) == len(paths):
    raise errors[0]
  for error in errors:
    logging.warning('%s Left out.', error)
  empty = np.zeros((0, 1), np.int64)
  return [empty if isinstance(table, ValueError) else table for table in tables]


def _indexed(path, scan, kind, stamp=None):
  """The table of one shard, from its index file if that is up to date."""
  if stamp is None:
    status = os.stat(path)
    places = _index_paths(os.path.abspath(path), kind)
    marks = [_VERSION, status.st_size, status.st_mtime_ns]
  else:
    places = _index_paths(path, kind)[1:]
    marks = [_VERSION, stamp]
  marks = np.array(marks, np.int64)
  for index_path in places:
    table = _load(index_path, marks)
    if table is not None:
      return table
  table = scan(path)
  if table.max(initial=0) < 2**32:  # half the memory, for most shards
    table = table.astype(np.uint32)
  for index_path in places:
    if _save(index_path, marks, table):
      break
  return table


def _index_paths(path, kind):
  """Where an index may lie: beside the shard, or in the user's cache."""
  folder, name = os.path.split(path)
  name = f'{name}.{kind}.npz'
  digest = hashlib.sha256(folder.encode()).hexdigest()[:16]
  cache = files.cache('shard_index') / digest
  return [pathlib.Path(folder) / name, cache / name]


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


def _read(path, offset, size):
  with open(path, 'rb', buffering=0) as file:
    return os.pread(file.fileno(), size, offset)


class Files:
  """Reads byte ranges of many files from many threads.

  Some hundred files stay open; beyond that each read opens its own, since a
  process may not hold a thousand shards open.
  """

  def __init__(self, paths: Sequence[str]):
    self.paths = list(paths)
    self._open = {}
    self._lock = threading.Lock()

  def read(self, shard: int | np.integer, offset: int, size: int) -> bytes:
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

  def close(self) -> None:
    """Closes all files; nothing may read any more."""
    with self._lock:
      handles, self._open = self._open, {}
    for handle in handles.values():
      os.close(handle)

  def __del__(self):
    self.close()
