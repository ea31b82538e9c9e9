"""Saves and restores a run: train state, data position, and what made them.

A workdir belongs to one configuration: `check_workdir` refuses another one's.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from groupvit_jax import files
from groupvit_jax.errors import WorkdirError
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
    if record.exists() and _saved(path):
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


def _saved(path: pathlib.Path) -> bool:
  """Whether a workdir holds a complete checkpoint; others end in -tmp."""
  return any(p.name.isdigit() for p in (path / 'checkpoints').glob('*'))


class Checkpoints:
  """Orbax checkpoints of one run, written in the background.

  Attributes:
    latest: the newest complete step, or None.
  """

  def __init__(self, workdir: pathlib.Path, keep: int = 2) -> None:
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
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
      ),
    )

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
        self._set_aside([s for s in steps if s > step])
        return restored['state'], restored['meta']
      except (OSError, ValueError, KeyError) as error:
        logging.warning('checkpoint of step %d is unreadable: %s', step, error)
    if steps:
      raise WorkdirError(
        f'none of the checkpoints in {self._manager.directory} can be read; '
        'start again in another --workdir, or remove that folder'
      )
    return None

  def wait(self) -> None:
    """Waits until everything saved so far is on disk."""
    self._manager.wait_until_finished()

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
    self._manager.close()


def _other_config(path: pathlib.Path, changed: list[str]) -> str:
  shown = '\n  '.join(changed[:8])
  more = f'\n  ... and {len(changed) - 8} more' if len(changed) > 8 else ''
  return (
    f'{path} holds checkpoints of another configuration:\n  {shown}{more}\n'
    'choose another --workdir, or go back to that configuration'
  )
