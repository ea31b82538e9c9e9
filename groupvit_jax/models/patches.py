"""From pixels to tokens: patches, and positions for a grid of any size."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from groupvit_jax.models import layers, padding


class PatchEmbed(nn.Module):
  """Patches to tokens: linear, LayerNorm, learned positions.

  Positions are stored for the grid of `image_size` and resized bicubically for
  any other grid. Pixels beyond the last whole patch are not read.

  Attributes:
    image_size: pixels, one number or (height, width).
    patch_size: side of a square patch in pixels.
    width: token width.
    dtype: of the computation; parameters are float32.
  """

  image_size: int | Sequence[int]
  patch_size: int
  width: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: Float[Array, 'b h w 3'],
    grids: Int[Array, 'b 2'] | None = None,
  ) -> Float[Array, 'b n d']:
    """Returns tokens in row-major order.

    Args:
      images: of at least one patch.
      grids: (h, w) in tokens of every picture on its canvas (see `padding`);
        pixels beyond are not read.
    """
    p = self.patch_size
    kernel = self.param('kernel', layers.TORCH_DEFAULT, (p, p, 3, self.width))
    bias = self.param('bias', layers.torch_bias(p * p * 3), (self.width,))
    x = cut(images.astype(self.dtype), p, grids)
    x = x @ kernel.reshape(-1, self.width).astype(self.dtype)
    x = layers.layer_norm(self.dtype, 'norm')(x + bias.astype(self.dtype))

    grid = grid_size(images.shape[1:3], p)
    trained = grid_size(self.image_size, p)
    positions = self.param(
      'positions', layers.NORMAL_02, (1, trained[0] * trained[1], self.width)
    )
    positions = resize_positions(positions, trained, grid, grids)
    return x + positions.astype(self.dtype)


class ClipEmbed(nn.Module):
  """CLIP's: linear without bias, a class token in front, learned positions.

  Attributes are those of `PatchEmbed`. The class token's position comes first
  and is never resized.
  """

  image_size: int | Sequence[int]
  patch_size: int
  width: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: Float[Array, 'b h w 3'],
    grids: Int[Array, 'b 2'] | None = None,
  ) -> Float[Array, 'b m d']:
    """Returns the class token, then the patches' in row-major order."""
    p, width = self.patch_size, self.width
    kernel = self.param('kernel', layers.TORCH_DEFAULT, (p, p, 3, width))
    x = cut(images.astype(self.dtype), p, grids)
    x = x @ kernel.reshape(-1, width).astype(self.dtype)

    grid = grid_size(images.shape[1:3], p)
    trained = grid_size(self.image_size, p)
    normal = nn.initializers.normal(width**-0.5)
    class_token = self.param('class_token', normal, (width,))
    positions = self.param(
      'positions', normal, (1 + trained[0] * trained[1], width)
    )
    first = (class_token + positions[0]).astype(self.dtype)
    first = jnp.broadcast_to(first, (x.shape[0], 1, width))
    positions = resize_positions(positions[None, 1:], trained, grid, grids)
    return jnp.concatenate([first, x + positions.astype(self.dtype)], axis=1)


def cut(
  images: Float[Array, 'b h w 3'],
  patch_size: int,
  grids: Int[Array, 'b 2'] | None = None,
) -> Float[Array, 'b n k']:
  """The pixels of every whole patch; zeros beyond a picture's own grid.

  The embedding is a matrix product with these: on a CPU, its gradient takes a
  third of the time of the convolution's.
  """
  p = patch_size
  (h, w) = grid = grid_size(images.shape[1:3], p)
  x = images[:, : h * p, : w * p]
  x = x.reshape(-1, h, p, w, p, 3).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(-1, h * w, p * p * 3)
  if grids is not None:
    # Not times zero: what lies in the padding may be NaN.
    x = jnp.where(padding.token_mask(grids, grid)[..., None], x, 0)
  return x


def grid_size(size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
  """Whole patches of an image of `size` pixels (one side, or h and w)."""
  h, w = (size, size) if isinstance(size, int) else size
  if min(h, w) < patch_size:
    raise ValueError(
      f'an image of {h}x{w} pixels is smaller than one patch of '
      f'{patch_size}x{patch_size}; resize it before the model'
    )
  return h // patch_size, w // patch_size


def resize_positions(
  positions: Float[Array, '1 n d'],
  trained: tuple[int, int],
  grid: tuple[int, int],
  grids: Int[Array, 'b 2'] | None = None,
) -> Float[Array, '_b m d']:
  """Bicubic resize of position embeddings between token grids.

  As `torch.nn.functional.interpolate(mode='bicubic', align_corners=False)`:
  kernel a=-.75, edges repeated, no antialiasing.

  Args:
    positions: one vector per token, row-major.
    trained: (h, w) of the grid of `positions`.
    grid: (h, w) that is wanted.
    grids: (h, w) that each picture wants, on a canvas of `grid`.

  Returns:
    One vector for each of the h * w tokens wanted; for each picture if `grids`
    are given.
  """
  if grids is not None:
    return padding.resize_positions_each(positions, trained, grids, grid)
  if trained == grid:
    return positions
  x = positions.reshape(1, *trained, -1)
  x = jax.image.resize(
    x, (1, *grid, x.shape[-1]), 'cubic-pytorch', antialias=False
  )
  return x.reshape(1, grid[0] * grid[1], -1)
