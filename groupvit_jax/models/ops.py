"""Products and activations: what layers compute with.

On a CPU the costly ones are kept apart from their neighbours (see `apart`).
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def apart(*arrays: Array) -> Array | tuple[Array, ...]:
  """Keeps XLA on a CPU from fusing across this point; nothing elsewhere.

  Fusion pays on accelerators. The CPU backend fuses a costly function into
  every consumer, computes it again for each, and writes transposed copies for
  the products of the backward pass: a training step of one transformer block
  (width 64, 8,192 tokens, one core) took 110 ms instead of 32.
  """
  if jax.default_backend() == 'cpu':
    arrays = jax.lax.optimization_barrier(arrays)
  return arrays if len(arrays) > 1 else arrays[0]


def with_slope(slope: Callable[[Array], Array]) -> Callable:
  """Gives an activation its derivative, and keeps both apart (see `apart`)."""

  def decorate(value):
    def forward(x):
      x = apart(x)
      return apart(value(x)), x

    def backward(x, g):
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


def product(x, kernel, dimension_numbers, **options):
  """`nn.Dense`'s matrix product; on a CPU kept apart from its neighbours.

  See `apart`; rows are flattened since a product over two batch axes is
  transposed backwards.
  """
  dot = partial(jax.lax.dot_general, **options)
  if jax.default_backend() != 'cpu':
    return dot(x, kernel, dimension_numbers)
  rows = apart(x.reshape(-1, x.shape[-1]))
  y = apart(dot(rows, kernel, (((1,), (0,)), ((), ()))))
  return y.reshape(*x.shape[:-1], -1)


Dense = partial(nn.Dense, dot_general=product)
