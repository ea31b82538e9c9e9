"""Saves and restores the state of a run, with a digest of all its arrays.

Orbax writes in the background, a thread computes the digest; a step waits for
neither. Before a save the loop waits for the step, whose parameters must be
finite.
"""

import contextlib
import json
import pathlib
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from numpy.typing import ArrayLike

from groupvit_jax import files, sharding
from groupvit_jax.errors import WorkdirError
from groupvit_jax.training import workdir as workdir_lib

_PATIENCE = 20.0  # seconds that a failed run waits for its last save
_DIGESTS = 'checkpoint_digests'
_DIGEST = 'sha256_by_path'


class Checkpoints:
  """Orbax checkpoints of one run, written in the background.

  The state is the same in all processes, or split over them; it may be restored
  to another mesh. Process 0 writes its digest; every process verifies what it
  has restored, and a fault of one counts for all.

  Attributes:
    latest: the newest complete step, or None.
  """

  def __init__(self, workdir: pathlib.Path, keep: int = 2) -> None:
    self._workdir = workdir
    self._digests = workdir / _DIGESTS
    self._digesting = futures.ThreadPoolExecutor(1)
    self._digested = self._digesting.submit(lambda: None)
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
    with self._explained():
      complete = sharding.whole(state)  # by all processes together
      if jax.process_index() == 0:
        # That of a damaged checkpoint of this step.
        (self._digests / f'{step}.json').unlink(missing_ok=True)
        self._digested.result()  # one copy at a time
        # Copied on the device, as the next step reuses the buffers.
        self._digested = self._digesting.submit(
          self._write_digest, step, _copied(_arrays(complete)), dict(meta)
        )
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
        ),
      )

  def check(self) -> None:
    """Raises StorageError if a save in the background has failed."""
    with self._explained():
      self._manager.check_for_errors()

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
      restored, fault = None, ''
      try:
        restored = self._manager.restore(step, args=args)
      except Exception as error:  # Orbax's and TensorStore's are of many kinds
        fault = str(error) or type(error).__name__
      faults = [fault for fault in sharding.gather(fault) if fault]
      if not faults:
        try:
          arrays = _arrays(sharding.whole(restored['state']))
          _verify(self._workdir, step, arrays, restored['meta'])
        except Exception as error:
          fault = str(error) or type(error).__name__
        faults = [fault for fault in sharding.gather(fault) if fault]
      if restored and not faults:
        self._set_aside([s for s in steps if s > step])
        return restored['state'], restored['meta']
      _warn_of_damage(step, faults[0])
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
    self._digested.result()

  def _explained(self):
    return workdir_lib.storage_explained(self._workdir, all_errors=True)

  def _write_digest(
    self, step: int, arrays: dict[str, jax.Array], meta: dict[str, Any]
  ) -> None:
    """Writes the digest of a checkpoint, and removes those of former ones."""
    with contextlib.suppress(OSError):  # the save itself tells of the disk
      self._digests.mkdir(exist_ok=True)
      there = {*self._manager.all_steps(), step}
      for path in self._digests.glob('*.json'):
        if path.stem.isdigit() and int(path.stem) not in there:
          path.unlink()
      digest = {_DIGEST: files.digest(arrays, meta)}
      files.write_atomically(self._digests / f'{step}.json', json.dumps(digest))

  def _set_aside(self, steps: list[int]) -> None:
    """Moves unreadable checkpoints out of the way of new ones."""
    if not steps:
      return
    folder = pathlib.Path(self._manager.directory)
    if jax.process_index() == 0:
      for step in steps:
        aside = folder.with_name('checkpoints_unreadable')
        aside.mkdir(exist_ok=True)
        before = len(list(aside.glob(f'{step}*')))
        target = aside / (f'{step}_{before}' if before else f'{step}')
        (folder / str(step)).rename(target)
        logging.warning('set the unreadable checkpoint aside as %s', target)
    sharding.gather(None)  # the others wait until they are gone
    self._manager.reload()

  def close(self) -> None:
    """Waits for what is being saved, and ends."""
    self.wait()
    self._digesting.shutdown()
    self._manager.close()

  def abandon(self) -> None:
    """Ends after an error: waits for what is being saved, but not for ever."""

    def close():
      with contextlib.suppress(Exception):
        self._manager.close()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(_PATIENCE)


def _arrays(state: Any) -> dict[str, jax.Array]:
  """The arrays of a replicated state by path, on one device of this process."""
  arrays = {}
  for path, x in jax.tree_util.tree_flatten_with_path(state)[0]:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    arrays[_path(path)] = x.addressable_data(0)
  return arrays


@jax.jit
def _copied(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return jax.tree.map(jnp.copy, arrays)


def _path(keys: Any) -> str:
  """'params/image/norm/scale', of a state or of the dicts it is read as."""
  return jax.tree_util.keystr(keys, simple=True, separator='/')


def _verify(
  workdir: pathlib.Path,
  step: int,
  arrays: Mapping[str, ArrayLike],
  meta: Mapping[str, Any],
) -> None:
  """ValueError if a checkpoint is not what was saved.

  One without a digest, of a run that was killed before it was written or of a
  former version, is taken as it is.
  """
  wanted = _recorded_digest(workdir, step)
  if wanted and files.digest(arrays, meta) != wanted:
    raise ValueError('its contents are not those that were saved')


def _recorded_digest(workdir: pathlib.Path, step: int) -> str | None:
  try:
    content = (workdir / _DIGESTS / f'{step}.json').read_text()
    return json.loads(content)[_DIGEST]
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _warn_of_damage(step: int, fault: str) -> None:
  message = ' '.join(fault.split())
  logging.warning('the checkpoint of step %d is damaged: %.300s', step, message)


def health(workdir: pathlib.Path, verify: bool = True) -> list[dict[str, Any]]:
  """The complete checkpoints of a run, and what is known of each.

  Args:
    workdir: of any run; nothing in it is changed.
    verify: read each one and compare it with its digest.

  Returns:
    By step, `step` and `health`: 'digest ok', 'without a digest', 'damaged:
    ...', or 'not read'.
  """
  found = []
  workdir = workdir.absolute()  # Orbax takes no other
  for step in sorted(workdir_lib.steps(workdir)):
    state = 'not read'
    if verify:
      try:
        _read(workdir, step)
        recorded = _recorded_digest(workdir, step)
        state = 'digest ok' if recorded else 'without a digest'
      except Exception as error:  # Orbax's and TensorStore's are of many kinds
        if step not in workdir_lib.steps(workdir):
          continue  # the run has just removed it
        state = f'damaged: {" ".join(str(error).split()):.200}'
    found.append({'step': step, 'health': state})
  return found


def read_newest(workdir: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
  """Reads the newest whole checkpoint of any run, without its configuration.

  Nothing in the workdir is changed.

  Returns:
    The step, and all arrays by path ('params/image/norm/scale').

  Raises:
    WorkdirError: there is no checkpoint, or none can be read.
  """
  steps = sorted(workdir_lib.steps(workdir), reverse=True)
  for step in steps:
    try:
      return step, _read(workdir, step)
    except Exception as error:  # Orbax's and TensorStore's are of many kinds
      _warn_of_damage(step, str(error))
  state = 'none of them can be read' if steps else 'none is whole yet'
  raise WorkdirError(f'{workdir} has no checkpoint to load: {state}')


def read(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Reads the checkpoint of a step: all arrays by path.

  Raises:
    WorkdirError: there is none, or it cannot be read.
  """
  try:
    return _read(workdir, step)
  except Exception as error:  # Orbax's and TensorStore's are of many kinds
    raise WorkdirError(
      f'the checkpoint of step {step} in {workdir} is gone or damaged: '
      f'{" ".join(str(error).split()):.200}'
    ) from error


def _read(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """All arrays of a checkpoint, compared with its digest."""
  folder = workdir / 'checkpoints' / str(step)
  arrays = _read_arrays(folder / 'state')
  meta = json.loads((folder / 'meta' / 'metadata').read_text())
  _verify(workdir, step, arrays, meta)
  return arrays


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
