"""The contrastive loss against hand values, numpy, chunks and 8 devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.losses.contrastive import contrastive_loss

BATCH = 16
ARGUMENTS = (0, 1, 2)  # image, text, scale


def inputs(tiny, batch=BATCH, width=8):
  return (
    tiny.unit(0, batch, width),
    tiny.unit(1, batch, width),
    np.float32(7.0),
  )


@functools.cache
def compiled(**options):
  loss = functools.partial(contrastive_loss, **options)
  return jax.jit(jax.value_and_grad(loss, ARGUMENTS))


def value_and_grads(*args, **options):
  return compiled(**options)(*map(jnp.asarray, args))


def log_softmax(logits):
  logits = logits - logits.max(axis=1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_two_pairs_by_hand(tiny):
  eye = jnp.eye(2)
  matched = contrastive_loss(eye, eye, 3.0)
  swapped = contrastive_loss(eye, eye[::-1], 3.0)
  tiny.assert_close(matched, np.log1p(np.exp(-3.0)))
  tiny.assert_close(swapped, np.log1p(np.exp(3.0)))


def test_equals_plain_numpy(tiny):
  image, text, scale = inputs(tiny)
  loss, _ = value_and_grads(image, text, scale)
  logits = np.float64(scale) * image.astype(np.float64) @ text.T
  expected = -0.5 * (
    np.diag(log_softmax(logits)).mean() + np.diag(log_softmax(logits.T)).mean()
  )
  tiny.assert_close(loss, expected)


@pytest.mark.parametrize('chunk_size', [None, 3])
def test_extreme_logits_are_finite(tiny, chunk_size):
  options, scale = {'chunk_size': chunk_size}, np.float32(100)
  same = np.tile(tiny.unit(0, 1, 8), (BATCH, 1))
  for image, text in [(same, same), (same, -same), (0 * same, same)]:
    loss, grads = value_and_grads(image, text, scale, **options)
    tiny.assert_close(loss, np.log(BATCH), atol=1e-4)
    assert all(np.isfinite(g).all() for g in grads)
  eye = np.eye(BATCH, dtype=np.float32)
  loss, grads = value_and_grads(eye, -eye, scale, **options)
  tiny.assert_close(loss, 100 + np.log(BATCH - 1), atol=1e-4)
  assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize('chunk_size', [None, 5])
def test_eight_devices_equal_one(tiny, mesh8, chunk_size):
  expected = value_and_grads(*inputs(tiny))
  image, text, scale = inputs(tiny)
  image, text = sharding.shard_batch((image, text), mesh8)
  actual = value_and_grads(
    image, text, scale, mesh=mesh8, chunk_size=chunk_size
  )
  tiny.assert_close(actual, expected)


def test_gradient_of_replicated_parameters_is_not_multiplied(tiny, mesh8):
  image, text, scale = inputs(tiny)
  weights = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)

  def grads(mesh, weights, image, text):
    def loss(weights, image, text):
      x = image @ weights
      x /= jnp.linalg.norm(x, axis=1, keepdims=True)
      return contrastive_loss(x, text, scale, mesh=mesh)

    return jax.jit(jax.grad(loss))(weights, image, text)

  expected = grads(None, *map(jnp.asarray, (weights, image, text)))
  actual = grads(
    mesh8,
    sharding.replicate(weights, mesh8),
    *sharding.shard_batch((image, text), mesh8),
  )
  tiny.assert_close(actual, expected)


def test_one_device_mesh_equals_no_mesh(tiny, mesh1):
  tiny.assert_close(
    value_and_grads(*inputs(tiny), mesh=mesh1),
    value_and_grads(*inputs(tiny)),
  )


@pytest.mark.parametrize('chunk_size', [1, 5, 8, BATCH, 1000])
def test_chunks_change_nothing(tiny, chunk_size):
  actual = value_and_grads(*inputs(tiny), chunk_size=chunk_size)
  tiny.assert_close(actual, value_and_grads(*inputs(tiny)))


def test_chunks_never_hold_the_full_matrix():
  batch, width, chunk_size = 65_536, 64, 512

  def loss(image, text, scale):
    return contrastive_loss(image, text, scale, chunk_size=chunk_size)

  x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
  scale = jax.ShapeDtypeStruct((), jnp.float32)
  step = jax.jit(jax.value_and_grad(loss, ARGUMENTS))
  memory = step.lower(x, x, scale).compile().memory_analysis()
  full_matrix = 4 * batch * batch  # 17 GB
  assert memory.temp_size_in_bytes < full_matrix / 16


def test_half_precision_inputs_give_a_float32_loss(tiny):
  image, text, scale = map(jnp.asarray, inputs(tiny))
  image, text = image.astype(jnp.bfloat16), text.astype(jnp.bfloat16)
  loss = contrastive_loss(image, text, scale)
  assert loss.dtype == jnp.float32
  exact = contrastive_loss(
    image.astype(jnp.float32), text.astype(jnp.float32), scale
  )
  tiny.assert_close(loss, exact)


def test_a_batch_that_does_not_divide_is_named(mesh8):
  x = jnp.eye(9)
  with pytest.raises(ValueError, match='9 does not divide over 8 devices'):
    contrastive_loss(x, x, 1.0, mesh=mesh8)


def test_a_chunk_of_nothing_is_refused():
  x = jnp.eye(2)
  with pytest.raises(ValueError, match='chunk_size is 0; give at least 1'):
    contrastive_loss(x, x, 1.0, chunk_size=0)
