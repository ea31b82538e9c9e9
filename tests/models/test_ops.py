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
