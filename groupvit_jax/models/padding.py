"""Pictures of several sizes on one static canvas, each as if it were alone.

A picture lies in the top left corner; its size is known at run time only, so
that one compiled program serves every size that fits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

A = -0.75  # of the cubic kernel, as in PyTorch


def token_grids(
  sizes: Int[Array, 'b 2'] | None, patch_size: int, grid: tuple[int, int]
) -> Int[Array, 'b 2'] | None:
  """The (h, w) in whole patches of every picture; None for no sizes.

  Args:
    sizes: (height, width) in pixels of every picture.
    patch_size: side of a square patch in pixels.
    grid: (h, w) in patches of the canvas.

  Returns:
    int32, within 1 and the canvas: sizes are known too late for an error.
  """
  if sizes is None:
    return None
  return jnp.clip(sizes // patch_size, 1, jnp.asarray(grid)).astype(jnp.int32)


def token_mask(
  grids: Int[Array, 'b 2'] | None, grid: tuple[int, int]
) -> Bool[Array, 'b n'] | None:
  """True for the tokens of a picture, False for padding; row-major."""
  if grids is None:
    return None
  rows = jnp.arange(grid[0]) < grids[:, :1]
  columns = jnp.arange(grid[1]) < grids[:, 1:]
  mask = rows[:, :, None] & columns[:, None, :]
  return mask.reshape(-1, grid[0] * grid[1])


def key_mask(
  mask: Bool[Array, 'b n'] | None, before: int = 0, after: int = 0
) -> Bool[Array, 'b 1 1 m'] | None:
  """What `layers.Attention` takes; tokens before and after are all seen."""
  if mask is None:
    return None
  mask = jnp.pad(mask, ((0, 0), (before, after)), constant_values=True)
  return mask[:, None, None, :]


def mean(
  x: Float[Array, 'b n d'],
  mask: Bool[Array, 'b n'] | None,
  keepdims: bool = False,
) -> Float[Array, 'b *_n d']:
  """The mean of a picture's tokens, without its padding."""
  where = None if mask is None else mask[..., None]
  return x.mean(axis=1, keepdims=keepdims, where=where)


def resize_positions_each(
  positions: Float[Array, '1 n d'],
  trained: tuple[int, int],
  grids: Int[Array, 'b 2'],
  grid: tuple[int, int],
) -> Float[Array, 'b m d']:
  """`patches.resize_positions` to every picture's own grid, padded to `grid`.

  A resize is linear and separable: a matrix for the rows, one for the columns.

  Args:
    positions: one vector per token, row-major.
    trained: (h, w) of the grid of `positions`.
    grids: (h, w) that each picture wants.
    grid: (h, w) of the canvas.

  Returns:
    A vector for each token of the canvas; those of padding are finite.
  """
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
    target: rows of the matrices; those from a length on mean nothing.
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
