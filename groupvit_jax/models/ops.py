"""Matrix products and activations, with barriers for XLA on CPUs.

XLA's CPU backend fuses a costly function into each of its consumers and so
computes it several times. `apart` puts an optimization barrier around it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def apart(*arrays: Array) -> Any:
  """An optimization barrier on CPUs; the identity on accelerators.

  Without it the CPU backend recomputes a costly function for every consumer and
  writes transposed copies for the products of the backward pass: a training
  step of one transformer block (width 64, 8,192 tokens, one core) took 110 ms
  instead of 32. On accelerators fusion is faster.
  """
  if jax.default_backend() == 'cpu':
    arrays = jax.lax.optimization_barrier(arrays)
  return arrays[0] if len(arrays) == 1 else arrays


def with_slope(slope: Callable[[Array], Array]) -> Callable:
  """Gives an activation its derivative, both behind barriers (see `apart`)."""

  def decorate(value: Callable[[Array], Array]) -> Callable:
    def forward(x: Array) -> tuple[Array, Array]:
      x = apart(x)
      return apart(value(x)), x

    def backward(x: Array, g: Array) -> tuple[Array]:
      x, g = apart(x, g)
      return (apart(g * slope(x)),)

    activation = jax.custom_vjp(value)
    activation.defvjp(forward, backward)
    return activation

  return decorate


def _normal_cdf(x: Float[Array, '...']) -> Float[Array, '...']:
  return 0.5 * (1 + jax.lax.erf(x * 2**-0.5))


def _gelu_slope(x: Float[Array, '...']) -> Float[Array, '...']:
  density = jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
  return _normal_cdf(x) + x * density


def _quick_gelu_slope(x: Float[Array, '...']) -> Float[Array, '...']:
  gate = jax.nn.sigmoid(1.702 * x)
  return gate + 1.702 * x * gate * (1 - gate)


@with_slope(_gelu_slope)
def gelu(x: Float[Array, '...']) -> Float[Array, '...']:
  """Exact GELU; by erf, since XLA's erfc is several times slower on a CPU."""
  return x * _normal_cdf(x)


@with_slope(_quick_gelu_slope)
def quick_gelu(x: Float[Array, '...']) -> Float[Array, '...']:
  """CLIP's sigmoid approximation of GELU."""
  return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {'gelu': gelu, 'quick_gelu': quick_gelu}


def product(
  x: Float[Array, '*b d'],
  kernel: Float[Array, 'd e'],
  dimension_numbers: jax.lax.DotDimensionNumbers,
  **options: Any,
) -> Float[Array, '*b e']:
  """`nn.Dense`'s matrix product; behind barriers on a CPU (see `apart`).

  There its rows are flattened, since XLA transposes a product over two batch
  axes in the backward pass.
  """
  dot = partial(jax.lax.dot_general, **options)
  if jax.default_backend() != 'cpu':
    return dot(x, kernel, dimension_numbers)
  rows = apart(x.reshape(-1, x.shape[-1]))
  y = apart(dot(rows, kernel, (((1,), (0,)), ((), ()))))
  return y.reshape(*x.shape[:-1], -1)


Dense = partial(nn.Dense, dot_general=product)
