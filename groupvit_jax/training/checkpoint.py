"""Saves and restores a run: train state, data position, and what made them.

A workdir belongs to one configuration: `check_workdir` refuses another one's.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import platform
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from groupvit_jax import files
from groupvit_jax.errors import StorageError, UserError, WorkdirError
from groupvit_jax.training import config as config_lib


def check_workdir(
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
    WorkdirError: it cannot be written, or holds a run of another config.
  """
  path = files.expanded(workdir).absolute()
  record = path / 'config.json'
  defaults = '{}' if base is None else config_lib.to_json(base)
  with _explained(path):
    path.mkdir(parents=True, exist_ok=True)
    if record.exists() and _steps(path):
      try:
        changed = config_lib.differences(
          config_lib.to_json(config), record.read_text(), defaults
        )
      except ValueError as error:  # half-written or foreign config.json
        raise WorkdirError(
          f'{record} is not readable as a config ({error}); choose another '
          '--workdir or remove that file'
        ) from error
      if changed:
        raise WorkdirError(_other_config(path, changed))
  return path


def stored_config(path: pathlib.Path) -> dict[str, Any] | None:
  """The config of the run in a workdir; None without a checkpoint."""
  record = path / 'config.json'
  if not (record.exists() and _steps(path)):
    return None
  return json.loads(record.read_text())


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
  with _explained(path):
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
    now = datetime.datetime.now().astimezone().strftime('%F %T %Z')
    name = f'process {os.getpid()} on {platform.node()}, since {now},'
    files.write_atomically(holder, name)
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      holder.unlink(missing_ok=True)
    lock.release()


# What file systems say, also where a library passes it on as text.
_STORAGE_ERRNOS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EIO,
  errno.EACCES,
  errno.EPERM,
)
_STORAGE_TEXT = re.compile('|'.join(map(os.strerror, _STORAGE_ERRNOS)))


def _storage_reason(error: BaseException, path: pathlib.Path) -> str | None:
  """'No space left on device' or the like; None if it is another error."""
  seen: list[BaseException] = []
  following: BaseException | None = error
  while following is not None and following not in seen:
    seen.append(following)
    if isinstance(following, OSError) and following.errno in _STORAGE_ERRNOS:
      name = os.fsdecode(following.filename or path)
      # Data elsewhere that cannot be read are another matter.
      return following.strerror if name.startswith(str(path)) else None
    if str(path) in str(following):
      found = _STORAGE_TEXT.search(str(following))
      if found:
        return found[0]
    following = following.__cause__ or following.__context__
  return None


@contextlib.contextmanager
def storage_explained(path: pathlib.Path) -> Iterator[None]:
  """Raises what the disk of a workdir fails at as StorageError."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = _storage_reason(error, path)
    if reason is None:
      raise
    raise StorageError(_cannot_write(path, reason)) from error


def _cannot_write(path: pathlib.Path, reason: str) -> str:
  steps = _steps(path)
  kept = (
    f'the last complete checkpoint is step {max(steps)}, and the same command '
    'goes on from there'
    if steps
    else 'there is no checkpoint yet, and the same command starts again'
  )
  return f'cannot write to {path}: {reason}; {kept}'


def claim_workdir(path: pathlib.Path, config: config_lib.Config) -> None:
  """Writes `config.json` into a workdir that `check_workdir` has let pass."""
  if jax.process_index() == 0:
    with _explained(path):
      files.write_atomically(path / 'config.json', config_lib.to_json(config))


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise WorkdirError(
      f'cannot write to the workdir {path}: {error.strerror}; choose another '
      'with --workdir'
    ) from error


def _steps(path: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints of a workdir; others end in -tmp."""
  folders = (path / 'checkpoints').glob('*')
  return [int(p.name) for p in folders if p.name.isdigit()]


_PATIENCE = 30.0  # seconds that a failed run waits for its last save
_DIGESTS = 'checkpoint_digests'
_DIGEST = 'sha256_by_path'


class Checkpoints:
  """Orbax checkpoints of one run, written in the background.

  Attributes:
    latest: the newest complete step, or None.
  """

  def __init__(self, workdir: pathlib.Path, keep: int = 2) -> None:
    self._workdir = workdir
    self._digests = workdir / _DIGESTS
    self._digesting = futures.ThreadPoolExecutor(1)
    self._manager = ocp.CheckpointManager(
      workdir / 'checkpoints',
      options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
    )

  @property
  def latest(self) -> int | None:  # noqa: D102 (an attribute)
    return self._manager.latest_step()

  def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
    """Starts saving `state` (a pytree of arrays) and `meta` (JSON values)."""
    if step == self.latest:
      return
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
    )
    # A copy: the next step reuses the buffers of this one.
    arrays = _arrays(state, copy=True) if jax.process_index() == 0 else {}
    with self._explained():
      if arrays:  # that of a damaged checkpoint of this step
        (self._digests / f'{step}.json').unlink(missing_ok=True)
      self._manager.save(step, args=args)
    if arrays:
      self._digesting.submit(self._write_digest, step, arrays, dict(meta))

  def check(self) -> None:
    """Raises StorageError if a save in the background has failed."""
    with self._explained():
      self._manager.check_for_errors()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # of many kinds: Orbax's, TensorStore's
      reason = _storage_reason(error, self._workdir) or (
        f'{type(error).__name__}: {" ".join(str(error).split()):.200}'
      )
      raise StorageError(_cannot_write(self._workdir, reason)) from error

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """Restores the newest checkpoint that is whole.

    Args:
      like: a pytree of arrays (or of ShapeDtypeStructs with shardings) that
        gives the structure, shapes, dtypes and placement to restore to.

    Returns:
      `(state, meta)`, or None where the run has no checkpoint yet.

    Raises:
      WorkdirError: checkpoints exist, and none of them can be read.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
    )
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        restored = self._manager.restore(step, args=args)
        _verify(
          self._workdir, step, _arrays(restored['state']), restored['meta']
        )
      except Exception as error:  # Orbax's and TensorStore's are of many kinds
        _warn_of_damage(step, error)
        continue
      self._set_aside([s for s in steps if s > step])
      return restored['state'], restored['meta']
    if steps:
      raise WorkdirError(
        f'none of the checkpoints in {self._manager.directory} can be read; '
        'start again in another --workdir, or remove that folder'
      )
    return None

  def wait(self) -> None:
    """Waits until everything saved so far is on disk.

    Raises:
      StorageError: it could not be written.
    """
    with self._explained():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    self._digesting.submit(lambda: None).result()  # after those before it

  def _write_digest(
    self, step: int, arrays: dict[str, np.ndarray], meta: dict[str, Any]
  ) -> None:
    """Writes the digest of a checkpoint, and removes those of former ones."""
    with contextlib.suppress(OSError):  # the save itself tells of the disk
      self._digests.mkdir(exist_ok=True)
      there = set(self._manager.all_steps()) | {step}
      for path in self._digests.glob('*.json'):
        if path.stem.isdigit() and int(path.stem) not in there:
          path.unlink()
      digest = {_DIGEST: files.digest(arrays, meta)}
      files.write_atomically(self._digests / f'{step}.json', json.dumps(digest))

  def _set_aside(self, steps: list[int]) -> None:
    """Moves unreadable checkpoints out of the way of new ones."""
    folder = pathlib.Path(self._manager.directory)
    for step in steps:
      target = folder.with_name('checkpoints_unreadable') / str(step)
      target.parent.mkdir(exist_ok=True)
      (folder / str(step)).rename(target)
      logging.warning('set the unreadable checkpoint aside as %s', target)
    if steps:
      self._manager.reload()

  def close(self) -> None:
    """Waits for what is being saved, and ends."""
    self.wait()
    self._digesting.shutdown()
    self._manager.close()

  def abandon(self) -> None:
    """Ends after an error: waits for what is being saved, but not for ever."""
    with contextlib.suppress(Exception):
      closing = threading.Thread(target=self._close_quietly, daemon=True)
      closing.start()
      closing.join(_PATIENCE)

  def _close_quietly(self) -> None:
    with contextlib.suppress(Exception):
      self._manager.close()


def _arrays(state: Any, copy: bool = False) -> dict[str, np.ndarray]:
  """The arrays of a state by path, as far as this process has all of them."""
  arrays = {}
  for path, x in jax.tree_util.tree_flatten_with_path(state)[0]:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    if not isinstance(x, jax.Array) or x.is_fully_replicated:
      arrays[_path(path)] = np.array(x, copy=copy or None)
  return arrays


def _path(keys: Any) -> str:
  """'params/image/norm/scale', of a state or of the dicts it is read as."""
  return jax.tree_util.keystr(keys, simple=True, separator='/')


def _verify(
  workdir: pathlib.Path,
  step: int,
  arrays: Mapping[str, np.ndarray],
  meta: Mapping[str, Any],
) -> None:
  """ValueError if a checkpoint is not what was saved.

  One without a digest, of a run that was killed before it was written or of a
  former version, is taken as it is.
  """
  try:
    content = (workdir / _DIGESTS / f'{step}.json').read_text()
    wanted = json.loads(content)[_DIGEST]
  except (OSError, ValueError, KeyError, TypeError):
    return
  if files.digest(arrays, meta) != wanted:
    raise ValueError('its contents are not those that were saved')


def _warn_of_damage(step: int, error: Exception) -> None:
  message = ' '.join(str(error).split())
  logging.warning('the checkpoint of step %d is damaged: %.300s', step, message)


def read_newest(workdir: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
  """Reads the newest whole checkpoint of any run, without its configuration.

  Nothing in the workdir is changed.

  Returns:
    The step, and all arrays by path ('params/image/norm/scale').

  Raises:
    WorkdirError: there is no checkpoint, or none can be read.
  """
  steps = sorted(_steps(workdir), reverse=True)
  for step in steps:
    folder = workdir / 'checkpoints' / str(step)
    try:
      arrays = _read_arrays(folder / 'state')
      meta = json.loads((folder / 'meta' / 'metadata').read_text())
      _verify(workdir, step, arrays, meta)
      return step, arrays
    except Exception as error:  # Orbax's and TensorStore's are of many kinds
      _warn_of_damage(step, error)
  state = 'none of them can be read' if steps else 'none is whole yet'
  raise WorkdirError(f'{workdir} has no checkpoint to load: {state}')


def _read_arrays(path: Any) -> dict[str, np.ndarray]:
  """All arrays of a saved state by path, on the host."""
  # The handler, as the checkpointer warns of metadata of its own. It declares
  # epath's paths, and takes any.
  handler = ocp.PyTreeCheckpointHandler()
  kinds = jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
    handler.metadata(path).tree,
  )
  args = ocp.args.PyTreeRestore(restore_args=kinds)
  restored = handler.restore(path, args=args)
  handler.close()
  leaves = jax.tree_util.tree_flatten_with_path(restored)[0]
  return {_path(keys): np.asarray(x) for keys, x in leaves}


def _other_config(path: pathlib.Path, changed: list[str]) -> str:
  shown = '\n  '.join(changed[:8])
  more = f'\n  ... and {len(changed) - 8} more' if len(changed) > 8 else ''
  return (
    f'{path} holds checkpoints of another configuration:\n  {shown}{more}\n'
    'choose another --workdir, or go back to that configuration'
  )
