"""The folder of a run: its owner, its lock, and failures of its disk.

A workdir belongs to one configuration, one set of training data, and, at a
time, one process.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import platform
import re
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import jax
from absl import logging

from groupvit_jax import files
from groupvit_jax.errors import (
  Interrupted,
  StorageError,
  UserError,
  WorkdirError,
)
from groupvit_jax.training import config as config_lib

# What file systems answer, also where a library passes it on as text.
_ERRNOS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EIO,
  errno.EACCES,
  errno.EPERM,
)
_TEXT = re.compile('|'.join(map(os.strerror, _ERRNOS)))


def check(
  workdir: str | os.PathLike,
  config: config_lib.Config,
  base: config_lib.Config | None = None,
) -> pathlib.Path:
  """Creates the workdir, or checks that it holds a run of this config.

  A run of another config that has saved no checkpoint does not count.

  Args:
    workdir: the folder of the run; created with its parents.
    config: the config of the run.
    base: value of options that a `config.json` from before them lacks (see
      `config.differences`); None: unknown.

  Returns:
    The absolute path of the workdir.

  Raises:
    StorageError: it cannot be written.
    WorkdirError: it holds a run of another config.
  """
  path = files.expanded(workdir).absolute()
  record = path / 'config.json'
  with storage_explained(path):
    path.mkdir(parents=True, exist_ok=True)
    if not (record.exists() and steps(path)):
      return path
    try:
      changed = config_lib.differences(
        config_lib.to_json(config),
        record.read_text(),
        '{}' if base is None else config_lib.to_json(base),
      )
    except ValueError as error:  # half-written or foreign config.json
      raise WorkdirError(
        f'{record} is not readable as a config ({error}); choose another '
        '--workdir or remove that file'
      ) from error
  if config.run.get('accept_other_data'):
    changed = [line for line in changed if not line.startswith('data.')]
  if changed:
    more = f'\n  ... and {len(changed) - 8} more' if len(changed) > 8 else ''
    raise WorkdirError(
      f'{path} holds checkpoints of another configuration:{_lines(changed[:8])}'
      f'{more}\nchoose another --workdir, or go back to that configuration'
    )
  return path


def stored_config(path: pathlib.Path) -> dict[str, Any] | None:
  """The config of the run in a workdir; None without a checkpoint."""
  record = path / 'config.json'
  if not (record.exists() and steps(path)):
    return None
  return json.loads(record.read_text())


def record_config(path: pathlib.Path, config: config_lib.Config) -> None:
  """Writes `config.json` into a workdir that `check` has let pass."""
  if jax.process_index() == 0:
    with storage_explained(path):
      files.write_atomically(path / 'config.json', config_lib.to_json(config))


def check_data(
  path: pathlib.Path,
  stored: Mapping[str, Any] | None,
  current: Mapping[str, Any],
  accept: bool,
) -> None:
  """Checks that a run is resumed on the training data that it began with.

  Args:
    path: of the workdir, for messages.
    stored: record of the data in the checkpoint; None in one of a former
      version.
    current: record of the data that are there now (`Source.identity`).
    accept: whether other data are a warning instead of an error.

  Raises:
    WorkdirError: they differ; the message says in what.
  """
  if stored is None:
    logging.info(
      '%s is from a version that kept no record of the training data; whether '
      'they are still the same is not checked',
      path,
    )
    return
  names = sorted(stored.keys() | current.keys())
  changed = [
    f'{name}: {stored.get(name)} -> {current.get(name)}'
    for name in names
    if stored.get(name) != current.get(name)
  ]
  if not changed:
    return
  if accept:
    logging.warning(
      'the training data are not those that the run began with, so samples may '
      'come twice or never:%s',
      _lines(changed),
    )
    return
  raise WorkdirError(
    f'{path} holds checkpoints trained on other data:{_lines(changed)}\nbring '
    'these data back, choose another --workdir, or go on with the new data by '
    '--config.run.accept_other_data=true'
  )


def _lines(changed: list[str]) -> str:
  return ''.join(f'\n  {line}' for line in changed)


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
  """Holds the lock of a workdir: two processes must not train in it.

  The system takes the lock from a process that ends, however it ends.

  Raises:
    WorkdirError: another process holds it; the message names that.
  """
  if jax.process_index():
    yield
    return
  lock = filelock.FileLock(path / 'run.lock')
  holder = path / 'run.holder'
  with storage_explained(path):
    try:
      lock.acquire(timeout=0)
    except filelock.Timeout:
      try:
        name = holder.read_text()
      except OSError:  # it has just begun
        name = 'another process'
      raise WorkdirError(
        f'{path} is in use: {name} trains there; stop it, or choose another '
        '--workdir'
      ) from None
    except NotImplementedError:
      logging.warning(
        '%s is on a file system without locks: nothing prevents that a second '
        'process trains there',
        path,
      )
    name = f'process {os.getpid()} on {platform.node()}, since {_now()},'
    files.write_atomically(holder, name)
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      holder.unlink(missing_ok=True)
    lock.release()


@contextlib.contextmanager
def end_recorded(path: pathlib.Path) -> Iterator[None]:
  """Records in `end.json` how the run ends, for who reads it later.

  A process that is killed leaves no record.
  """
  if jax.process_index():
    yield
    return
  record = path / 'end.json'
  with contextlib.suppress(OSError):
    record.unlink(missing_ok=True)
  state, message = 'finished', ''
  try:
    yield
  except BaseException as error:
    stopped = isinstance(error, Interrupted | KeyboardInterrupt)
    state = 'stopped' if stopped else 'failed'
    message = str(error) or type(error).__name__
    raise
  finally:
    end = {'state': state, 'message': message, 'time': _now()}
    with contextlib.suppress(OSError):
      files.write_atomically(record, json.dumps(end) + '\n')


def read_end(path: pathlib.Path) -> dict[str, str]:
  """The `state`, `message` and `time` of a run's end; {} without a record."""
  try:
    end = json.loads((path / 'end.json').read_text())
    return {name: str(end[name]) for name in ('state', 'message', 'time')}
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def _now() -> str:
  return datetime.datetime.now().astimezone().strftime('%F %T %Z')


@contextlib.contextmanager
def storage_explained(
  path: pathlib.Path, all_errors: bool = False
) -> Iterator[None]:
  """Raises what the disk of a workdir fails at as StorageError.

  Args:
    path: of the workdir.
    all_errors: whether whatever is raised is a failure of the disk, such as the
      errors of many kinds that Orbax raises where it cannot write.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = _reason(error, path)
    if reason is None and all_errors:
      reason = f'{type(error).__name__}: {" ".join(str(error).split()):.200}'
    if reason is None:
      raise
    saved = steps(path)
    kept = (
      f'the last complete checkpoint is step {max(saved)}, and the same '
      'command goes on from there'
      if saved
      else 'there is no checkpoint yet; choose another with --workdir'
    )
    raise StorageError(f'cannot write to {path}: {reason}; {kept}') from error


def _reason(error: BaseException, path: pathlib.Path) -> str | None:
  """'No space left on device' or the like; None if it is another error."""
  seen: list[BaseException] = []
  following: BaseException | None = error
  while following is not None and following not in seen:
    seen.append(following)
    if isinstance(following, OSError) and following.strerror:
      if following.filename is None and following.errno in _ERRNOS:
        return following.strerror
      # A parent may be what cannot be made. Data elsewhere that cannot be read
      # are another matter.
      name = pathlib.Path(os.fsdecode(following.filename or '/'))
      if name.is_relative_to(path) or path.is_relative_to(name):
        return following.strerror
    elif str(path) in str(following) and (
      found := _TEXT.search(str(following))
    ):
      return found[0]
    following = following.__cause__ or following.__context__
  return None


def steps(path: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints of a workdir; others end in -tmp."""
  folders = (path / 'checkpoints').glob('*')
  return [int(p.name) for p in folders if p.name.isdigit()]
