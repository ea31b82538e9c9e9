"""Any source to one model: foreign weights, a training run, a model folder."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax import fields, files, model_folder
from groupvit_jax.convert import (
  architecture,
  sources,
  state_dict,
  training_run,
)
from groupvit_jax.convert.flax_to_torch import OURS
from groupvit_jax.convert.keymaps import KeyMap
from groupvit_jax.convert.state_dict import StateDict
from groupvit_jax.errors import ModelError
from groupvit_jax.model_folder import Converted, tensors
from groupvit_jax.models import build
from groupvit_jax.text import clip_bpe

# The released evaluation: short side 448 of a model for 224 pixels.
SEGMENTATION_SCALE = 2


def load_source(path: str | os.PathLike) -> Converted:
  """Reads a model from wherever it is.

  Args:
    path: a model folder, the workdir of a training run (its newest checkpoint),
      a Hugging Face folder of GroupViT or CLIP, or a file of weights (.pth,
      .pt, .bin, .safetensors) of the original GroupViT, of either of those, or
      of OpenAI's CLIP. A file's config.json is looked for beside it.

  Returns:
    The model, with what inference needs.

  Raises:
    ModelError: there is none, or it cannot be read as one; says why.
  """
  path = files.expanded(path).absolute()
  if not path.exists():
    raise ModelError(
      f'there is no {path}; give a folder or file on this machine (models are '
      'not downloaded)'
    )
  if path.name == model_folder.WEIGHTS and model_folder.is_model_folder(
    path.parent
  ):
    return model_folder.read(path.parent)
  if path.is_dir():
    if training_run.is_workdir(path):
      return training_run.read(path)
    if model_folder.is_model_folder(path):
      return model_folder.read(path)
  return from_state(state_dict.read(path))


def from_state(state: StateDict) -> Converted:
  """The model of a foreign state dict; ModelError as `load_source`."""
  source = sources.identify(state)
  flat = source.keymap.to_flax(state.arrays)
  hints = source.hints(state)
  described = architecture.read(flat, source.keymap, hints)
  check(flat, described, source.keymap)
  tokenizer = _tokenizer(state.path, described['text']['vocab_size'])
  # What we once wrote there ourselves.
  ours = fields.get(state.config, OURS, fields.MAPPING, 'config.json', {})
  where = f'config.json, {OURS}'
  return Converted(
    architecture=described,
    variables=tensors.nest(flat),
    tokenizer=tokenizer,
    preprocessing={
      **source.normalization(state),
      'short_side': fields.get(ours, 'short_side', fields.COUNT, where)
      or _short_side(described),
    },
    metadata={
      **_metadata(source, state),
      'license': fields.get(ours, 'license', fields.TEXT, where)
      or source.license,
      'notes': architecture.assumptions(described, hints),
    },
  )


def check(
  flat: Mapping[str, np.ndarray], described: Mapping[str, Any], keymap: KeyMap
) -> None:
  """Checks variables against the model that is to use them.

  Args:
    flat: arrays by our path.
    described: the architecture.
    keymap: whose names to tell.

  Raises:
    ModelError: arrays are missing or too many, of another shape, no floating
      numbers, or not finite; names them all.
  """
  wanted = expected_shapes(described)

  def theirs(path: str) -> str:
    return ', '.join(keymap.names(path)) or path

  keymap.refuse(
    missing=[theirs(path) for path in wanted if path not in flat],
    superfluous=[theirs(path) for path in flat if path not in wanted],
  )
  keymap.refuse(
    misshapen=[
      f'{theirs(path)}: here as {flat[path].shape}, needed as {shape}'
      for path, shape in wanted.items()
      if flat[path].shape != shape
    ]
  )
  keymap.refuse(
    not_floating=[
      f'{theirs(p)}: {x.dtype}' for p, x in flat.items() if x.dtype.kind != 'f'
    ]
  )
  keymap.refuse(
    not_finite=[theirs(p) for p, x in flat.items() if not np.isfinite(x).all()]
  )


def expected_shapes(described: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Shapes by path of all variables of an architecture; nothing is computed."""
  model = build.build(described)
  size = described['image']['image_size']
  h, w = (size, size) if isinstance(size, int) else size
  images = jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 1, 2), jnp.int32)
  rngs = {'params': jax.random.key(0)}
  variables = jax.eval_shape(model.init, rngs, images, tokens)
  leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
  return {'/'.join(str(key.key) for key in path): x.shape for path, x in leaves}


def _short_side(described: Mapping[str, Any]) -> int:
  """Twice what GroupViT was trained at, as released; CLIP's own size."""
  size = described['image']['image_size']
  side = size if isinstance(size, int) else min(size)
  grouping = described['image_encoder'] == 'groupvit'
  return side * SEGMENTATION_SCALE if grouping else side


def _tokenizer(path: pathlib.Path, vocab_size: int) -> str | None:
  """CLIP's by the size of its vocabulary, or the folder's own."""
  own = path / 'tokenizer.model'
  if own.is_file():
    return str(own)
  return 'clip' if vocab_size == clip_bpe.VOCAB_SIZE else None


def _metadata(source: sources.Source, state: StateDict) -> dict[str, Any]:
  """Where the model comes from, and what its checkpoint told of training."""
  told = state.extras.get('metrics')
  told = told if isinstance(told, Mapping) else {}
  told = {k: v for k, v in told.items() if isinstance(v, int | float)}
  top = {
    k: v
    for k, v in state.extras.items()
    if isinstance(v, float) and k.startswith('max_')
  }
  metadata = {
    'source': source.name,
    'file': state.path.name,
    'metrics': {k: float(v) for k, v in (top | told).items()},
  }
  if isinstance(state.extras.get('epoch'), int):
    metadata['epoch'] = state.extras['epoch']
  return metadata
