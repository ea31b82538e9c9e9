"""Soft maps of groups: from the token grid to pixels, and what pixels look up.

Enlarging comes before deciding, as released, which gives smooth borders between
tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def final_maps(regions: Mapping[str, Any]) -> Float[Array, 'b h w g']:
  """The maps that go with the embeddings: those of the last grouping stage.

  Args:
    regions: what predict_fns['regions'] returns.

  Returns:
    Soft assignment maps on the token grid.

  Raises:
    ValueError: for a model that does not group.
  """
  if not regions['stages']:
    raise ValueError(
      "predict_fns['regions'] returned no maps (stages is empty): this model "
      'does not group. Give the evaluator a grouping, such as '
      "grouping=grouping_baselines.make('kmeans')."
    )
  return regions['stages'][-1]


def pixel_maps(
  regions: Mapping[str, Any],
  canvas: tuple[int, int],
  sizes: Int[Array, 'b 2'] | None = None,
  *,
  soft: bool = False,
) -> Array:
  """The groups of all pixels that the network saw.

  Args:
    regions: what predict_fns['regions'] returns.
    canvas: (H, W) in pixels of the pictures it was given.
    sizes: (h, w) of each in the canvas's top left corner, as it was given;
      None if all fill it.
    soft: return the share of every group instead of the strongest group.

  Returns:
    b H W g shares, or b H W groups (uint8 if that is enough). Beyond `sizes`
    they mean nothing.
  """
  maps = final_maps(regions)
  if sizes is None:
    maps = resize_maps(maps, canvas)
  else:
    maps = resize_maps_to(maps, regions['grids'], sizes, canvas)
  if soft:
    return maps
  small = jnp.uint8 if maps.shape[-1] <= 256 else jnp.int32
  return maps.argmax(-1).astype(small)


def pixel_groups(
  maps: Float[Array, 'b h w g'], size: tuple[int, int]
) -> Int[Array, 'b H W']:
  """The strongest group of each pixel: soft maps enlarged, then argmax.

  Enlarging before deciding gives smooth borders between tokens.

  Args:
    maps: soft assignment maps on the token grid, composed across stages.
    size: (H, W) in pixels.

  Returns:
    int32 group indices.
  """
  return resize_maps(maps, size).argmax(-1).astype(jnp.int32)


def take_groups(values: Array, groups: Int[Array, 'b h w']) -> Array:
  """values b g k, looked up at each pixel's group: b h w k."""
  batch, height, width = groups.shape
  flat = jnp.take_along_axis(
    values, groups.reshape(batch, -1, 1), axis=1, mode='clip'
  )
  return flat.reshape(batch, height, width, -1)


def resize_maps(
  maps: Float[Array, 'b h w g'], size: tuple[int, int]
) -> Float[Array, 'b H W g']:
  """Bilinear, as PyTorch with align_corners=False and no antialias."""
  if maps.shape[1:3] == size:
    return maps
  shape = (maps.shape[0], *size, maps.shape[3])
  return jax.image.resize(maps, shape, method='linear', antialias=False)


def resize_maps_to(
  maps: Float[Array, 'b h w g'],
  sizes_in: Int[Array, 'b 2'],
  sizes_out: Int[Array, 'b 2'],
  canvas: tuple[int, int],
) -> Float[Array, 'b H W g']:
  """`resize_maps` of pictures in the top left corner of a canvas, each its own.

  The sizes are known at run time only, so that one compiled program serves
  all; a resize is a matrix for the rows and one for the columns.

  Args:
    maps: on a static grid; what lies beyond `sizes_in` is not read.
    sizes_in: (h, w) of every picture's own grid, at least 1.
    sizes_out: (h, w) wanted of it, at least 1.
    canvas: (H, W) of the result.

  Returns:
    Maps of `sizes_out` in the top left corner, zero beyond.
  """
  height, width = maps.shape[1:3]
  inside = (jnp.arange(height) < sizes_in[:, :1])[:, :, None] & (
    jnp.arange(width) < sizes_in[:, 1:]
  )[:, None, :]
  maps = jnp.where(inside[..., None], maps, 0)  # NaN times zero is NaN
  rows = _linear_weights(sizes_in[:, 0], sizes_out[:, 0], height, canvas[0])
  columns = _linear_weights(sizes_in[:, 1], sizes_out[:, 1], width, canvas[1])
  exact = jax.lax.Precision.HIGHEST
  maps = jnp.einsum('byh,bhwg->bywg', rows, maps, precision=exact)
  return jnp.einsum('bxw,bywg->byxg', columns, maps, precision=exact)


def _linear_weights(
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
  one_hot = jax.nn.one_hot
  weights = one_hot(first, source) * (1 - share)
  weights += one_hot(second, source) * share
  wanted = jnp.arange(target) < lengths_out[:, None]
  return jnp.where(wanted[..., None], weights, 0)


# Scores at a picture's own size: enlarged bilinearly, then compared.
#
# The places and weights are computed once, on the host, and both the host and
# the device mix in the same order, so that both find the same labels.

# Numbers that one step works on: what a CPU's cache holds, and what keeps an
# accelerator busy without filling its memory.
_CPU_STEP, _STEP = 2**20, 2**26


class Taps(NamedTuple):
  """Where enlarged pixels of b pictures lie between old ones, along one side.

  Attributes:
    first, second: int32 b n, both neighbours.
    weight: float32 b n, the second's.
  """

  first: Any
  second: Any
  weight: Any


def taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Both neighbours of each new pixel, and the second's weight (float32).

  As PyTorch places them with align_corners=False.
  """
  return neighbours((np.arange(new) + 0.5) * (old / new) - 0.5, old)


def neighbours(
  places: Float[np.ndarray, 'n'], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Both pixels around each place, and the second's weight (float32)."""
  places = np.clip(places, 0, count - 1)
  first = np.floor(places).astype(np.intp)
  weight = (places - first).astype(np.float32)
  return first, np.minimum(first + 1, count - 1), weight


def mix(first: Any, second: Any, weight: Any) -> Any:
  """The values in between; always in this order, so that all round alike."""
  return first * (1 - weight) + second * weight


def padded_taps(sides: Sequence[tuple[int, int]], length: int) -> Taps:
  """`taps` of several pictures, filled up to a static length.

  Args:
    sides: (old, new) of each picture.
    length: at least every `new`.

  Returns:
    Numpy arrays; what fills up reads the first pixel.
  """
  first = np.zeros((2, len(sides), length), np.int32)
  weight = np.zeros((len(sides), length), np.float32)
  for i, (old, new) in enumerate(sides):
    first[0, i, :new], first[1, i, :new], weight[i, :new] = taps(old, new)
  return Taps(first[0], first[1], weight)


def by_rows(
  function: Callable[[Array], Any],
  scores: Float[Array, 'b h w k'],
  rows: Taps,
  columns: Taps,
) -> Any:
  """Enlarges some rows at a time and asks `function` about them.

  Nothing of the size of the enlarged picture times its classes is ever held.

  Args:
    function: of enlarged scores, b r W k, to a tree of arrays b r W.
    scores: at the size that the network saw.
    rows, columns: from `padded_taps`, for H rows and W columns.

  Returns:
    The tree, its arrays b H W.
  """
  batch, height = rows.first.shape
  width = max(columns.first.shape[1], scores.shape[2])
  limit = _CPU_STEP if jax.default_backend() == 'cpu' else _STEP
  step = max(1, limit // (batch * width * scores.shape[3]))
  blocks = -(-height // step)
  step = -(-height // blocks)

  def block(part):
    above, below = (_rows(scores, index) for index in part[:2])
    mixed = mix(above, below, part.weight[:, :, None, None])
    left, right = (_columns(mixed, index) for index in columns[:2])
    return function(mix(left, right, columns.weight[:, None, :, None]))

  if blocks == 1:
    return block(rows)
  fill = ((0, 0), (0, blocks * step - height))
  parts = jax.tree.map(
    lambda x: jnp.pad(x, fill).reshape(batch, blocks, step).swapaxes(0, 1),
    rows,
  )

  def join(x):
    x = x.swapaxes(0, 1)
    return x.reshape(batch, blocks * step, *x.shape[3:])[:, :height]

  return jax.tree.map(join, jax.lax.map(block, parts))


_rows = jax.vmap(lambda scores, index: scores[index])
_columns = jax.vmap(lambda scores, index: scores[:, index])
