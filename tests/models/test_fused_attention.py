"""The kernel of TPUs computes what `layers.attend` does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.models import fused_attention, layers

HEADS = 2


def plain(qkv, bias, causal=False):
  n = qkv.shape[1]
  mask = jnp.tril(jnp.ones((n, n), bool)) if causal else None
  q, k, v = jnp.split(qkv + bias.astype(qkv.dtype), 3, axis=-1)
  return layers.attend(q, k, v, HEADS, mask)


def fused(qkv, bias, causal=False):
  return fused_attention.attend(qkv, bias, HEADS, causal, interpret=True)


def outputs(attend, qkv, causal=False):
  """Results, and gradients by `qkv` and the bias, all in float32."""
  attend = partial(attend, causal=causal)
  weights = jnp.cos(jnp.arange(qkv.shape[-1] // 3))
  bias = jnp.sin(jnp.arange(float(qkv.shape[-1])))

  def loss(qkv, bias):
    return (attend(qkv, bias).astype(jnp.float32) * weights).sum()

  found = attend(qkv, bias), *jax.grad(loss, (0, 1))(qkv, bias)
  return [np.asarray(x, np.float32) for x in found]


def test_values_and_gradients_are_those_of_plain_attention(tiny):
  qkv = tiny.normal(3, 37, 3 * 64)
  for value, expected in zip(
    outputs(fused, qkv), outputs(plain, qkv), strict=True
  ):
    tiny.assert_near(value, expected, 1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
  'shape',
  [
    pytest.param((16, 16), id='eight side by side'),
    pytest.param((6, 48), id='two'),
    pytest.param((15, 16), id='five, since eight do not divide'),
    pytest.param((3, 77), id='one'),
    pytest.param((2, 130), id='longer than a vector'),
  ],
)
def test_texts_side_by_side_do_not_see_each_other(tiny, shape):
  qkv = tiny.normal(*shape, 3 * 64)
  for value, expected in zip(
    outputs(fused, qkv, True), outputs(plain, qkv, True), strict=True
  ):
    tiny.assert_near(value, expected, 1e-6 * np.abs(expected).max())


def test_rounds_no_more_than_plain_attention_in_bfloat16(tiny):
  qkv = jnp.asarray(tiny.normal(2, 130, 3 * 64), jnp.bfloat16)
  exact = outputs(plain, qkv.astype(jnp.float32))
  for value, rounded, expected in zip(
    outputs(fused, qkv), outputs(plain, qkv), exact, strict=True
  ):
    error, usual = (np.abs(x - expected).mean() for x in (value, rounded))
    assert 0 < error < 1.1 * usual


@pytest.mark.parametrize(
  ('change', 'kernels'),
  [
    ({}, 2),
    ({'dtype': jnp.float32}, 0),
    ({'tokens': fused_attention.MIN_TOKENS - 1}, 0),
    ({'masked': True}, 0),
    ({'causal': True, 'tokens': 16}, 2),
    ({'causal': True, 'tokens': fused_attention.LANES + 1}, 0),
    ({'known': False}, 0),
    ({'tokens': 512, 'width': 1024}, 0),
    ({'platform': 'cpu'}, 0),
  ],
)
def test_where_a_program_has_the_kernel(mesh8, change, kernels):
  dtype = change.get('dtype', jnp.bfloat16)
  platform = change.get('platform', 'tpu')
  shape = 8, change.get('tokens', 130), change.get('width', 128)
  x = jnp.zeros(shape, dtype)
  mask = jnp.ones((1, 1, 1, x.shape[1]), bool) if 'masked' in change else None
  causal = change.get('causal', False)
  model = layers.Attention(HEADS, causal=causal, dtype=dtype)
  variables = jax.eval_shape(model.init, jax.random.key(0), x)

  def loss(variables, x):
    return model.apply(variables, x, mask=mask).astype(jnp.float32).sum()

  mesh = mesh8 if change.get('known', True) else None
  step = jax.jit(sharding.traced_for(platform, mesh)(jax.grad(loss)))
  lowered = step.trace(variables, x).lower(lowering_platforms=(platform,))
  assert lowered.as_text().count('@tpu_custom_call') == kernels


def test_a_kernel_sees_the_rows_of_its_device_and_the_whole_bias(tiny, mesh8):
  x, bias = tiny.normal(16, 3), tiny.normal(3)
  weights = jnp.cos(jnp.arange(16.0))[:, None]

  def added(x, bias):
    return (x - x.mean(0)) * bias

  def loss(bias, mesh):
    y = sharding.on_each_device(added, mesh, x, whole=[bias])
    return (y * weights).sum()

  of_two = jax.jit(partial(sharding.on_each_device, added, mesh8))
  pairs = x.reshape(8, 2, 3)
  expected = (pairs - pairs.mean(1, keepdims=True)).reshape(16, 3) * bias
  tiny.assert_near(of_two(x, whole=[bias]), expected)
  tiny.assert_near(
    jax.grad(loss)(bias, mesh8), (expected * weights).sum(0) / bias
  )
  alone = sharding.on_each_device(added, None, x, whole=[bias])
  tiny.assert_near(alone, (x - x.mean(0)) * bias)
