"""Building blocks shared by the image and text encoders.

Plain flax modules with PyTorch's conventions (initializers, LayerNorm epsilon,
batch-norm statistics), so that released weights carry over.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from groupvit_jax import sharding
from groupvit_jax.models import fused_attention, ops

Initializer = Callable[..., Array]

# timm's trunc_normal_(std=.02) cuts at +-2, a hundred deviations away: a
# normal. flax's truncated_normal would cut at two deviations.
NORMAL_02 = nn.initializers.normal(0.02)
# PyTorch's default for Linear and Conv kernels: uniform +-fan_in^-1/2.
TORCH_DEFAULT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def torch_bias(fan_in: int) -> Initializer:
  """PyTorch's default bias: uniform within +-fan_in^-1/2."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) * fan_in**-0.5

  return init


def layer_norm(dtype: DTypeLike, name: str | None = None) -> nn.LayerNorm:
  """LayerNorm with PyTorch's epsilon; statistics are taken in float32.

  flax's default variance, mean(x^2) - mean(x)^2, cancels: where the mean is 30
  standard deviations the output is off by 3.6e-4, against 3.8e-6 in two passes.
  """
  return nn.LayerNorm(
    epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name
  )


class MLP(nn.Module):
  """Linear, activation, linear, over the last axis.

  Attributes:
    hidden: width between the two layers.
    features: output width; None keeps the input's.
    activation: applied between the two layers.
    kernel_init, out_init: initializers of the two kernels.
    torch_biases: PyTorch's default for the biases instead of zero.
    dtype: of the computation; parameters are float32.
  """

  hidden: int
  features: int | None = None
  activation: Callable = ops.gelu
  kernel_init: Initializer = NORMAL_02
  out_init: Initializer = NORMAL_02
  torch_biases: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b out']:
    def dense(features, init, name):
      fan_in = x.shape[-1] if name == 'fc1' else self.hidden
      bias = torch_bias(fan_in) if self.torch_biases else nn.initializers.zeros
      return ops.Dense(
        features, dtype=self.dtype, kernel_init=init, bias_init=bias, name=name
      )

    y = dense(self.hidden, self.kernel_init, 'fc1')(x)
    y = self.activation(y)
    return dense(self.features or x.shape[-1], self.out_init, 'fc2')(y)


class Attention(nn.Module):
  """Multi-head attention of `x` over `context`, or over itself.

  Attributes:
    num_heads: number of heads; must divide the width.
    kernel_init, out_init: of the fused input and of the output projection.
    causal: a token of `x` attends to no later one; not with a context.
    dtype: of the computation; the softmax is always float32.
  """

  num_heads: int
  kernel_init: Initializer = NORMAL_02
  out_init: Initializer = NORMAL_02
  causal: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    context: Float[Array, 'b m d'] | None = None,
    mask: Bool[Array, '...'] | None = None,
    read: Int[Array, ' b'] | None = None,
  ) -> Float[Array, 'b _n d']:
    """Attends; `mask` (broadcastable to b, heads, n, m) is True where seen.

    With `read` only the token at that position of each example asks.
    """
    width = x.shape[-1]
    if width % self.num_heads:
      raise ValueError(
        f'width {width} is not divisible by num_heads {self.num_heads}; '
        'choose a width that is a multiple of the number of heads'
      )

    def dense(features, name):
      init = self.out_init if name == 'out' else self.kernel_init
      return ops.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

    if context is None:
      qkv, bias = dense(3 * width, 'qkv')(x, add_bias=False)
      options = {'num_heads': self.num_heads, 'causal': self.causal}
      alone = mask is None and read is None
      if alone and fused_attention.fits(qkv, **options):
        fused = partial(fused_attention.attend, **options)
        mesh = sharding.mesh_at_hand()
        y = sharding.on_each_device(fused, mesh, qkv, whole=[bias])
        return dense(width, 'out')(y)
      q, k, v = jnp.split(qkv + bias, 3, axis=-1)
      q = token_at(q, read)
      if self.causal:
        places = jnp.arange(x.shape[1])
        at = places[:, None] if read is None else read[:, None, None, None]
        mask = at >= places if mask is None else mask & (at >= places)
    else:
      q = dense(width, 'q')(x)
      k, v = jnp.split(dense(2 * width, 'kv')(context), 2, axis=-1)
    y = attend(q, k, v, self.num_heads, mask)
    return dense(width, 'out')(y)


def attend(
  q: Float[Array, 'b n d'],
  k: Float[Array, 'b m d'],
  v: Float[Array, 'b m d'],
  num_heads: int,
  mask: Bool[Array, '...'] | None = None,
) -> Float[Array, 'b n d']:
  """Scaled dot-product attention; logits and softmax in float32.

  Over 128 keys and more its products round float32 operands as `ops.product`
  does; with fewer, rounding takes longer than the products gain.
  """
  shape = q.shape

  def heads(x):  # heads first: on a CPU a batched matmul wants its rows dense
    return x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2)

  scale = (shape[-1] // num_heads) ** -0.5
  q, k, v = heads(q * scale), heads(k), heads(v)
  if ops.rounds(q, k) and k.shape[2] >= 128:
    y = ops.rounded_attention(q, k, v, mask)
  else:
    logits = jnp.einsum(
      'bhnd,bhmd->bhnm', q, k, preferred_element_type=jnp.float32
    )
    if mask is not None:
      logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    y = jnp.einsum('bhnm,bhmd->bhnd', weights, v)
  return y.swapaxes(1, 2).reshape(shape)


def token_at(
  x: Float[Array, 'b n d'], position: Int[Array, ' b'] | None
) -> Float[Array, 'b _n d']:
  """One token of each example, b 1 d; all of them for None."""
  if position is None:
    return x
  return jnp.take_along_axis(x, position[:, None, None], axis=1)


class PathDrop(NamedTuple):
  """Stochastic depth of a block (arXiv 1603.09382), in timm's form.

  Attributes:
    kept: the examples that keep each of the two residual branches.
    share: of examples that keep a branch on average; the others' are scaled up.
  """

  kept: Bool[Array, '*i 2 b']
  share: Float[Array, '*i']


def drop_paths(
  rng: PRNGKeyArray, rates: Sequence[float], batch: int
) -> PathDrop:
  """Draws for all blocks, i, from the rate at which each drops a branch."""
  share = 1 - jnp.asarray(rates, jnp.float32)
  shape = len(rates), 2, batch
  kept = sharding.drawn(
    lambda shape: jax.random.bernoulli(rng, share[:, None, None], shape),
    shape,
    axis=2,
  )
  return PathDrop(kept, share)


def _kept(
  x: Float[Array, 'b n d'], drop: PathDrop | None, branch: int
) -> Float[Array, 'b n d']:
  """A residual branch, zero for the examples that drop it."""
  if drop is None:
    return x
  kept = drop.kept[branch, :, None, None]
  return jnp.where(kept, x / drop.share.astype(x.dtype), 0)


class Block(nn.Module):
  """Pre-norm transformer block.

  Attributes:
    num_heads: number of attention heads.
    mlp_ratio: hidden width of the MLP over the width.
    activation: of the MLP.
    in_init, fc_init, out_init: kernels of qkv, of the MLP's first layer, and of
      the two layers that write to the residual stream.
    torch_biases: PyTorch's default biases in the MLP (as CLIP's text encoder).
    causal: a token attends to no later one.
    dtype: of the computation; parameters are float32.
  """

  num_heads: int
  mlp_ratio: float = 4.0
  activation: Callable = ops.gelu
  in_init: Initializer = NORMAL_02
  fc_init: Initializer = NORMAL_02
  out_init: Initializer = NORMAL_02
  torch_biases: bool = False
  causal: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    mask: Bool[Array, '...'] | None = None,
    read: Int[Array, ' b'] | None = None,
    drop: PathDrop | None = None,
  ) -> Float[Array, 'b _n d']:
    """Runs the block; with `read`, for one token of each example, b 1 d."""
    y = layer_norm(self.dtype, 'norm1')(x)
    y = Attention(
      self.num_heads,
      kernel_init=self.in_init,
      out_init=self.out_init,
      causal=self.causal,
      dtype=self.dtype,
      name='attn',
    )(y, mask=mask, read=read)
    x = token_at(x, read) + _kept(y, drop, 0)

    y = layer_norm(self.dtype, 'norm2')(x)
    y = MLP(
      hidden=int(x.shape[-1] * self.mlp_ratio),
      activation=self.activation,
      kernel_init=self.fc_init,
      out_init=self.out_init,
      torch_biases=self.torch_biases,
      dtype=self.dtype,
      name='mlp',
    )(y)
    return x + _kept(y, drop, 1)


def run_blocks(
  module: nn.Module,
  x: Float[Array, 'b n d'],
  drop_path: Sequence[float],
  train: bool,
  mask: Bool[Array, '...'] | None,
  *,
  remat: bool,
  **options: Any,
) -> Float[Array, 'b n d']:
  """Blocks one after the other; call it inside a module's `__call__`.

  With `remat` on TPUs they are one scanned block, whose parameters are stacked
  in every step: it compiles three times as fast and takes the least memory, but
  a copy of each block, without `remat`, runs faster (benchmarks/RESULTS.md).
  Parameters and noise are the same either way.

  Args:
    module: that module; block i is its `block_{i}`.
    x: tokens.
    drop_path: rate of each block at which an example drops either branch.
    train: drop paths, from the rng collection 'drop_path'.
    mask: see `Attention`.
    remat: recompute the blocks' activations backwards.
    **options: fields of every `Block`.
  """
  drops = None
  if train and any(drop_path):
    drops = drop_paths(module.make_rng('drop_path'), drop_path, len(x))
  names = [f'block_{i}' for i in range(len(drop_path))]
  scanned = remat and sharding.platform() == 'tpu' and len(names) > 1
  if not scanned or module.is_initializing():
    block = nn.remat(Block) if remat else Block
    for i, name in enumerate(names):
      drop = jax.tree.map(lambda x, i=i: x[i], drops)
      x = block(name=name, **options)(x, mask, None, drop)
    return x

  def step(x: Array, block: Any) -> tuple[Any, None]:
    params, drop = block
    one = Block(parent=None, **options)
    return one.apply({'params': params}, x, mask, None, drop), None

  params = [module.get_variable('params', name) for name in names]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
  step = jax.checkpoint(step, prevent_cse=False)
  return jax.lax.scan(step, x, (stacked, drops))[0]


class BatchNorm(nn.Module):
  """Batch norm over all axes but the last, in float32, with torch's semantics.

  Normalises by the biased variance, keeps the unbiased one, epsilon 1e-5,
  momentum .1. Under jit with a sharded batch the statistics are those of the
  global batch, as of the original's SyncBatchNorm.

  Attributes:
    dtype: of the output.
    scale_init: of the gain.
  """

  dtype: DTypeLike = jnp.float32
  scale_init: Initializer = nn.initializers.ones

  @nn.compact
  def __call__(
    self, x: Float[Array, '*b d'], train: bool
  ) -> Float[Array, '*b d']:
    """Normalises by the batch's statistics if `train`, else by the stored."""
    shape = x.shape[-1:]
    scale = self.param('scale', self.scale_init, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    stored_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
    stored_var = self.variable('batch_stats', 'var', jnp.ones, shape)

    x = x.astype(jnp.float32)
    mean, var = stored_mean.value, stored_var.value
    if train:
      axes = tuple(range(x.ndim - 1))
      mean, var = x.mean(axes), x.var(axes)
      if not self.is_initializing():
        n = x.size // x.shape[-1]
        unbiased = var * (n / max(n - 1, 1))
        stored_mean.value = 0.9 * stored_mean.value + 0.1 * mean
        stored_var.value = 0.9 * stored_var.value + 0.1 * unbiased
    x = (x - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias
    return x.astype(self.dtype)
