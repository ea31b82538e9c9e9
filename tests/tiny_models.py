"""Tiny models and a quick jit, shared by the tests of models/."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax.models import dual_encoder, grouping, groupvit, text, vit

# Compiling is what takes the time in these tests, not running.
fast_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)
RNGS = {
  name: jax.random.key(i) for i, name in enumerate(('gumbel', 'drop_path'))
}


def normal(*shape, seed=0) -> jax.Array:
  """Standard normal numbers."""
  return jax.random.normal(jax.random.key(seed), shape)


def assert_near(actual, desired, atol=1e-5) -> None:
  """Asserts equality up to an absolute error."""
  np.testing.assert_allclose(actual, desired, rtol=0, atol=atol)


def unit(seed, *shape) -> np.ndarray:
  """Random unit vectors."""
  x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def assert_close(actual, expected, atol=1e-6) -> None:
  """Asserts that two trees of arrays are equal up to rounding."""
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=atol, rtol=1e-5),
    actual,
    expected,
  )


def image_encoder(**options) -> groupvit.GroupViT:
  """A 2-stage GroupViT of 16 px images in 4x4 tokens."""
  names = [f.name for f in dataclasses.fields(grouping.GroupingConfig)]
  config = {name: options.pop(name) for name in names if name in options}
  defaults = {
    'image_size': 16,
    'patch_size': 4,
    'width': 16,
    'depths': (1, 1, 1),
    'num_heads': 2,
    'num_group_tokens': (6, 3, 0),
    'num_output_groups': (6, 3, 0),
    'grouping': grouping.GroupingConfig(**config),
  }
  return groupvit.GroupViT(**defaults | options)


def vit_encoder(**options) -> vit.ViT:
  """A ViT of the same size."""
  defaults = {
    'image_size': 16,
    'patch_size': 4,
    'width': 16,
    'depth': 2,
    'num_heads': 2,
  }
  return vit.ViT(**defaults | options)


def clip_vit_encoder(**options) -> vit.ClipViT:
  """A CLIP ViT of the same size."""
  defaults = {
    'image_size': 16,
    'patch_size': 4,
    'width': 16,
    'depth': 2,
    'num_heads': 2,
  }
  return vit.ClipViT(**defaults | options)


def text_encoder(**options) -> text.TextTransformer:
  """A text encoder of 2 layers; 31 is the highest id."""
  defaults = {
    'vocab_size': 32,
    'context_length': 9,
    'width': 8,
    'depth': 2,
    'num_heads': 2,
  }
  return text.TextTransformer(**defaults | options)


def dual(image=None, **options) -> dual_encoder.DualEncoder:
  """Both encoders, joint width 12."""
  defaults = {'embed_dim': 12, 'projector_width': 20}
  return dual_encoder.DualEncoder(
    image or image_encoder(), text_encoder(), **defaults | options
  )


def images(batch: int = 3, height: int = 16, width: int = 16) -> jax.Array:
  """Random normalised images."""
  return jax.random.normal(jax.random.key(1), (batch, height, width, 3))


def tokens(batch: int = 3, texts: int = 2) -> jax.Array:
  """Random texts that end with id 31 at various places, then zeros."""
  ids = jax.random.randint(jax.random.key(2), (batch, texts, 9), 1, 30)
  end = 2 + jnp.arange(batch * texts).reshape(batch, texts, 1) % 7
  place = jnp.arange(9)
  return jnp.where(place < end, ids, jnp.where(place == end, 31, 0))


def init(model, *args, **kwargs):
  """Variables of a module, compiled at once."""
  rngs = {'params': jax.random.key(0)} | RNGS
  return fast_jit(lambda: model.init(rngs, *args, **kwargs))()


def apply(model, variables, *args, **kwargs):
  """`model.apply`, compiled at once; keyword arguments are static."""
  run = fast_jit(lambda *arrays: model.apply(*arrays, **kwargs))
  return run(variables, *args)
