"""The workdir of a training run: its config and its newest good checkpoint.

Only parameters and batch statistics are read, not the optimizer's state.
"""

import json
import pathlib
from typing import Any

import numpy as np
from absl import logging

from groupvit_jax import tasks
from groupvit_jax.data import on_device
from groupvit_jax.errors import ModelError
from groupvit_jax.model_folder import Converted, tensors
from groupvit_jax.text import tokenizer as tokenizer_lib

_COLLECTIONS = ('params', 'batch_stats')
_LICENSE = (
  'Trained by whoever made this folder; the license is theirs to choose.'
)


def is_workdir(path: pathlib.Path) -> bool:
  """Whether a training run has claimed this folder and saved something."""
  return (path / 'checkpoints').is_dir() and (path / 'config.json').is_file()


def read(workdir: pathlib.Path) -> Converted:
  """Reads the newest checkpoint of a run that is whole.

  Raises:
    ModelError: there is none, or the config is not this version's.
  """
  config = _config(workdir / 'config.json')
  step, variables = _newest(workdir / 'checkpoints')
  vocab_size = variables['params']['text']['tokens'].shape[0]
  try:
    architecture = tasks.architecture(config, vocab_size)
    tokenizer = _tokenizer(config, vocab_size)
    short_side, top_k = config['image_size'], config['eval']['top_k']
  except (KeyError, TypeError) as error:
    raise ModelError(
      f'{workdir}/config.json lacks {error}; it is of another version'
    ) from error
  return Converted(
    architecture=architecture,
    variables=variables,
    tokenizer=tokenizer,
    preprocessing={
      'mean': list(on_device.MEAN),
      'std': list(on_device.STD),
      'short_side': short_side,
      # As the run was evaluated; there, 0 is no gate.
      'top_k': top_k or None,
    },
    metadata={
      'source': 'trained by groupvit_jax',
      'file': workdir.name,
      'license': _LICENSE,
      'step': step,
      'metrics': _metrics(workdir / 'summary.json', step),
    },
  )


def _config(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ModelError(f'{path} is not readable ({error})') from error


def _newest(folder: pathlib.Path) -> tuple[int, dict[str, Any]]:
  """Step and variables of the newest checkpoint that can be read."""
  # Orbax writes under a longer name until a checkpoint is whole.
  steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
  for step in sorted(steps, reverse=True):
    try:
      return step, _restore(folder / str(step) / 'state')
    except (OSError, ValueError, KeyError) as error:
      logging.warning('checkpoint of step %d is unreadable: %s', step, error)
  state = 'none of them can be read' if steps else 'none is whole yet'
  raise ModelError(f'{folder} has no checkpoint to load: {state}')


def _restore(path: pathlib.Path) -> dict[str, Any]:
  """Parameters and batch statistics as numpy, from whatever devices."""
  import orbax.checkpoint as ocp  # takes a second, which a model folder saves

  # The handler, as the checkpointer warns of metadata of its own.
  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(path).tree
  wanted = {name: tree[name] for name in _COLLECTIONS}
  kinds = _map(wanted, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
  restored = handler.restore(
    path,
    args=ocp.args.PyTreeRestore(
      item=wanted, restore_args=kinds, partial_restore=True
    ),
  )
  handler.close()
  flat = tensors.flatten({name: restored[name] for name in _COLLECTIONS})
  return tensors.nest(flat)


def _map(tree: Any, make) -> Any:
  if isinstance(tree, dict):
    return {name: _map(value, make) for name, value in tree.items()}
  return make(tree)


def _tokenizer(config: dict[str, Any], vocab_size: int) -> str:
  """What the run was trained with; it must still be where the config says."""
  name = config['data']['tokenizer']
  try:
    tokenizer = tokenizer_lib.make_tokenizer(name)
  except (OSError, ValueError) as error:
    raise ModelError(f'the tokenizer of the run is gone: {error}') from error
  if tokenizer.vocab_size != vocab_size:
    raise ModelError(
      f'the tokenizer {name} has {tokenizer.vocab_size} ids now, the run was '
      f'trained with {vocab_size}; put the old file back'
    )
  return name if name == 'clip' else str(tokenizer.path)


def _metrics(path: pathlib.Path, step: int) -> dict[str, float]:
  """Figures of the run's summary, if it is of this step."""
  try:
    summary = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  if not isinstance(summary, dict) or summary.get('steps') != step:
    return {}
  shown = ('miou', 'oracle_miou', 'pixel_accuracy', 'train_loss')
  return {
    name: summary[name] for name in shown if summary.get(name) is not None
  }
