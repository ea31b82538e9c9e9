"""The sigmoid loss: its equation, chunks, devices, and extreme logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.embeddings import unit_norm
from groupvit_jax.losses.sigmoid import sigmoid_loss

B, E = 16, 5


def pairs():
  image, text = jax.random.normal(jax.random.key(0), (2, B, E))
  return unit_norm(image), unit_norm(text)


def plain(image, text, scale, bias):
  """Algorithm 1 of arXiv 2303.15343, with labels of 1 and -1."""
  logits = scale * image @ text.T + bias
  labels = 2 * jnp.eye(len(image)) - 1
  return -jnp.sum(jax.nn.log_sigmoid(labels * logits)) / len(image)


def test_by_hand():
  # One pair matches at 1, two pairs do not match at 0: t = 2, b = -1.
  x = jnp.eye(2)
  wanted = np.log1p(np.exp(-1.0)) + np.log1p(np.exp(-1.0))
  np.testing.assert_allclose(sigmoid_loss(x, x, 2.0, -1.0), wanted, rtol=1e-6)


@pytest.mark.parametrize('devices', [None, 1, 8])
@pytest.mark.parametrize('chunk_size', [None, 6])
def test_value_and_gradients_are_the_papers(devices, chunk_size):
  image, text = pairs()
  mesh = devices and sharding.make_mesh(jax.devices()[:devices])
  if mesh:
    image, text = sharding.shard_batch((image, text), mesh)
  arguments = image, text, jnp.float32(9.0), jnp.float32(-4.0)

  def ours(*arguments):
    return sigmoid_loss(*arguments, mesh=mesh, chunk_size=chunk_size)

  found = jax.jit(jax.value_and_grad(ours, (0, 1, 2, 3)))(*arguments)
  wanted = jax.value_and_grad(plain, (0, 1, 2, 3))(*arguments)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    found,
    wanted,
  )


@pytest.mark.parametrize('bias', [-1e4, 1e4])
def test_extreme_logits_are_finite(bias):
  image, text = pairs()
  loss, grads = jax.value_and_grad(sigmoid_loss, (0, 3))(
    image, text, 100.0, bias
  )
  assert np.isfinite(loss) and all(np.isfinite(g).all() for g in grads)
  # Matching pairs at -1e4 cost 1e4 each, the others at 1e4.
  assert loss == pytest.approx(1e4 if bias < 0 else 1e4 * (B - 1), rel=0.02)
