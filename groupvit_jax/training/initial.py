"""Training from weights that are there: a converted model, or another run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax import sharding
from groupvit_jax.errors import ConfigError
from groupvit_jax.models import build, patches
from groupvit_jax.models import text as text_model
from groupvit_jax.training import state as state_lib

# May differ from the source: only training reads it, or it is resized.
_FREE = ('drop_path_rate', 'init_std', 'image_size')
_PIXELS = ('mean', 'std')


def start_from(
  state: state_lib.TrainState,
  architecture: Mapping[str, Any],
  pixels: Mapping[str, Any],
  source: Any,
  mesh: jax.sharding.Mesh,
) -> state_lib.TrainState:
  """A state whose parameters and batch statistics are those of a model.

  A ViT's positions are resized to the images of the run. What the source lacks
  (a bias of the logits) stays as it was initialised.

  Args:
    state: of the untrained model.
    architecture: of the run.
    pixels: mean and std with which the run normalises.
    source: architecture, variables and preprocessing, as `convert.load_source`
      returns them.
    mesh: of the run.

  Raises:
    ConfigError: the model is another one; names each field that differs.
  """
  wrong = _differences(architecture, source.architecture)
  wrong += [
    f'{name} of pixels: {list(source.preprocessing[name])}, here {pixels[name]}'
    for name in _PIXELS
    if not np.allclose(source.preprocessing[name], pixels[name], atol=1e-6)
  ]
  if wrong:
    raise ConfigError(
      f'init_from names a model of another architecture: {"; ".join(wrong)}'
    )

  def chosen(path, own, theirs):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if own.shape != theirs.shape and name == 'image/embed/positions':
      theirs = _resized(theirs, architecture, source.architecture)
    if own.shape != theirs.shape:
      raise ConfigError(
        f'init_from: {name} has the shape {theirs.shape}, the run needs '
        f'{own.shape}'
      )
    return np.asarray(theirs, np.float32)

  own = {'params': state.params, 'batch_stats': state.batch_stats}
  theirs = {name: dict(source.variables[name]) for name in own}
  for name in own['params'].keys() - theirs['params'].keys():
    theirs['params'][name] = np.asarray(own['params'][name])
  extra = theirs['params'].keys() - own['params'].keys()
  theirs['params'] = {
    k: v for k, v in theirs['params'].items() if k not in extra
  }
  found = {
    name: jax.tree_util.tree_map_with_path(chosen, own[name], theirs[name])
    for name in own
  }
  placed = sharding.replicate(found, mesh)
  return dataclasses.replace(
    state, params=placed['params'], batch_stats=placed['batch_stats']
  )


def _differences(
  ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[str]:
  """Fields of two architectures that change what weights mean."""
  if ours['image_encoder'] != theirs['image_encoder']:
    return [f'{theirs["image_encoder"]}, here {ours["image_encoder"]}']
  kind = build.IMAGE_ENCODERS[ours['image_encoder']]
  found = []
  for part, module in (('image', kind), ('text', text_model.TextTransformer)):
    a, b = (build.complete(module, x[part]) for x in (ours, theirs))
    found += [
      f'{part} {name}: {b[name]}, here {a[name]}'
      for name in a
      if name not in _FREE and a[name] != b[name]
    ]
  return found


def _resized(positions, ours, theirs):
  """A CLIP ViT's positions for images of another size, class token first."""
  trained, grid = (
    patches.grid_size(x['image']['image_size'], x['image']['patch_size'])
    for x in (theirs, ours)
  )
  rest = jnp.asarray(positions[None, 1:])
  rest = patches.resize_positions(rest, trained, grid)
  return np.concatenate([positions[:1], np.asarray(rest[0])])
