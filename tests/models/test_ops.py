"""Products and activations against plain forms of them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.models import ops


def test_gelu_is_exact(tiny):
  x = np.linspace(-6, 6, 101, dtype=np.float32)
  exact = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()]
  tiny.assert_near(ops.gelu(jnp.asarray(x)), exact, atol=1e-6)


def test_quick_gelu(tiny):
  x = tiny.normal(50)
  tiny.assert_near(ops.quick_gelu(x), x / (1 + np.exp(-1.702 * x)))


@pytest.mark.parametrize(
  'ours, plain',
  [
    (ops.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    (ops.quick_gelu, lambda x: x * jax.nn.sigmoid(1.702 * x)),
  ],
)
def test_gradients_of_activations_are_exact(tiny, ours, plain):
  x = jnp.linspace(-6, 6, 101)
  gradient, expected = (
    jax.grad(lambda x, f=f: (f(x) * jnp.cos(x)).sum())(x) for f in (ours, plain)
  )
  tiny.assert_near(gradient, expected, atol=1e-6)


def test_dense_is_flax_dense(tiny):
  x = tiny.normal(2, 3, 4, 5)
  ours, flax_s = ops.Dense(6), nn.Dense(6)
  variables = flax_s.init(jax.random.key(1), x)

  def loss(module, variables, x):
    y = module.apply(variables, x)
    return (y * jnp.cos(y)).sum(), y

  results = [
    jax.value_and_grad(lambda *a, m=m: loss(m, *a), (0, 1), has_aux=True)(
      variables, x
    )
    for m in (ours, flax_s)
  ]
  jax.tree.map(tiny.assert_near, *results)


def test_rounded_products_are_those_of_bfloat16_operands(tiny):
  x, g = tiny.normal(3, 50, 24), tiny.normal(3, 50, 40)
  kernel = tiny.normal(24, 40, seed=1)
  dense = ops.Dense(40, use_bias=False)

  def total(x, kernel):
    with ops.matmul_operands('bfloat16'):
      y = dense.apply({'params': {'kernel': kernel}}, x)
    return (y * g).sum(), y

  step = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
  (_, y), gradients = step(x, kernel)
  assert y.dtype == jnp.float32
  rows, kernel64, g64 = (
    np.asarray(a.astype(jnp.bfloat16), np.float64).reshape(-1, a.shape[-1])
    for a in (x, kernel, g)
  )
  expected = rows @ kernel64, g64 @ kernel64.T, rows.T @ g64
  for actual, exact in zip((y, *gradients), expected, strict=True):
    tiny.assert_near(actual.reshape(exact.shape), exact, atol=1e-4)
  # 2^-9 of each operand, so of their product at most twice that.
  exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
  bound = 2**-8 * np.abs(x) @ np.abs(kernel) + 1e-4
  assert (np.abs(y - exact) < bound).all()


@pytest.mark.parametrize('masked', [False, True])
def test_rounded_attention_is_near_that_of_float64(tiny, masked):
  q, k, v, g = (tiny.normal(2, 3, 9, 8, seed=i) for i in range(4))
  seen = np.tri(9, dtype=bool) if masked else np.ones((9, 9), bool)

  def total(q, k, v):
    y = ops.rounded_attention(q, k, v, jnp.asarray(seen) if masked else None)
    return (y * g).sum(), y

  step = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
  (_, y), gradients = step(q, k, v)

  q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
  weights = np.exp(q @ k.swapaxes(2, 3)) * seen
  weights /= weights.sum(axis=3, keepdims=True)
  of_weights = g @ v.swapaxes(2, 3)
  along = (weights * of_weights).sum(axis=3, keepdims=True)
  of_logits = weights * (of_weights - along)
  expected = (
    weights @ v,
    of_logits @ k,
    of_logits.swapaxes(2, 3) @ q,
    weights.swapaxes(2, 3) @ g,
  )
  for actual, exact in zip((y, *gradients), expected, strict=True):
    assert actual.dtype == jnp.float32
    error = np.linalg.norm(actual - exact) / np.linalg.norm(exact)
    assert error < 1e-2  # each operand is off by up to 2^-9
  # Weights add up to 1, rounded or not.
  ones = ops.rounded_attention(*map(jnp.asarray, (q, k, np.ones_like(v))))
  assert np.abs(ones - 1).max() < 1e-6


def test_bfloat16_operands_are_off_by_default(tiny):
  x, kernel = tiny.normal(50, 24), tiny.normal(24, 40, seed=1)
  before = ops.product(x, kernel)
  with ops.matmul_operands('bfloat16'):
    rounded = ops.product(x, kernel)
  after = ops.product(x, kernel)
  assert (before == after).all() and (before != rounded).any()
  tiny.assert_near(before, x @ kernel)


def test_faster_operands_are_one_of_the_choices():
  assert ops.faster_operands(64, 16, 32) in ops.OPERANDS
