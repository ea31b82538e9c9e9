"""Self-attention in one kernel, for TPUs.

XLA writes the weights of attention, n x n for each head, to memory in float32
and reads them back several times, which takes 7.2 of a block's 10.9 ms on a v5e
(benchmarks/RESULTS.md). Here an image's weights live in the chip's fast memory,
forward and backward, and only the results of linear layers are kept for the
gradient (the idea of FlashAttention, arXiv 2205.14135; an image fits whole, so
nothing is tiled). Texts are shorter than the chip's vectors, so several lie
side by side, and a mask keeps them apart.

Keys lie along rows and queries along columns: sums over keys add rows up, and
all transposed copies are of n x head width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from groupvit_jax import sharding

LANES = 128  # of a TPU's vectors
MIN_TOKENS, MAX_TOKENS = LANES, 512  # of images; fewer gain nothing
MEMORY = 14 * 2**20  # bytes, of 16 MiB


def fits(
  qkv: Float[Array, 'b n _qkv'], num_heads: int, causal: bool = False
) -> bool:
  """Whether `attend` serves: a TPU's program of bfloat16 on a known mesh."""
  _, n, d = qkv.shape
  aligned = d % (3 * LANES) == 0 and (d // 3 // num_heads) % 8 == 0
  served = n <= LANES if causal else MIN_TOKENS <= n <= MAX_TOKENS
  # Backwards seven arrays of n x d / 3, twice each, since the next image's are
  # loaded meanwhile; and four of a head's weights in float32.
  memory = 2 * 7 * n * (d // 3) * 2 + 4 * n * n * 4
  return (
    sharding.platform() == 'tpu'
    and sharding.mesh_at_hand() is not None
    and qkv.dtype == jnp.bfloat16
    and aligned
    and served
    and memory <= MEMORY
  )


def attend(
  qkv: Float[Array, 'b n _qkv'],
  bias: Float[Array, ' _qkv'],
  num_heads: int,
  causal: bool = False,
  interpret: bool = False,
) -> Float[Array, 'b n d']:
  """Scaled dot-product attention of each token over all; as `layers.attend`.

  Logits, softmax and sums are float32; weights are rounded to `qkv`'s type
  before they multiply the values, and divided by their sum afterwards.

  Args:
    qkv: queries, keys and values side by side; each holds the heads in turn.
    bias: added to them.
    num_heads: must divide d.
    causal: a token attends to no later one. Texts that lie side by side share
      a program, so one that is not finite makes the others not finite.
    interpret: run the kernel without a TPU, slowly; for tests.
  """
  b, n, d = qkv.shape
  bias = bias.astype(jnp.float32)[None]
  if not causal:
    return _attend(qkv, bias, None, num_heads, interpret)
  together = next(i for i in range(max(LANES // n, 1), 0, -1) if b % i == 0)
  seen = np.kron(np.eye(together), np.triu(np.ones((n, n)))) > 0
  mask = jnp.where(seen, 0, jnp.finfo(jnp.float32).min)
  texts = qkv.reshape(b // together, together * n, d)
  y: Any = _attend(texts, bias, mask, num_heads, interpret)
  return y.reshape(b, n, d // 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(
  qkv: Array,
  bias: Array,
  mask: Array | None,
  num_heads: int,
  interpret: bool,
) -> Array:
  """Attention; `mask`, keys by queries, is added to the logits."""
  return _forward(qkv, bias, mask, num_heads, interpret)[0]


def _forward(
  qkv: Array,
  bias: Array,
  mask: Array | None,
  num_heads: int,
  interpret: bool,
) -> tuple[Array, tuple[Array, Array, Array | None]]:
  kept = qkv, bias, mask
  return _call(_forward_kernel, *kept, None, num_heads, interpret), kept


def _backward(
  num_heads: int,
  interpret: bool,
  kept: tuple[Array, Array, Array | None],
  g: Array,
) -> tuple[Array, Array, None]:
  return *_call(_backward_kernel, *kept, g, num_heads, interpret), None


_attend.defvjp(_forward, _backward)


def _call(
  kernel: Any,
  qkv: Array,
  bias: Array,
  mask: Array | None,
  g: Array | None,
  num_heads: int,
  interpret: bool,
) -> Any:
  """Runs a kernel for each image, or for each group of texts.

  Queries, keys and values are three blocks of one array. The programs run one
  after the other, which is Pallas' default for TPUs: the gradient of the bias
  is a sum over them. With `g` the result has a second array, that gradient.
  """
  from jax.experimental import pallas  # here: only TPUs need it

  b, n, d = qkv.shape
  whole_spec = pallas.BlockSpec((1, n, d), lambda image: (image, 0, 0))
  qkv_specs = [
    pallas.BlockSpec((1, n, d // 3), lambda image, i=i: (image, 0, i))
    for i in range(3)
  ]
  bias_spec = pallas.BlockSpec((1, d), lambda image: (0, 0))
  name = f'attention{kernel.__name__}'
  blocks, given = [bias_spec, *qkv_specs], [bias, qkv, qkv, qkv]
  if g is None:
    outs = qkv_specs[0], jax.ShapeDtypeStruct((b, n, d // 3), qkv.dtype)
  else:
    blocks, given = [*blocks, qkv_specs[0]], [*given, g]
    shapes = (jax.typeof(x) for x in (qkv, bias))
    outs = (whole_spec, bias_spec), tuple(shapes)
  if mask is None:
    kernel = functools.partial(kernel, None)
  else:
    blocks.insert(0, pallas.BlockSpec((n, n), lambda image: (0, 0)))
    name, given = f'causal_{name}', [mask, *given]
  return pallas.pallas_call(
    functools.partial(kernel, num_heads=num_heads),
    grid=(b,),
    in_specs=blocks,
    out_specs=outs[0],
    out_shape=outs[1],
    interpret=interpret,
    name=name,
  )(*given)


def _forward_kernel(
  mask_ref: Any,
  bias_ref: Any,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  y_ref: Any,
  *,
  num_heads: int,
) -> None:
  heads = []
  for i in _heads(q_ref, num_heads):
    q, k, v = _of_head(bias_ref, (q_ref, k_ref, v_ref), i)
    weights, total = _weights(q, k, mask_ref)
    heads.append(_product(v, weights.astype(v.dtype), 0, 0) / total)
  y_ref[0] = jnp.concatenate(heads).T.astype(y_ref.dtype)


def _backward_kernel(
  mask_ref: Any,
  bias_ref: Any,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  g_ref: Any,
  out_ref: Any,
  of_bias_ref: Any,
  *,
  num_heads: int,
) -> None:
  from jax.experimental import pallas

  @pallas.when(pallas.program_id(0) == 0)
  def start() -> None:
    of_bias_ref[...] = jnp.zeros_like(of_bias_ref)

  width = q_ref.shape[-1]
  of_q = []
  for i in _heads(q_ref, num_heads):
    q, k, v = _of_head(bias_ref, (q_ref, k_ref, v_ref), i)
    g = g_ref[0, :, i]
    weights, total = _weights(q, k, mask_ref)
    weights = weights / total
    of_weights = _product(v, g, 1, 1)
    along = (weights * of_weights).sum(0, keepdims=True)
    of_logits = (weights * (of_weights - along)).astype(q.dtype)
    of_q.append(_scaled(_product(k, of_logits, 0, 0), q.shape[-1]))
    of_k = _product(of_logits, q, 1, 0)
    of_v = _product(weights.astype(g.dtype), g, 1, 0)
    for part, slope in ((1, of_k), (2, of_v)):
      columns = _columns(part, width, i)
      out_ref[0, :, columns] = slope.astype(out_ref.dtype)
      of_bias_ref[0, columns] += slope.sum(0)
  slope = jnp.concatenate(of_q).T
  out_ref[0, :, :width] = slope.astype(out_ref.dtype)
  of_bias_ref[0, :width] += slope.sum(0)


def _heads(ref: Any, num_heads: int) -> list[slice]:
  """The columns of each head."""
  d = ref.shape[-1] // num_heads
  return [slice(i * d, (i + 1) * d) for i in range(num_heads)]


def _columns(part: int, width: int, i: slice) -> slice:
  """A head's columns of queries, keys or values, which lie side by side."""
  return slice(part * width + i.start, part * width + i.stop)


def _of_head(bias_ref: Any, refs: tuple[Any, ...], i: slice) -> list[Array]:
  """Queries, multiplied by the scale, keys and values; with their biases."""
  width = refs[0].shape[-1]
  found = []
  for part, ref in enumerate(refs):
    x = ref[0, :, i]
    bias = bias_ref[:, _columns(part, width, i)]
    found.append((x + bias).astype(x.dtype))
  return [_scaled(found[0]), *found[1:]]


def _scaled(x: Array, width: int | None = None) -> Array:
  return x * jnp.asarray((width or x.shape[-1]) ** -0.5, x.dtype)


def _weights(
  q: Float[Array, 'n d'], k: Float[Array, 'm d'], mask_ref: Any
) -> tuple[Float[Array, 'm n'], Float[Array, '1 n']]:
  """The softmax's exponentials and, for each query, their sum."""
  logits = _product(k, q, 1, 1)
  if mask_ref is not None:
    logits += mask_ref[...]
  weights = jnp.exp(logits - logits.max(0, keepdims=True))
  return weights, weights.sum(0, keepdims=True)


def _product(x: Array, y: Array, x_axis: int, y_axis: int) -> Array:
  """Sums over an axis of each, in float32."""
  numbers = (((x_axis,), (y_axis,)), ((), ()))
  return jax.lax.dot_general(x, y, numbers, preferred_element_type=jnp.float32)
