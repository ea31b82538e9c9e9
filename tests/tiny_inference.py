"""A tiny trained model as conversion gives it: random, its groups differ."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax.models import build

NAMES = ['dog', 'grass', 'sky', 'old boat', 'red house', 'sea', 'man']
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)
ARCHITECTURE = {
  'image_encoder': 'groupvit',
  'image': {
    'image_size': 16,
    'patch_size': 4,
    'width': 16,
    'depths': [1, 1, 0],
    'num_heads': 2,
    'num_group_tokens': [6, 4, 0],
    'num_output_groups': [6, 4, 0],
    'center_keys': True,  # a random model's groups are else one group
    'pre_assign_attn': False,
  },
  'text': {
    'vocab_size': 49408,
    'context_length': 77,
    'width': 8,
    'depth': 1,
    'num_heads': 2,
  },
  'embed_dim': 12,
  'projector_width': 20,
  'projector_bias': True,
  'separate_multi_label_scale': False,
}


def source(architecture=ARCHITECTURE, **changes):
  """What conversion returns, of a random model whose groups differ."""
  module = build.build(architecture)
  rngs = {'params': jax.random.key(0), 'gumbel': jax.random.key(1)}
  shapes = jax.eval_shape(
    lambda: module.init(
      rngs, jnp.zeros((1, 16, 16, 3)), jnp.ones((1, 1, 77), int)
    )
  )
  rng = np.random.default_rng(3)

  def draw(path, x):
    name = str(path[-1].key)
    if name in ('scale', 'var'):
      return np.full(x.shape, 1, np.float32)
    if name == 'logit_scale':
      return np.float32(2)
    size = 1.5 * x.shape[-2] ** -0.5 if name == 'kernel' else 0.5
    size = 0.1 if name == 'bias' else size
    return rng.normal(0, size, x.shape).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, dict(shapes))
  return types.SimpleNamespace(
    **{
      'architecture': architecture,
      'variables': variables,
      'tokenizer': 'clip',
      'preprocessing': {'mean': MEAN, 'std': STD, 'short_side': 32},
      'metadata': {'source': 'a test', 'file': 'none', 'license': 'none'},
    }
    | changes
  )


def vit(**changes):
  """The same with a ViT: patch tokens and no groups."""
  image = {
    'image_size': 16,
    'patch_size': 4,
    'width': 16,
    'depth': 1,
    'num_heads': 2,
  }
  return source(
    ARCHITECTURE | {'image_encoder': 'vit', 'image': image}, **changes
  )
