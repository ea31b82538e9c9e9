"""Scores of whole pictures from those of their windows, on the device.

A window tells the group of each of its pixels and a score per group and class;
where windows overlap, scores are averaged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.evaluation import segmentation, soft_maps

# Windows whose steps stand one after the other in the program, where XLA joins
# them; published protocols have fewer. More of them, as a small stride makes,
# are a loop of so many at a time: else compiling takes minutes.
_AT_A_TIME = 8


class Windows(NamedTuple):
  """What the network said of the n windows of b pictures.

  Attributes:
    pixels: groups n b h w, or their shares n b h w g.
    scores: b n g c, without the background.
    places: int32 b n 4: top, left, height and width in the scaled picture.
  """

  pixels: Any
  scores: Any
  places: Any


def scan(
  step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, windows: Any
) -> tuple[Any, Any]:
  """`jax.lax.scan` over windows: of usual many, no loop is left.

  Args:
    step: from what is carried and one window to the same and a result.
    carry: what is carried.
    windows: arrays whose first axis are the windows.

  Returns:
    What is carried in the end, and all results.
  """
  return jax.lax.scan(step, carry, windows, unroll=_AT_A_TIME)


def kept_classes(
  scores: Float[Array, 'b n g c'], top_k: int | None, floor: float
) -> Int[Array, 'b m']:
  """The classes that any window of a picture lets through, in their order.

  Of 171 classes and two windows the gate leaves ten: nothing of pixels times
  classes is then made of the rest. The first two classes always stay, since
  equals go to the first (of all, and of those that are not the background).

  Args:
    scores: of every group; `floor` for classes that did not pass.
    top_k: of the gate; None keeps every class.
    floor: see `naming.group_scores`.

  Returns:
    Class indices, ascending; c where there are fewer than m.
  """
  windows, classes = scores.shape[1], scores.shape[3]
  every = jnp.arange(classes)
  if top_k is None or top_k * windows + 2 >= classes:
    return jnp.broadcast_to(every, (scores.shape[0], classes))
  passed = (scores > floor).any((1, 2)) | (every < 2)
  return jnp.sort(jnp.where(passed, every, classes))[:, : top_k * windows + 2]


def take_classes(
  tables: Float[Array, 'b n g c'], kept: Int[Array, 'b m'], floor: float
) -> Float[Array, 'b n g m']:
  """The columns of the kept classes; `floor` where there is none."""
  padded = jnp.pad(tables, ((0, 0),) * 3 + ((0, 1),), constant_values=floor)
  return jnp.take_along_axis(padded, kept[:, None, None, :], axis=-1)


def backgrounds(
  scores: Float[Array, 'b n g c'], config: segmentation.SegmentConfig
) -> Float[Array, 'b n g 1']:
  """The background's scores, by every window's own limit."""
  # Before any class is left out: the limit may depend on all of them.
  add = jax.vmap(lambda scores: segmentation.with_background(scores, config))
  return add(scores)[..., :1]


def on_canvas(
  window: Array, places: Int[Array, 'b 4'], canvas: tuple[int, int]
) -> tuple[Array, Bool[Array, 'b H W']]:
  """A window's pixels where they lie in the scaled picture.

  Args:
    window: b h w or b h w g.
    places: of the window in each picture.
    canvas: (H, W) that holds every scaled picture.

  Returns:
    Its pixels (anything outside of it), and where it is.
  """
  top, left, height, width = places.T
  y = jnp.arange(canvas[0]) - top[:, None]
  x = jnp.arange(canvas[1]) - left[:, None]
  inside = ((y >= 0) & (y < height[:, None]))[:, :, None] & (
    (x >= 0) & (x < width[:, None])
  )[:, None, :]
  limits = window.shape[1] - 1, window.shape[2] - 1
  pixels = jax.vmap(lambda pixels, y, x: pixels[y][:, x])(
    window, jnp.clip(y, 0, limits[0]), jnp.clip(x, 0, limits[1])
  )
  return pixels, inside


def mean_scores(
  windows: Windows,
  tables: Float[Array, 'b n g m'],
  canvas: tuple[int, int],
  config: segmentation.SegmentConfig,
) -> Float[Array, 'b H W k']:
  """Scores of every pixel of the scaled pictures, averaged over windows.

  Args:
    windows: of each picture.
    tables: their groups' scores; with soft maps and a threshold, without the
      background, which is then decided pixel by pixel.
    canvas: (H, W) that holds every scaled picture.
    config: see `segmentation.SegmentConfig`.

  Returns:
    Scores, zero beyond a picture; with soft maps and a threshold, k counts the
    background too.
  """

  def values(window):
    pixels, inside = on_canvas(window.pixels, window.places, canvas)
    found = _values(pixels, window.tables, window.scores, config)
    return jnp.where(inside[..., None], found, 0), inside

  def step(carry, window):
    found, inside = values(window)
    total, count = carry
    return (total + found, count + inside.astype(jnp.float32)), None

  each = _Each(
    windows.pixels,
    *(jnp.moveaxis(x, 1, 0) for x in (windows.places, windows.scores, tables)),
  )
  first = jax.eval_shape(values, jax.tree.map(lambda x: x[0], each))
  zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in first)
  (total, count), _ = scan(step, zeros, each)
  return total / jnp.maximum(count, 1)[..., None]


class _Each(NamedTuple):
  """What a step takes; the first axis are the windows."""

  pixels: Any
  places: Any
  scores: Any
  tables: Any


def _values(pixels, table, scores, config):
  if pixels.ndim == 3:
    return soft_maps.take_groups(table, pixels.astype(jnp.int32))
  values = jnp.einsum(
    'bhwg,bgc->bhwc', pixels, table, precision=jax.lax.Precision.HIGHEST
  )
  if config.one_hot or config.background_threshold is None:
    return values
  limit = segmentation.background_limit(scores, config)
  return segmentation.with_background(values, config, limit)
