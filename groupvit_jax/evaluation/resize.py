"""Bilinear resizing: images on the host, soft maps and scores on the device.

Places and weights are float32 numbers computed once, on the host; all sizes
are known at run time only, so that no size compiles a program anew.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from groupvit_jax import sharding

# Numbers that one step of `upsample` works on: what a CPU's cache holds, and
# what keeps an accelerator busy without filling its memory.
_CPU_STEP, _STEP = 2**20, 2**26
# Output pixels that `upsample_labels` takes or leaves together, and numbers
# that one of its steps works on.
_TILE, _TILES_STEP = (8, 16), 2**17


def resize_image(
  image: UInt8[np.ndarray, 'h w 3'], size: tuple[int, int]
) -> UInt8[np.ndarray, 'H W 3']:
  """Bilinear without antialiasing, in OpenCV's arithmetic.

  The released pipeline scales images by `cv2.resize`, which reads the four
  nearest pixels and rounds weights to 1/2048 (OpenCV, resize.cpp, INTER_LINEAR
  of 8-bit pixels); antialiasing changes what the network sees.
  """
  if image.shape[:2] == tuple(size):
    return image
  top, bottom, down = _opencv_neighbours(image.shape[0], size[0], clip=False)
  left, right, across = _opencv_neighbours(image.shape[1], size[1], clip=True)
  across = across[:, None]

  def row(index):
    # The needed rows first: a photo has many more than are read.
    rows = image[index]
    first, second = rows[:, left], rows[:, right]
    return (first * (2048 - across) + second * across) >> 4  # int32

  down = down[:, None, None]
  upper = (row(top) * (2048 - down)) >> 16
  lower = (row(bottom) * down) >> 16
  return ((upper + lower + 2) >> 2).astype(np.uint8)


def _opencv_neighbours(old, new, clip):
  """Both neighbours of each new pixel, and the second's weight in 2048ths.

  Beyond the edge OpenCV clips the place along x, but along y only the
  neighbours: a row is then averaged with itself, which rounds differently.
  """
  place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
  if clip:
    place = place.clip(0, old - 1)
  first = np.floor(place).astype(np.int32)
  weight = np.rint((place - first) * 2048).astype(np.int32)
  first, second = np.clip([first, first + 1], 0, old - 1)
  return first, second, weight


class Neighbours(NamedTuple):
  """Neighbours of n resized pixels of b images, along one side.

  Attributes:
    first, second: int32 b n, both neighbours.
    weight: float32 b n, the second's.
  """

  first: Any
  second: Any
  weight: Any


def neighbours(
  places: Float[np.ndarray, 'n'], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Both pixels around each place, and the second's weight (float32)."""
  places = np.clip(places, 0, count - 1)
  first = np.floor(places).astype(np.intp)
  weight = (places - first).astype(np.float32)
  return first, np.minimum(first + 1, count - 1), weight


def padded_neighbours(
  sides: Sequence[tuple[int, int]], length: int
) -> Neighbours:
  """Neighbours for several (old, new) sides, padded to a static length.

  New pixels lie where PyTorch has them with align_corners=False.

  Returns:
    Numpy arrays; padding reads the first pixel.
  """
  first = np.zeros((2, len(sides), length), np.int32)
  weight = np.zeros((len(sides), length), np.float32)
  for i, (old, new) in enumerate(sides):
    places = (np.arange(new) + 0.5) * (old / new) - 0.5
    first[0, i, :new], first[1, i, :new], weight[i, :new] = neighbours(
      places, old
    )
  return Neighbours(first[0], first[1], weight)


def lerp(first: Any, second: Any, weight: Any) -> Any:
  """Linear interpolation, always in this order, so that all round alike."""
  return first * (1 - weight) + second * weight


class Upsampling(NamedTuple):
  """From scaled images to the output sizes: neighbours of rows and columns."""

  rows: Neighbours
  columns: Neighbours


def upsampling(
  scaled: Sequence[tuple[int, int]],
  sizes: Sequence[tuple[int, int]],
  shape: tuple[int, int],
) -> Upsampling:
  """Neighbours for b images.

  Args:
    scaled: (h, w) of every scaled image.
    sizes: (H, W) of every output.
    shape: padded shape that holds all outputs.
  """
  rows, columns = (
    padded_neighbours(
      [(old[i], new[i]) for old, new in zip(scaled, sizes, strict=True)],
      shape[i],
    )
    for i in (0, 1)
  )
  return Upsampling(rows, columns)


def upsample(
  scores: Float[Array, 'b h w k'],
  output: Upsampling,
  function: Callable[[Array], Any] = lambda scores: scores,
) -> Any:
  """Resizes bilinearly, some rows at a time, and reduces them by `function`.

  No array of the output's size times its classes is ever held, unless it is
  the result.

  Args:
    scores: at the size that the network saw.
    output: for H rows and W columns.
    function: of resized scores, b r W k, to a tree of arrays b r W *.

  Returns:
    The tree, its arrays b H W *.
  """
  batch, height = output.rows.first.shape
  width = max(output.columns.first.shape[1], scores.shape[2])
  limit = _CPU_STEP if sharding.platform() == 'cpu' else _STEP
  step = max(1, limit // (batch * width * scores.shape[3]))
  blocks = -(-height // step)
  step = -(-height // blocks)

  def block(rows):
    above, below = (take_rows(scores, index) for index in rows[:2])
    between = lerp(above, below, rows.weight[:, :, None, None])
    left, right = (take_columns(between, index) for index in output.columns[:2])
    weight = output.columns.weight[:, None, :, None]
    return function(lerp(left, right, weight))

  if blocks == 1:
    return block(output.rows)
  fill = ((0, 0), (0, blocks * step - height))
  parts = jax.tree.map(
    lambda x: jnp.pad(x, fill).reshape(batch, blocks, step).swapaxes(0, 1),
    output.rows,
  )

  def join(x):
    x = x.swapaxes(0, 1)
    return x.reshape(batch, blocks * step, *x.shape[3:])[:, :height]

  return jax.tree.map(join, jax.lax.map(block, parts))


def upsample_labels(
  pixels: Callable[[Array], Array],
  decided: Any,
  output: Upsampling,
  function: Callable[[Array], Any],
) -> Any:
  """`upsample` to labels, for a CPU: interpolates only at borders of labels.

  Where all four neighbours have one label, the pixel has it too.

  Args:
    pixels: from positions b *, counted row by row, to scores b * k at the size
      that the network saw.
    decided: `function` of the scores of all those pixels, a tree of b h w.
    output: for H rows and W columns.
    function: of scores, b r W k, to a tree of labels b r W.

  Returns:
    The tree, its labels b H W.
  """
  batch, height = output.rows.first.shape
  width = output.columns.first.shape[1]
  down, across = -(-height // _TILE[0]), -(-width // _TILE[1])
  count = down * across
  rows, columns = (
    jax.tree.map(
      lambda x, n=n: jnp.pad(x, ((0, 0), (0, n - x.shape[1])), mode='edge'),
      axis,
    )
    for axis, n in zip(
      output, (down * _TILE[0], across * _TILE[1]), strict=True
    )
  )

  def upsampled(x):  # each output pixel's upper left neighbour, in tiles
    x = take_columns(take_rows(x, rows.first), columns.first)
    x = x.reshape(batch, down, _TILE[0], across, _TILE[1])
    return x.swapaxes(2, 3).reshape(batch, count, *_TILE)

  border = functools.reduce(
    jnp.logical_or, map(_borders, jax.tree.leaves(decided))
  )
  border = upsampled(border).any((2, 3))
  numbers = jnp.where(border, jnp.arange(count), count)  # count: no tile
  k = jax.eval_shape(pixels, jnp.zeros((batch, 1), jnp.int32)).shape[-1]
  step = max(1, min(count, _TILES_STEP // (batch * _TILE[0] * _TILE[1] * k)))
  numbers = jnp.pad(
    jnp.sort(numbers), ((0, 0), (0, -count % step)), constant_values=count
  )
  source = jax.tree.leaves(decided)[0].shape[2]

  def interpolate(i, out):
    tiles = jax.lax.dynamic_slice_in_dim(numbers, i * step, step, 1)
    row = (tiles // across)[..., None] * _TILE[0] + jnp.arange(_TILE[0])
    column = (tiles % across)[..., None] * _TILE[1] + jnp.arange(_TILE[1])
    top, bottom, lower = (take_rows(x, row)[..., None] for x in rows)
    left, right, later = (take_rows(x, column)[..., None, :] for x in columns)
    lower, later = lower[..., None], later[..., None]
    first = lerp(
      pixels(top * source + left), pixels(bottom * source + left), lower
    )
    second = lerp(
      pixels(top * source + right), pixels(bottom * source + right), lower
    )
    scores = lerp(first, second, later).reshape(batch, -1, _TILE[1], k)
    return jax.tree.map(
      lambda out, new: jax.vmap(
        lambda out, tiles, new: out.at[tiles].set(new, mode='drop')
      )(out, tiles, new.reshape(batch, step, *_TILE)),
      out,
      function(scores),
    )

  steps = -(-border.sum(1).max() // step)
  out = jax.lax.fori_loop(
    0, steps, interpolate, jax.tree.map(upsampled, decided)
  )

  def joined(x):
    x = x.reshape(batch, down, across, *_TILE).swapaxes(2, 3)
    return x.reshape(batch, rows.first.shape[1], -1)[:, :height, :width]

  return jax.tree.map(joined, out)


def _borders(labels: Int[Array, 'b h w']) -> Bool[Array, 'b h w']:
  """Whether a pixel and its right, lower and diagonal neighbours differ."""
  below = jnp.concatenate([labels[:, 1:], labels[:, -1:]], 1)
  differ = labels != below
  right = jnp.concatenate([labels[:, :, 1:], labels[:, :, -1:]], 2)
  beyond = jnp.concatenate([below[:, :, 1:], below[:, :, -1:]], 2)
  return differ | (labels != right) | (labels != beyond)


take_rows = jax.vmap(lambda x, index: x[index])
take_columns = jax.vmap(lambda x, index: x[:, index])


def nearest(
  pixels: Shaped[Array, 'b h w'], output: Upsampling
) -> Shaped[Array, 'b H W']:
  """Pixels at the output sizes, each the nearest one."""
  y, x = (
    jnp.where(axis.weight < 0.5, axis.first, axis.second) for axis in output
  )
  return take_columns(take_rows(pixels, y), x)


def resize_maps(
  maps: Float[Array, 'b h w g'],
  sizes_in: Int[Array, 'b 2'],
  sizes_out: Int[Array, 'b 2'],
  shape: tuple[int, int],
) -> Float[Array, 'b H W g']:
  """Resizes maps bilinearly, each image's in the top left corner.

  As PyTorch with align_corners=False and no antialias, by one matrix for the
  rows and one for the columns.

  Args:
    maps: on a static grid; what lies beyond `sizes_in` is not read.
    sizes_in: (h, w) of every image's own grid, at least 1.
    sizes_out: (h, w) wanted of it, at least 1.
    shape: (H, W) of the result.

  Returns:
    Maps of `sizes_out` in the top left corner, zero beyond.
  """
  height, width = maps.shape[1:3]
  inside = (jnp.arange(height) < sizes_in[:, :1])[:, :, None] & (
    jnp.arange(width) < sizes_in[:, 1:]
  )[:, None, :]
  maps = jnp.where(inside[..., None], maps, 0)  # NaN times zero is NaN
  rows = _matrices(sizes_in[:, 0], sizes_out[:, 0], height, shape[0])
  columns = _matrices(sizes_in[:, 1], sizes_out[:, 1], width, shape[1])
  exact = jax.lax.Precision.HIGHEST
  maps = jnp.einsum('byh,bhwg->bywg', rows, maps, precision=exact)
  return jnp.einsum('bxw,bywg->byxg', columns, maps, precision=exact)


def _matrices(
  lengths_in: Int[Array, 'b'],
  lengths_out: Int[Array, 'b'],
  source: int,
  target: int,
) -> Float[Array, 'b target source']:
  """Matrices of a linear resize along one axis, edges repeated."""
  last = lengths_in[:, None] - 1
  scale = lengths_in / lengths_out
  place = (jnp.arange(target) + 0.5) * scale[:, None] - 0.5
  place = jnp.clip(place, 0, last)
  first = jnp.floor(place).astype(jnp.int32)
  second = jnp.minimum(first + 1, last)
  share = (place - first)[..., None]
  index = jnp.arange(source)
  weights = (first[..., None] == index) * (1 - share)
  weights += (second[..., None] == index) * share
  wanted = jnp.arange(target) < lengths_out[:, None]
  return weights * wanted[..., None]
