"""Matrix products and activations, with barriers for XLA on CPUs.

XLA's CPU backend fuses a costly function into each of its consumers and so
computes it several times. `apart` puts an optimization barrier around it.

Products of float32 arrays may round their operands to bfloat16 and add up in
float32: processors with AVX512-BF16 or AMX compute these several times faster.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from groupvit_jax import sharding


def apart(*arrays: Array) -> Any:
  """An optimization barrier on CPUs; the identity on accelerators.

  Without it the CPU backend recomputes a costly function for every consumer and
  writes transposed copies for the products of the backward pass: a training
  step of one transformer block (width 64, 8,192 tokens, one core) took 110 ms
  instead of 32. On accelerators fusion is faster.
  """
  if sharding.platform() == 'cpu':
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


_ERF: ContextVar[Callable[..., Array]] = ContextVar('erf', default=jax.lax.erf)


@contextlib.contextmanager
def erf_by(function: Callable[[Array], Array]) -> Iterator[None]:
  """Traces erf as `function` meanwhile, for compilers without it."""
  token = _ERF.set(function)
  try:
    yield
  finally:
    _ERF.reset(token)


def _normal_cdf(x: Float[Array, '...']) -> Float[Array, '...']:
  return 0.5 * (1 + _ERF.get()(x * 2**-0.5))


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


OPERANDS: tuple[str, ...] = ('float32', 'bfloat16')
_operands: ContextVar[str] = ContextVar('matmul_operands', default='float32')


@contextlib.contextmanager
def matmul_operands(name: str) -> Iterator[None]:
  """Traces what is inside with these operands of products (see `product`)."""
  token = _operands.set(name)
  try:
    yield
  finally:
    _operands.reset(token)


def product(
  x: Float[Array, '*b d'],
  kernel: Float[Array, 'd e'],
  dimension_numbers: jax.lax.DotDimensionNumbers | None = None,
  **options: Any,
) -> Float[Array, '*b e']:
  """`nn.Dense`'s matrix product; behind barriers on a CPU (see `apart`).

  There its rows are flattened, since XLA transposes a product over two batch
  axes in the backward pass. Inside of `matmul_operands('bfloat16')`, and for a
  kernel that is stored rounded (`store_rounded`), float32 arrays are rounded to
  bfloat16 before they are multiplied, also backwards; sums and results are
  float32.
  """
  rows = x.reshape(-1, x.shape[-1])
  if rounds(x, kernel):
    y = rounded_product(rows, kernel)
  elif sharding.platform() == 'cpu':
    dot = partial(jax.lax.dot_general, **options)
    y = apart(dot(apart(rows), kernel, _ROWS_BY_KERNEL))
  else:
    numbers = dimension_numbers or (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, kernel, numbers, **options)
  return y.reshape(*x.shape[:-1], -1)


def rounds(x: Array, kernel: Array) -> bool:
  """Whether a product of them rounds its operands to bfloat16."""
  rounded = _operands.get() == 'bfloat16' or kernel.dtype == jnp.bfloat16
  return x.dtype == jnp.float32 and rounded


def promote(
  *arrays: Array | None, dtype: Any = None, inexact: bool = True
) -> list[Any]:
  """Flax's `promote_dtype`, but a kernel that is stored rounded stays so."""
  promoted = dtypes.promote_dtype(*arrays, dtype=dtype, inexact=inexact)
  _, kernel, *_ = arrays  # as nn.Dense and nn.Conv call it
  if kernel is not None and kernel.dtype == jnp.bfloat16:
    promoted[1] = kernel
  return promoted


class Dense(nn.Module):
  """`nn.Dense` by `product`; it can return the bias separately.

  Attributes:
    features, use_bias, kernel_init, bias_init, dtype: as of `nn.Dense`.
  """

  features: int
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: Float[Array, '*b d'], add_bias: bool = True) -> Any:
    """Returns x W + b, `*b e`; without `add_bias` both terms, the second e."""
    shape = x.shape[-1], self.features
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = None
    if self.use_bias:
      bias = self.param('bias', self.bias_init, shape[1:])
    x, kernel, bias = promote(x, kernel, bias, dtype=self.dtype)
    y = product(x, kernel)
    if not add_bias:
      return y, bias
    return y if bias is None else y + bias


def store_rounded(variables: Any) -> Any:
  """Variables with the kernels of products in bfloat16, for inference.

  A product with few rows takes less time than rounding its kernel does: the
  image encoder of CLIP B/32 for one image needs half the time.
  """

  def rounded(path: tuple, x: Any) -> Any:
    product = x.ndim == 2 or convolves_by_products(x)
    named = getattr(path[-1], 'key', None) == 'kernel'
    return x.astype(jnp.bfloat16) if named and product else x

  return jax.tree_util.tree_map_with_path(rounded, variables)


def convolves_by_products(kernel: Any) -> bool:
  """Whether a convolution, of stride 1, should be a sum of matrix products.

  With rounded operands, one for each position of the kernel: XLA's convolution
  of bfloat16 on CPUs is as slow as that of float32 (`s s d e`; batch 8, one
  core, ms: 3 x 3 x 128 13.1 and 6.9; x 256 13.2 and 3.4; x 512 25 and 6.7; but
  x 64 13 and 40).
  """
  window = kernel.shape[:-2]
  return window == (1, 1) or (window == (3, 3) and kernel.shape[2] >= 128)


_ROWS_BY_KERNEL = (((1,), (0,)), ((), ()))
_ROWS_BY_ROWS = (((1,), (1,)), ((), ()))


@jax.custom_vjp
def rounded_product(
  x: Float[Array, 'n d'], kernel: Float[Array, 'd e']
) -> Float[Array, 'n e']:
  """Product of operands rounded to bfloat16, summed in float32.

  On CPUs XLA multiplies such operands by its fast kernels only if their rows,
  and those of the result, lie one after the other in memory (jax 0.10: else it
  rounds and multiplies in float32, or fails). So the narrower factor of the
  kernel's gradient is copied transposed, and `_in_rows` keeps other layouts
  away.
  """
  return _rounded_forward(x, kernel)[0]


def _rounded_forward(x: Array, kernel: Array) -> tuple[Array, Any]:
  x, kernel = _rounded(x), _rounded(kernel)
  return _accumulated(x, kernel, _ROWS_BY_KERNEL), (x, kernel)


def _rounded_backward(operands: Any, g: Array) -> tuple[Array, Array]:
  (x, kernel), g = operands, _rounded(g)
  if x.shape[1] > g.shape[1]:
    # One copy: the norm, the branch and AdamW would make one each.
    of_kernel = _transposed(_accumulated(_transposed(g), x, _ROWS_BY_KERNEL))
  else:
    of_kernel = _accumulated(_transposed(x), g, _ROWS_BY_KERNEL)
  return _accumulated(g, kernel, _ROWS_BY_ROWS), of_kernel


rounded_product.defvjp(_rounded_forward, _rounded_backward)


def _rounded(x: Array) -> Array:
  # An array that is rounded already is not copied.
  stored = x.dtype == jnp.bfloat16
  return x if stored else _in_rows(x.astype(jnp.bfloat16))


def _accumulated(x: Array, y: Array, numbers: Any) -> Array:
  return _in_rows(
    jax.lax.dot_general(x, y, numbers, preferred_element_type=jnp.float32)
  )


_QUERIES_BY_KEYS = (((3,), (3,)), ((0, 1), (0, 1)))
_WEIGHTS_BY_VALUES = (((3,), (2,)), ((0, 1), (0, 1)))


@jax.custom_vjp
def rounded_attention(
  q: Float[Array, 'b heads n d'],
  k: Float[Array, 'b heads m d'],
  v: Float[Array, 'b heads m d'],
  mask: Bool[Array, '...'] | None = None,
) -> Float[Array, 'b heads n d']:
  """softmax(q k^T) v of each head, k, its products as `rounded_product`.

  Weights are rounded before they are divided by their sums, which the product
  with v takes of the rounded ones: they add up to 1. They are all that
  is kept of size n m. `mask` is True where seen; each query sees some key.
  """
  return _attention_forward(q, k, v, mask)[0]


def _attention_forward(
  q: Array, k: Array, v: Array, mask: Array | None
) -> tuple[Array, Any]:
  q, k, v = _rounded(q), _rounded(k), _rounded(v)
  logits = _accumulated(q, k, _QUERIES_BY_KEYS)
  if mask is not None:
    logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
  weights = _rounded(jnp.exp(logits - logits.max(axis=-1, keepdims=True)))
  summed = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
  y = _accumulated(weights, summed, _WEIGHTS_BY_VALUES)
  y, total = y[..., :-1], y[..., -1:]
  y = apart(y / total)
  return y, (q, k, v, weights, total, y)


def _attention_backward(kept: Any, g: Array) -> tuple[Array | None, ...]:
  q, k, v, weights, total, y = kept
  g = g / total
  along = apart((g * y).sum(axis=-1, keepdims=True))
  g = _rounded(g)
  of_weights = _accumulated(g, v, _QUERIES_BY_KEYS)
  of_logits = _rounded(weights * (of_weights - along))
  of_q = _accumulated(of_logits, k, _WEIGHTS_BY_VALUES)
  # As the gradient of a kernel: copied transposed is the narrower factor.
  of_k, of_v = (
    _accumulated(_swapped(x), large, _WEIGHTS_BY_VALUES).swapaxes(2, 3)
    for x, large in ((q, of_logits), (g, weights))
  )
  return of_q, of_k, of_v, None


rounded_attention.defvjp(_attention_forward, _attention_backward)


def _swapped(x: Array) -> Array:
  return _in_rows(apart(x).swapaxes(2, 3))


def _in_rows(x: Array) -> Array:
  """The same array; on a CPU its rows lie one after the other in memory."""
  if sharding.platform() != 'cpu':
    return x
  return apart(x.reshape(-1)).reshape(x.shape)


def _transposed(x: Array) -> Array:
  """A transposed copy; on a CPU by one copy, not fused into another loop."""
  shape = x.shape[::-1]
  x = apart(apart(x).T)
  if sharding.platform() != 'cpu':
    return x
  return apart(x.reshape(*shape, 1)).reshape(shape)


def faster_operands(rows: int, width: int, hidden: int) -> str:
  """Times products on this machine; returns the operands to choose.

  Args:
    rows: tokens that are multiplied at a time.
    width, hidden: of the kernel.

  Returns:
    'bfloat16' on a CPU where a product with its gradients, with operands
    rounded to bfloat16, takes less than 1 / 1.3 of the time that it takes in
    float32; else 'float32'. The best of ten turns counts, so that other
    programs on the machine seldom decide.
  """
  if sharding.platform() != 'cpu':
    return 'float32'

  def gradients(name: str) -> Callable[..., Any]:
    def total(x: Array, kernel: Array) -> Array:
      with matmul_operands(name):
        return gelu(product(x, kernel)).sum()

    return jax.jit(jax.grad(total, (0, 1)))

  x, kernel = jnp.ones((rows, width)), jnp.ones((width, hidden))
  steps = {name: gradients(name) for name in OPERANDS}
  best = dict.fromkeys(OPERANDS, math.inf)
  for turn in range(11):  # the first one compiles
    for name, step in steps.items():
      start = time.perf_counter()
      jax.block_until_ready(step(x, kernel))
      if turn:
        best[name] = min(best[name], time.perf_counter() - start)
  faster = best['float32'] > 1.3 * best['bfloat16']
  return 'bfloat16' if faster else 'float32'
