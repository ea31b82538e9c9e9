"""Pixel-adaptive refinement: scores flow to neighbours of the same colour.

PAMR (Araslanov & Roth 2020, arXiv 2005.08104, section 3.3), with the constants
of its code (visinf/1-stage-wseg `models/mods/pamr.py`), as TCL applies it.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)

# Offsets of the eight neighbours, in units of the dilation.
_AROUND = tuple(
  (y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)
)
# Constants of the published code: weight and floor of the standard deviation.
_SHARE, _EPSILON = 0.1, 1e-8


@functools.partial(jax.jit, static_argnames=('iterations', 'dilations'))
def pamr(
  rgb: Float[Array, 'b H W 3'],
  scores: Float[Array, 'b H W k'],
  valid: Bool[Array, 'b H W'],
  *,
  iterations: int = ITERATIONS,
  dilations: tuple[int, ...] = DILATIONS,
) -> Float[Array, 'b H W k']:
  """Averages scores over neighbours, each by the likeness of its colour.

  A neighbour's weight is the softmax, over all neighbours at all dilations, of
  -|difference| / (.1 deviation), the mean over the channels; the deviation is
  that of the pixel's neighbourhood. The edge of an image is repeated outwards.

  Args:
    rgb: colours, in any unit.
    scores: of every class at every pixel.
    valid: the pixels of every image, a rectangle in the top left corner of
      its padded shape.
    iterations: how often scores flow.
    dilations: distances in pixels.

  Returns:
    Scores; those beyond an image repeat its edge. Where the scores of a pixel
    sum to one they still do.
  """
  sizes = jnp.stack([valid.any(2).sum(1), valid.any(1).sum(1)], axis=1)
  reach = max(dilations)
  size = scores.shape[1], scores.shape[2]
  weights = _weights(_extended(rgb, sizes, reach), dilations, size)

  def step(_, scores):
    around = _neighbours(_extended(scores, sizes, reach), dilations, scores)
    total = sum(weights[..., i : i + 1] * x for i, x in enumerate(around))
    return jnp.asarray(total, scores.dtype)

  return jax.lax.fori_loop(0, iterations, step, scores)


def _weights(
  rgb: Float[Array, 'b _h _w 3'],
  dilations: tuple[int, ...],
  size: tuple[int, int],
) -> Float[Array, 'b H W p']:
  """The share that a pixel takes of each of its neighbours."""
  centre = _shifted(rgb, (0, 0), max(dilations), size)
  around = _neighbours(rgb, dilations, centre)
  count = len(around) + len(dilations)  # the pixel itself, at every dilation
  mean = (sum(around) + len(dilations) * centre) / count
  squares = sum(jnp.square(x - mean) for x in around)
  squares += len(dilations) * jnp.square(centre - mean)
  deviation = jnp.sqrt(squares / (count - 1))
  unit = _EPSILON + _SHARE * deviation
  logits = [-(jnp.abs(x - centre) / unit).mean(-1) for x in around]
  return jax.nn.softmax(jnp.stack(logits, axis=-1), axis=-1)


def _neighbours(
  extended: Array, dilations: tuple[int, ...], centre: Array
) -> list[Array]:
  """The pixels around each pixel, one array for each direction and distance."""
  return [
    _shifted(
      extended,
      (y * dilation, x * dilation),
      max(dilations),
      (centre.shape[1], centre.shape[2]),
    )
    for dilation in dilations
    for y, x in _AROUND
  ]


def _shifted(
  extended: Array, by: tuple[int, int], reach: int, size: tuple[int, int]
) -> Array:
  rows, columns = (
    slice(reach + step, reach + step + side)
    for step, side in zip(by, size, strict=True)
  )
  return extended[:, rows, columns]


def _extended(
  x: Float[Array, 'b H W k'], sizes: Int[Array, 'b 2'], reach: int
) -> Float[Array, 'b _h _w k']:
  """Images padded by `reach` pixels; the edge of each is repeated."""

  def places(side, lengths):
    last = jnp.maximum(lengths - 1, 0)[:, None]
    return jnp.clip(jnp.arange(-reach, side + reach), 0, last)

  rows = places(x.shape[1], sizes[:, 0])
  columns = places(x.shape[2], sizes[:, 1])
  return jax.vmap(lambda x, rows, columns: x[rows][:, columns])(
    x, rows, columns
  )
