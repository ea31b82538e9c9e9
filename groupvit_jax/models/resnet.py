"""OpenAI CLIP's modified ResNet (arXiv 2103.00020 section 2.4).

In the form of openai/CLIP model.py: a stem of three convolutions, average pools
in place of strides, and attention of the mean over all positions as pooling.
The last projection of the attention pool is the image projector of the
`DualEncoder`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from groupvit_jax.models import layers, ops


def _conv(
  features: int, size: int, dtype: DTypeLike, name: str, stride: int = 1
) -> nn.Conv:
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    padding=size // 2,
    use_bias=False,
    kernel_init=layers.TORCH_DEFAULT,
    dtype=dtype,
    promote_dtype=ops.promote,
    conv_general_dilated=_convolve,
    name=name,
  )


def _convolve(
  x: Float[Array, 'b h w d'],
  kernel: Float[Array, 's s d e'],
  *arguments: Any,
  **options: Any,
) -> Float[Array, 'b _h _w e']:
  """A convolution; with rounded operands products where these are faster."""
  if not (ops.rounds(x, kernel) and ops.convolves_by_products(kernel)):
    return jax.lax.conv_general_dilated(x, kernel, *arguments, **options)
  (height, width), size = x.shape[1:3], kernel.shape[0]
  around = size // 2
  x = jnp.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
  return functools.reduce(
    jnp.add,
    (
      ops.product(x[:, i : i + height, j : j + width], kernel[i, j])
      for i in range(size)
      for j in range(size)
    ),
  )


def _pool(x: Float[Array, 'b h w d'], size: int) -> Float[Array, 'b _h _w d']:
  return nn.avg_pool(x, (size, size), (size, size)) if size > 1 else x


class Bottleneck(nn.Module):
  """A residual block of three convolutions, all of stride 1.

  Attributes:
    planes: inner width; the output has four times as many channels.
    stride: of the average pool behind the second convolution.
    dtype: of the convolutions; batch norm computes in float32.
  """

  planes: int
  stride: int = 1
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w d'], train: bool
  ) -> Float[Array, 'b _h _w _d']:
    """Runs the block; batch statistics only if `train`."""
    width, dtype = 4 * self.planes, self.dtype

    def norm(name: str, y: Array, **options: Any) -> Array:
      return layers.BatchNorm(dtype, name=name, **options)(y, train)

    y = nn.relu(norm('norm1', _conv(self.planes, 1, dtype, 'conv1')(x)))
    y = nn.relu(norm('norm2', _conv(self.planes, 3, dtype, 'conv2')(y)))
    y = _conv(width, 1, dtype, 'conv3')(_pool(y, self.stride))
    y = norm('norm3', y, scale_init=nn.initializers.zeros)
    if self.stride > 1 or x.shape[-1] != width:
      x = _conv(width, 1, dtype, 'conv_skip')(_pool(x, self.stride))
      x = norm('norm_skip', x)
    return nn.relu(x + y)


class AttentionPool(nn.Module):
  """Attention of the mean over all positions, without its last projection.

  Attributes:
    num_heads: attention heads.
    dtype: of the computation; the softmax is always float32.
  """

  num_heads: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w d']
  ) -> tuple[Float[Array, 'b d'], Float[Array, 'b n d']]:
    """Returns the pooled vector, and the values of every position."""
    width = x.shape[-1]
    normal = nn.initializers.normal(width**-0.5)

    def dense(name: str) -> nn.Module:
      bias = layers.torch_bias(width)
      return ops.Dense(
        width, dtype=self.dtype, kernel_init=normal, bias_init=bias, name=name
      )

    x = x.reshape(x.shape[0], -1, width)
    x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
    positions = self.param('positions', normal, x.shape[1:])
    x = x + positions.astype(self.dtype)
    q, k, v = dense('q')(x[:, :1]), dense('k')(x), dense('v')(x)
    pooled = layers.attend(q, k, v, self.num_heads)
    return pooled[:, 0].astype(jnp.float32), v[:, 1:].astype(jnp.float32)


class ClipResNet(nn.Module):
  """The image encoder.

  Attributes:
    image_size: pixels of the images, one side or (h, w).
    width: channels behind the stem; the output has 32 times as many.
    depths: blocks of the four stages.
    num_heads: of the attention pool; half the width in every released model.
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters, norms, outputs are float32.
  """

  image_size: int | Sequence[int] = 224
  width: int = 64
  depths: Sequence[int] = (3, 4, 6, 3)
  num_heads: int = 32
  remat: bool = False
  dtype: DTypeLike = jnp.float32

  # Pixels per side of a token; no field, as every released model has it.
  patch_size = 32

  @nn.compact
  def __call__(
    self,
    images: Float[Array, 'b h w 3'],
    *,
    train: bool = False,
    sizes: Int[Array, 'b 2'] | None = None,
  ) -> tuple[Float[Array, 'b d'], dict]:
    """Encodes images that are already normalised.

    Args:
      images: of `image_size`: the attention pool has a position for each cell.
      train: batch statistics; make 'batch_stats' mutable.
      sizes: must be None; a convolution would read the padding.

    Returns:
      The pooled vector, b d, and a dict: tokens (b n d, the attention pool's
      values of every position); hidden (per stage, its feature map b h w c);
      grid ((h, w) of the tokens); grids (None).

    Raises:
      ValueError: for images of another size, or padded ones.
    """
    size = self.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    if images.shape[1:3] != size or sizes is not None:
      raise ValueError(
        f'a CLIP ResNet of {size[0]}x{size[1]} pixels reads images of exactly '
        f'this size without padding, got {images.shape[1]}x{images.shape[2]}; '
        'resize and crop them'
      )
    dtype, width = self.dtype, self.width
    x = images.astype(dtype)
    stem = (width // 2, 2), (width // 2, 1), (width, 1)
    for i, (features, stride) in enumerate(stem, 1):
      x = _conv(features, 3, dtype, f'conv{i}', stride)(x)
      x = nn.relu(layers.BatchNorm(dtype, name=f'norm{i}')(x, train))
    x = _pool(x, 2)
    # Arguments count from self = 0, so `train` is 2.
    remat = nn.remat(Bottleneck, static_argnums=(2,))
    block = remat if self.remat else Bottleneck
    hidden = []
    for i, depth in enumerate(self.depths):
      for j in range(depth):
        stride = 2 if i and not j else 1
        name = f'stage_{i}_block_{j}'
        x = block(width * 2**i, stride, dtype, name=name)(x, train)
      hidden.append(x.astype(jnp.float32))
    pooled, tokens = AttentionPool(self.num_heads, dtype, name='pool')(x)
    return pooled, {
      'tokens': tokens,
      'hidden': tuple(hidden),
      'grid': x.shape[1:3],
      'grids': None,
    }
