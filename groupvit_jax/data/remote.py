"""Shards at addresses: found, fetched whole, and kept in a cache on disk.

fsspec opens gs://, s3://, hf://, https:// and memory://. Networks stall, fail
and truncate, so every request has a time limit and is tried again.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from absl import logging

from groupvit_jax import files
from groupvit_jax.errors import SourceError

_T = TypeVar('_T')

# The extra that brings each scheme.
_EXTRAS = {'gs': 'gcs', 'gcs': 'gcs', 's3': 's3', 'hf': 'hub'}
_BLOCK = 8 << 20  # bytes of a request
_TIMEOUT = 60.0  # seconds for a request
_TRIES = 8  # of a request, the first included
_PAUSE = 1.0  # seconds before the second try; they double, up to a minute
_THREADS = 32  # that ask for sizes
_FETCHERS = 4  # that read ahead
# An unfinished download of a process that is gone.
_STALE = 24 * 3600  # seconds
_SCRATCH = '.part'


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """A file at an address.

  Fields:
    url: its address.
    size: in bytes; None where the server does not say.
    stamp: changes with the file, as far as the server tells.
  """

  url: str
  size: int | None
  stamp: str

  @property
  def key(self) -> str:
    """Name of its copy in a cache."""
    text = f'{self.url} {self.size} {self.stamp}'
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f'{digest}-{self.url.rstrip("/").rpartition("/")[2][-100:]}'


def is_remote(path: str) -> bool:
  """Whether a path is an address."""
  return '://' in path


def filesystem(url: str) -> tuple[Any, str]:
  """The fsspec file system of an address, and the path in it.

  Raises:
    ImportError: a package is missing; the message names the extra.
    ValueError: an unknown scheme.
  """
  scheme = url.partition('://')[0]
  extra = _EXTRAS.get(scheme, 'remote')
  try:
    from fsspec import core

    return core.url_to_fs(url)
  except ImportError as error:
    raise ImportError(
      f"{scheme}:// needs: pip install 'groupvit_jax[{extra}]' ({error})"
    ) from error


def matches(url: str, suffix: str) -> list[str]:
  """Addresses of the files that a folder or pattern has.

  Another address is taken as it is: `stat` tells whether it exists.
  """
  web = url.startswith('http')  # there ? begins a query, and nothing is listed
  if url.endswith('/') and not web:
    url = f'{url}*.{suffix}*'
  if web or not any(sign in url for sign in '*?['):
    return [url]
  fs, path = filesystem(url)
  found = retried(lambda: call(fs, 'glob', path), url)
  return [fs.unstrip_protocol(name) for name in sorted(found)]


def stat(urls: Sequence[str]) -> list[RemoteFile | None]:
  """Sizes and stamps of addresses; None for those that do not exist.

  Raises:
    SourceError: a server does not answer.
  """

  def one(url):
    fs, path = filesystem(url)
    try:
      info = retried(lambda: _info(fs, path), url)
    except FileNotFoundError:
      return None
    names = ('ETag', 'etag', 'md5Hash', 'generation', 'mtime', 'LastModified')
    stamp = next((str(info[name]) for name in names if info.get(name)), '')
    return RemoteFile(url, info.get('size'), stamp)

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(one, urls))


def _info(fs, path):
  try:
    return call(fs, 'info', path)
  except FileNotFoundError as error:
    # fsspec's HTTP says so of every failure, and gives the true one as cause.
    cause = error.__cause__
    if cause is None or isinstance(cause, FileNotFoundError):
      raise
    if getattr(cause, 'status', None) in (404, 410):
      raise
    raise cause from None


def read(url: str) -> bytes | None:
  """A small file; None where there is none.

  A bucket that may not be listed says "forbidden" of what is not there.
  """
  fs, path = filesystem(url)
  try:
    return retried(lambda: call(fs, 'cat_file', path), url)
  except (FileNotFoundError, PermissionError):
    return None


def call(fs: Any, method: str, *args: Any, **options: Any) -> Any:
  """Calls a method of a file system within `_TIMEOUT`.

  Raises:
    TimeoutError: it took longer. A file system without asyncio goes on in its
      thread, which nobody waits for.
  """
  if getattr(fs, 'async_impl', False):
    from fsspec import asyn

    function = getattr(fs, f'_{method}')
    return asyn.sync(fs.loop, function, *args, timeout=_TIMEOUT, **options)
  outcome: concurrent.futures.Future = concurrent.futures.Future()

  def run():
    try:
      outcome.set_result(getattr(fs, method)(*args, **options))
    except BaseException as error:
      outcome.set_exception(error)

  threading.Thread(target=run, daemon=True).start()
  return outcome.result(_TIMEOUT)


def retried(function: Callable[[], _T], what: str) -> _T:
  """Calls a function until it succeeds.

  Raises:
    FileNotFoundError, PermissionError: at once.
    SourceError: it failed every time.
  """
  pause = _PAUSE
  for attempt in range(1, _TRIES + 1):
    try:
      return function()
    except (FileNotFoundError, PermissionError, ImportError):
      raise
    except Exception as error:  # each file system has its own
      if getattr(error, 'status', None) in (401, 403):
        raise PermissionError(
          f'{what}: the server wants credentials'
        ) from error
      reason = f'{type(error).__name__}: {error}'.rstrip(': ')
    if attempt < _TRIES:
      logging.warning('%s: %s (try %d of %d)', what, reason, attempt, _TRIES)
      # Not all hosts at the same moment.
      time.sleep(pause * random.uniform(0.5, 1))
      pause = min(60.0, 2 * pause)
  raise SourceError(
    f'{what} cannot be read, tried {_TRIES} times: {reason}. Check the '
    'connection and start again; training goes on from its last checkpoint.'
  )


def own_cache() -> 'ShardCache':
  """The cache of commands, 50 GB at most."""
  return ShardCache(files.cache('remote_shards'), int(50e9))


class ShardCache:
  """Whole copies of remote files, up to a size on disk.

  The folder may be shared by several processes and runs. The copies that were
  used longest ago make room.
  """

  def __init__(self, folder: str | os.PathLike, limit: int):
    """Opens a cache.

    Args:
      folder: made if needed.
      limit: bytes that it may take.
    """
    self.folder = files.expanded(folder)
    self.limit = limit
    self._lock = threading.Lock()
    self._changed = threading.Condition(self._lock)
    self._fetching: dict[str, int] = {}  # bytes to come
    self._wanted: collections.deque[RemoteFile] = collections.deque()
    self._pinned: frozenset[str] = frozenset()
    self._fetchers = 0  # threads
    self._warned = False

  def path(self, file: RemoteFile) -> str:
    """The copy of a file; waits until it is there.

    Another process may remove it again: a FileNotFoundError when it is opened
    means that it has to be asked for again.

    Raises:
      SourceError: it cannot be fetched.
    """
    path = self.folder / file.key
    while True:
      with self._changed:
        while file.key in self._fetching:
          self._changed.wait()
        with contextlib.suppress(FileNotFoundError):
          os.utime(path)
          return str(path)
        # A file larger than the cache is fetched when no other is.
        if not self._make_room(file.size or 0, urgent=True) and self._fetching:
          self._changed.wait()
          continue
        self._fetching[file.key] = file.size or 0
      self._fetch(file)

  def ahead(self, wanted: Iterable[RemoteFile]) -> None:
    """Says what is read next, soonest first; threads fetch it meanwhile."""
    wanted = list(wanted)
    keys = frozenset(file.key for file in wanted)
    with self._changed:
      if keys == self._pinned:
        return
      self._pinned = keys
      self._wanted = collections.deque(
        file for file in wanted if not (self.folder / file.key).exists()
      )
      self._changed.notify_all()
      while self._fetchers < _FETCHERS:
        threading.Thread(target=self._work, daemon=True).start()
        self._fetchers += 1

  def _work(self):
    """Fetches what is wanted, as long as there is room (in a thread)."""
    while True:
      with self._changed:
        while not self._wanted:
          self._changed.wait()
        file = self._wanted.popleft()
        if file.key in self._fetching or (self.folder / file.key).exists():
          continue
        if not self._make_room(file.size or 0, urgent=False):
          continue
        self._fetching[file.key] = file.size or 0
      try:
        self._fetch(file)
      except Exception as error:  # raised again by who needs the file
        logging.warning('reading ahead: %s', error)

  def _fetch(self, file):
    """Downloads to a scratch file, then renames it."""
    try:
      scratch = self.folder / f'{file.key}.{secrets.token_hex(4)}{_SCRATCH}'
      try:
        with scratch.open('xb') as out:
          for block in self._blocks(file):
            out.write(block)
        scratch.replace(self.folder / file.key)
      finally:
        scratch.unlink(missing_ok=True)
    finally:
      with self._changed:
        del self._fetching[file.key]
        self._changed.notify_all()

  def _blocks(self, file):
    """The bytes of a file, a block at a time."""
    fs, path = filesystem(file.url)
    cat = functools.partial(call, fs, 'cat_file', path)
    size = file.size
    if size is None:
      yield retried(cat, file.url)
      return
    for start in range(0, size, _BLOCK):
      end = min(size, start + _BLOCK)

      def block(start=start, end=end):
        data = cat(start=start, end=end)
        if len(data) == size:  # a server that knows no ranges
          data = data[start:end]
        if len(data) != end - start:
          raise ConnectionError(
            f'{len(data):,} bytes came instead of {end - start:,}'
          )
        return data

      yield retried(block, file.url)

  def _make_room(self, size, urgent):
    """Removes the oldest files until `size` bytes more fit; holds the lock.

    Returns whether they fit. Only what is urgent takes the place of files that
    are read next.
    """
    kept = []
    coming = size + sum(self._fetching.values())
    self.folder.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(self.folder):
      with contextlib.suppress(FileNotFoundError):
        status = entry.stat()
        fresh = time.time() - status.st_mtime < _STALE
        if not (entry.name.endswith(_SCRATCH) and fresh):
          pinned = entry.name in self._pinned
          kept.append((pinned, status.st_mtime, entry.path, status.st_size))
    total = coming + sum(item[-1] for item in kept)
    for pinned, _, path, bytes_ in sorted(kept):
      if total <= self.limit or (pinned and not urgent):
        break
      if pinned and not self._warned:
        self._warned = True
        logging.warning(
          '%s: data.cache_gb is too small for the shards that are read at the '
          'same time, so that they are fetched again and again; raise it, or '
          'lower data.streams or data.window',
          self.folder,
        )
      pathlib.Path(path).unlink(missing_ok=True)
      total -= bytes_
    return total <= self.limit
