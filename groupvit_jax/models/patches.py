"""From pixels to tokens: patches, and positions for a grid of any size.

Images of several sizes can share one padded shape: each lies in the top left
corner and is encoded as if it were alone. Its size is known at run time only,
so that one compiled program serves every size that fits.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.models import layers, ops

A = -0.75  # of the cubic kernel, as in PyTorch


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
      grids: (h, w) in tokens of every image on the padded shape;
        pixels beyond are not read.
    """
    p = self.patch_size
    kernel = self.param('kernel', layers.TORCH_DEFAULT, (p, p, 3, self.width))
    bias = self.param('bias', layers.torch_bias(p * p * 3), (self.width,))
    x = _cut(images.astype(self.dtype), p, grids)
    x = ops.product(x, kernel.reshape(-1, self.width).astype(self.dtype))
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
    x = _cut(images.astype(self.dtype), p, grids)
    x = ops.product(x, kernel.reshape(-1, width).astype(self.dtype))

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


def _cut(
  images: Float[Array, 'b h w 3'],
  patch_size: int,
  grids: Int[Array, 'b 2'] | None = None,
) -> Float[Array, 'b n k']:
  """The pixels of every whole patch; zeros beyond an image's own grid.

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
    x = jnp.where(token_mask(grids, grid)[..., None], x, 0)
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


def token_grids(
  sizes: Int[Array, 'b 2'] | None, patch_size: int, grid: tuple[int, int]
) -> Int[Array, 'b 2'] | None:
  """The (h, w) in whole patches of every image; None for no sizes.

  Args:
    sizes: (height, width) in pixels of every image.
    patch_size: side of a square patch in pixels.
    grid: (h, w) in patches of the padded shape.

  Returns:
    int32, clipped to 1 and the padded shape: sizes are known too late for an
    error.
  """
  if sizes is None:
    return None
  return jnp.clip(sizes // patch_size, 1, jnp.asarray(grid)).astype(jnp.int32)


def token_mask(
  grids: Int[Array, 'b 2'] | None, grid: tuple[int, int]
) -> Bool[Array, 'b n'] | None:
  """True for the tokens of an image, False for padding; row-major."""
  if grids is None:
    return None
  rows = jnp.arange(grid[0]) < grids[:, :1]
  columns = jnp.arange(grid[1]) < grids[:, 1:]
  mask = rows[:, :, None] & columns[:, None, :]
  return mask.reshape(-1, grid[0] * grid[1])


def key_mask(
  mask: Bool[Array, 'b n'] | None, before: int = 0, after: int = 0
) -> Bool[Array, 'b 1 1 m'] | None:
  """Mask for `layers.Attention`; tokens before and after are all seen."""
  if mask is None:
    return None
  mask = jnp.pad(mask, ((0, 0), (before, after)), constant_values=True)
  return mask[:, None, None, :]


def mean_token(
  x: Float[Array, 'b n d'],
  mask: Bool[Array, 'b n'] | None,
  keepdims: bool = False,
) -> Float[Array, 'b *_n d']:
  """The mean of an image's tokens, without its padding."""
  where = None if mask is None else mask[..., None]
  return x.mean(axis=1, keepdims=keepdims, where=where)


def resize_positions(
  positions: Float[Array, '1 n d'],
  trained: tuple[int, int],
  grid: tuple[int, int],
  grids: Int[Array, 'b 2'] | None = None,
) -> Float[Array, '_b m d']:
  """Bicubic resize of position embeddings between token grids.

  As `torch.nn.functional.interpolate(mode='bicubic', align_corners=False)`:
  kernel a=-.75, edges repeated, no antialiasing. It is linear and separable: a
  matrix for the rows, one for the columns.

  Args:
    positions: one vector per token, row-major.
    trained: (h, w) of the grid of `positions`.
    grid: (h, w) of the result.
    grids: (h, w) of every image where `grid` is their padded shape.

  Returns:
    One vector for each of the h * w tokens, for each image if `grids` are
    given; those of padding are finite.
  """
  if grids is None:
    if trained == grid:
      return positions
    grids = jnp.asarray([grid])
  x = positions.reshape(*trained, -1)
  rows = cubic_weights(grids[:, 0], trained[0], grid[0])
  columns = cubic_weights(grids[:, 1], trained[1], grid[1])
  exact = jax.lax.Precision.HIGHEST
  x = jnp.einsum('bis,std->bitd', rows, x, precision=exact)
  x = jnp.einsum('bjt,bitd->bijd', columns, x, precision=exact)
  return x.reshape(-1, grid[0] * grid[1], x.shape[-1])


def cubic_weights(
  lengths: Int[Array, 'b'], source: int, target: int
) -> Float[Array, 'b target source']:
  """Matrices that resize `source` numbers to each of `lengths` numbers.

  Bicubic along one axis, as `torch.nn.functional.interpolate` with
  align_corners=False: edges repeated, no antialiasing.

  Args:
    lengths: how many numbers each is resized to.
    source: how many there are.
    target: rows of the matrices; those from a length on are meaningless.
  """
  scale = source / lengths[:, None]
  places = (jnp.arange(target) + 0.5) * scale - 0.5
  first = jnp.floor(places)
  taps = jnp.arange(-1, 3)
  distance = jnp.abs((places - first)[..., None] - taps)
  index = first.astype(jnp.int32)[..., None] + taps
  index = jnp.clip(index, 0, source - 1)
  weights = _cubic(distance)[..., None] * jax.nn.one_hot(index, source)
  return weights.sum(axis=2)


def _cubic(d: Float[Array, '...']) -> Float[Array, '...']:
  """Keys' kernel at distances 0 to 2 (IEEE TASSP 29, 1981, eq. 15)."""
  near = ((A + 2) * d - (A + 3)) * d * d + 1
  far = ((A * d - 5 * A) * d + 8 * A) * d - 4 * A
  return jnp.where(d <= 1, near, far)
