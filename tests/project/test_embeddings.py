"""Unit vectors and averages over prompts."""

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax import embeddings


def test_unit_norm_of_zero_is_zero_with_a_finite_gradient(tiny):
  x = jnp.stack([jnp.zeros(4), tiny.normal(4)])
  y = embeddings.unit_norm(x)
  tiny.assert_near(jnp.linalg.norm(y, axis=-1), [0, 1])
  grad = jax.grad(lambda x: embeddings.unit_norm(x)[:, 0].sum())(x)
  assert np.isfinite(grad).all()


def test_unit_norm_computes_in_float32(tiny):
  y = embeddings.unit_norm(tiny.normal(2, 300).astype(jnp.bfloat16))
  assert y.dtype == jnp.float32
  tiny.assert_near(jnp.linalg.norm(y, axis=-1), [1, 1])


def test_prompts_are_averaged_as_they_are_or_as_unit_vectors(tiny):
  x = tiny.normal(2, 3, 4) * jnp.array([1.0, 10.0, 0.1])[:, None]

  def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)

  x = np.asarray(x)
  tiny.assert_near(embeddings.average_prompts(x), unit(x.mean(1)))
  clip = embeddings.average_prompts(x, normalize_each=True)
  tiny.assert_near(clip, unit(unit(x).mean(1)))
