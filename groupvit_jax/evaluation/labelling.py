"""Step 3, `label`: scores of regions and their maps to a class per pixel.

Maps are upsampled to the pixels that the network saw, scores are averaged where
windows overlap, upsampled to any size, and then compared, as released.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped

from groupvit_jax import sharding
from groupvit_jax.evaluation import resize, sizes
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions
from groupvit_jax.evaluation.resize import Upsampling
from groupvit_jax.evaluation.scoring import Scores
from groupvit_jax.evaluation.sizes import Shapes

# Windows whose steps stand one after the other in the program, where XLA joins
# them; published protocols have fewer. More of them, as a small stride makes,
# are a loop of so many at a time: else compiling takes minutes.
_AT_A_TIME = 8

# Below any score that matters; a smaller one may be flushed to zero.
_TINY = 1e-37


def scan(
  step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, windows: Any
) -> tuple[Any, Any]:
  """`jax.lax.scan` over windows: for the usual numbers, no loop is left.

  Args:
    step: from the carry and one window to the carry and a result.
    carry: the first one.
    windows: arrays whose first axis are the windows.

  Returns:
    The last carry, and all results.
  """
  if len(jax.tree.leaves(windows)[0]) == 1:
    carry, result = step(carry, jax.tree.map(lambda x: x[0], windows))
    return carry, jax.tree.map(lambda x: x[None], result)
  return jax.lax.scan(step, carry, windows, unroll=_AT_A_TIME)


def pixel_maps(
  regions: Regions,
  window: tuple[int, int],
  *,
  stage: int = -1,
) -> Integer[Array, 'n b h w']:
  """The strongest region of every pixel that the network saw.

  Soft maps are upsampled before the strongest is taken, as released: this gives
  smooth borders between tokens.

  Args:
    regions: of b images in n windows.
    window: (h, w) in pixels, padded.
    stage: whose maps.

  Returns:
    Region indices (uint8 if that is enough). Anything beyond the windows' own
    sizes.
  """

  def step(_, each):
    maps, grids, sizes = each
    maps = resize.resize_maps(maps, grids, sizes, window)
    small = jnp.uint8 if maps.shape[-1] <= 256 else jnp.int32
    return None, maps.argmax(-1).astype(small)

  each = regions.stages[stage], regions.grids, regions.places[..., 2:]
  return scan(step, None, _by_window(each))[1]


def _by_window(tree):
  """Arrays b n * as n b *."""
  return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tree)


class PixelScores(NamedTuple):
  """Scores of the pixels that the network saw, windows merged.

  Only classes that pass the gate somewhere in the image are held.

  Attributes:
    scores: b h w m.
    classes: int b m, the class of each column, ascending.
    left_out: b, the number of real classes that have no column.
    groups: b h w, of one window of hard groups: `scores` are their rows of
      `table`.
    table: b g m.
  """

  scores: Any
  classes: Any
  left_out: Any
  groups: Any = None
  table: Any = None


def merge_windows(
  regions: Regions,
  scores: Scores,
  shapes: Shapes,
  config: SegmentConfig,
  valid: Bool[Array | np.ndarray, 'c'] | None = None,
) -> PixelScores:
  """Scores of every pixel of the scaled images, averaged over windows.

  Args:
    regions: from step 1.
    scores: of the regions.
    shapes: of the images.
    config: reads one_hot, mix_logits, the softmaxes, top_k, and whether there
      is a background threshold.
    valid: see `ClassEmbeddings`.

  Returns:
    Scores, zero beyond an image.
  """
  first = 2 + (config.background_threshold is not None)
  count = scores.classes.shape[-1]
  # What soft maps decide by pixel needs every class.
  top_k = config.top_k if config.one_hot else None
  kept = _kept_classes(scores.classes, top_k, config.floor, first)
  tables = scores.classes
  if kept.shape[1] != count:
    tables = jnp.pad(
      tables, ((0, 0),) * 3 + ((0, 1),), constant_values=config.floor
    )
    tables = jnp.take_along_axis(tables, kept[:, None, None, :], axis=-1)
  real = count if valid is None else valid.sum() + count - valid.shape[0]
  left_out = jnp.broadcast_to(real - kept.shape[1], kept.shape[:1])

  alone = tables.shape[1] == 1
  same = alone and shapes.window == shapes.scaled

  def values(window):
    pixels, grids, places, table, limits = window
    if not config.one_hot:
      # Mixed on the grid, which is the same as at the pixels, and smaller.
      mixed = _mixed(pixels, table, config)
      pixels = resize.resize_maps(mixed, grids, places[:, 2:], shapes.window)
    inside = None
    if not same:
      pixels, inside = place_window(pixels, places, shapes.scaled)
    if config.one_hot:
      found = take(table, pixels)
    else:
      found = _unmixed(pixels, limits, config)
    if alone:
      return found, pixels
    return jnp.where(inside[..., None], found, 0), inside

  each = regions.grids, regions.places, tables, scores.limits
  if config.one_hot:
    each = pixel_maps(regions, shapes.window), *_by_window(each)
  else:
    each = _by_window((regions.stages[-1], *each))
  if alone:
    merged, pixels = values(jax.tree.map(lambda x: x[0], each))
    if not config.one_hot:
      return PixelScores(merged, kept, left_out)
    return PixelScores(merged, kept, left_out, pixels, tables[:, 0])

  def step(carry, window):
    found, inside = values(window)
    total, count = carry
    return (total + found, count + inside.astype(jnp.float32)), None

  found = jax.eval_shape(values, jax.tree.map(lambda x: x[0], each))
  zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in found)
  (total, times), _ = scan(step, zeros, each)
  return PixelScores(total / jnp.maximum(times, 1)[..., None], kept, left_out)


def _kept_classes(
  scores: Float[Array, 'b n g k'], top_k: int | None, floor: float, first: int
) -> Int[Array, 'b m']:
  """The classes that any window of an image lets through, in their order.

  Of 171 classes and two windows the gate leaves ten: nothing of pixels times
  classes is then made of the rest. The first ones always stay, since equals go
  to the first (of all, and of those that are not the background).

  Returns:
    Class indices, ascending; k where there are fewer than m.
  """
  windows, classes = scores.shape[1], scores.shape[3]
  every = jnp.arange(classes)
  if top_k is None or top_k * windows + first >= classes:
    return jnp.broadcast_to(every, (scores.shape[0], classes))
  passed = (scores > floor).any((1, 2)) | (every < first)
  kept = jnp.sort(jnp.where(passed, every, classes))
  return kept[:, : top_k * windows + first]


_look_up = jax.vmap(lambda x, index: x[index])


def place_window(
  window: Array, places: Int[Array, 'b 4'], shape: tuple[int, int]
) -> tuple[Array, Bool[Array, 'b H W']]:
  """A window's pixels (b h w or b h w g) where they lie in the scaled image.

  Returns:
    Its pixels (anything outside of it), and where it is.
  """
  top, left, height, width = places.T
  y = jnp.arange(shape[0]) - top[:, None]
  x = jnp.arange(shape[1]) - left[:, None]
  inside = ((y >= 0) & (y < height[:, None]))[:, :, None] & (
    (x >= 0) & (x < width[:, None])
  )[:, None, :]
  limits = window.shape[1] - 1, window.shape[2] - 1
  pixels = jax.vmap(lambda pixels, y, x: pixels[y][:, x])(
    window, jnp.clip(y, 0, limits[0]), jnp.clip(x, 0, limits[1])
  )
  return pixels, inside


def _mixed(maps, table, config):
  """Scores (or logarithms) on the token grid, b h w k, from the regions'."""
  if _by_logarithm(config):
    table = jnp.log(jnp.maximum(table, _TINY))
  return jnp.einsum(
    'bhwg,bgk->bhwk', maps, table, precision=jax.lax.Precision.HIGHEST
  )


def _by_logarithm(config):
  return config.mix_logits and config.softmaxes  # cosines are logits


def _unmixed(values, limits, config):
  """Scores b h w k of pixels, their background decided pixel by pixel."""
  if _by_logarithm(config):
    power = config.group_softmax + config.gated_softmax
    background = config.background_threshold is not None
    column, logits = values[..., :background], values[..., background:] / power
    odds = jax.nn.softmax(logits, axis=-1) ** power
    values = jnp.concatenate([jnp.exp(column), odds], -1)
  if limits is not None:
    below = values[..., 1:].max(-1) < limits[:, None, None]
    values = values.at[..., 0].set(below.astype(values.dtype))
  return values


def take(
  table: Shaped[Array, 'b g k'], index: Integer[Array, 'b h w']
) -> Shaped[Array, 'b h w k']:
  """Rows of tables, looked up at each pixel."""
  batch, height, width = index.shape
  flat = jnp.take_along_axis(
    table, index.astype(jnp.int32).reshape(batch, -1, 1), axis=1, mode='clip'
  )
  return flat.reshape(batch, height, width, -1)


def best_classes(
  pixels: PixelScores,
  output: Upsampling | None,
  config: SegmentConfig,
  *,
  background: bool = False,
) -> tuple[Int[Array, 'b H W'], Int[Array, 'b H W']]:
  """The best class of every output pixel; the first of equals.

  Args:
    pixels: from `merge_windows`.
    output: from the scaled images to the output sizes; None if they are equal.
    config: reads `final_softmax`.
    background: whether class 0 is the background.

  Returns:
    Labels, and those without the background (equal to the labels, for sets
    without one).
  """

  def best(scores):
    if config.final_softmax:
      scores = _softmax(scores, pixels.left_out, config.floor)
    label = scores.argmax(-1)
    if not background or scores.shape[-1] == 1:
      return label, label
    return label, scores[..., 1:].argmax(-1) + 1

  groups, scores = pixels.groups, pixels.scores
  if output is not None and sharding.platform() != 'cpu':
    labels = resize.upsample(scores, output, best)
  elif groups is None:
    labels = best(scores)
    flat = scores.reshape(len(scores), -1, scores.shape[3])
    if output is not None:
      at = functools.partial(_look_up, flat)
      labels = resize.upsample_labels(at, labels, output, best)
  else:
    labels = jax.tree.map(
      lambda best: _look_up(best[:, 0], groups), best(pixels.table[:, None])
    )
    flat = groups.reshape(len(groups), -1)
    if output is not None:
      labels = resize.upsample_labels(
        lambda index: _look_up(pixels.table, _look_up(flat, index)),
        labels,
        output,
        best,
      )
  return jax.tree.map(lambda index: _look_up(pixels.classes, index), labels)


def _softmax(scores, left_out, floor):
  """Softmax over all classes, those without a column at the lowest score."""
  best = scores.max(-1, keepdims=True)
  odds = jnp.exp(scores - best)
  rest = left_out[:, None, None, None] * jnp.exp(floor - best)
  return odds / (odds.sum(-1, keepdims=True) + rest)


def label(
  regions: Regions,
  scores: Scores,
  shapes: Shapes,
  output: Upsampling | None,
  config: SegmentConfig,
  valid: Bool[ArrayLike, 'c'] | None = None,
) -> Int[Array, 'b H W']:
  """A class per pixel.

  Compiled once per shapes, the few fields of the config that matter here, and
  a bucket of classes.

  Args:
    regions: from step 1.
    scores: from step 2.
    shapes: of the images.
    output: to the output sizes, at a padded shape; None for the size that the
      network saw, for images of one window.
    config: see `SegmentConfig`.
    valid: see `ClassEmbeddings`.

  Returns:
    int32 classes, 0 being the background if the config has one. Anything beyond
    the output sizes.
  """
  kept, classes = _contenders(scores, config)
  rule = _rule(config, top_k=None)
  if config.final_softmax:
    rule = _rule(config, top_k=config.top_k)
  else:
    valid = None  # only the softmax counts the classes that are left out
  return _label(
    _last_stage(regions), kept, shapes, output, rule, classes, valid
  )


def _last_stage(regions):
  return regions._replace(stages=regions.stages[-1:])


def _rule(config, **changes):
  read = (
    'one_hot',
    'mix_logits',
    'group_softmax',
    'gated_softmax',
    'final_softmax',
  )
  threshold = None if config.background_threshold is None else 0.0
  return SegmentConfig(
    background_threshold=threshold,
    **{name: getattr(config, name) for name in read} | changes,
  )


def _contenders(
  scores: Scores, config: SegmentConfig
) -> tuple[Scores, Int[np.ndarray, 'b m']]:
  """Drops classes that win no pixel, whatever is averaged or interpolated.

  Those are never above the best class of some region. Of 171 classes few are
  left, and programs are compiled for few numbers of classes.

  Returns:
    Scores of m classes, and which these are. All of them where a pixel's
    scores are summed, and where pixels decide what is background.
  """
  table = np.asarray(scores.classes)
  count = table.shape[-1]
  index = np.arange(count)
  summed = config.final_softmax or (
    _by_logarithm(config) and not config.one_hot
  )
  if summed or scores.limits is not None:
    return scores, np.broadcast_to(index, (len(table), count))
  kept = []
  for rows in table.reshape(len(table), -1, count):
    best = np.unique(rows.argmax(-1))
    ahead, others = rows[:, best, None], rows[:, None]
    # Equals go to the first.
    never = (ahead > others) | ((ahead == others) & (best[:, None] < index))
    # The first may be the background, and have a threshold in its place.
    kept.append(np.flatnonzero(~never.all(0).any(0) | (index == 0)))
  most = min(count, sizes.bucket(max(map(len, kept)), smallest=8))
  classes = np.full((len(table), most), count)
  for row, own in zip(classes, kept, strict=True):
    row[: len(own)] = own
  fill = ((0, 0),) * 3 + ((0, 1),)
  table = np.pad(table, fill, constant_values=config.floor)
  table = np.take_along_axis(table, classes[:, None, None, :], -1)
  return scores._replace(classes=table), classes


@functools.partial(jax.jit, static_argnames=('shapes', 'config'))
def _label(regions, scores, shapes, output, config, classes, valid):
  pixels = merge_windows(regions, scores, shapes, config, valid)
  labels = best_classes(pixels, output, config)[0]
  return _look_up(jnp.asarray(classes), labels).astype(jnp.int32)


def winning_scores(
  regions: Regions,
  scores: Scores,
  shapes: Shapes,
  output: Upsampling,
  config: SegmentConfig,
) -> Float[Array, 'b H W']:
  """The highest score of every pixel; arguments of `label`."""
  kept, _ = _contenders(
    scores, dataclasses.replace(config, final_softmax=False)
  )
  return _winning(
    _last_stage(regions), kept, shapes, output, _rule(config, top_k=None)
  )


@functools.partial(jax.jit, static_argnames=('shapes', 'config'))
def _winning(regions, scores, shapes, output, config):
  pixels = merge_windows(regions, scores, shapes, config)
  return resize.upsample(pixels.scores, output, lambda scores: scores.max(-1))


def class_scores(
  regions: Regions, scores: Scores, shapes: Shapes, config: SegmentConfig
) -> Float[Array, 'b h w k']:
  """The score of every class at every pixel that the network saw."""
  rule = _rule(config, top_k=None)
  return _class_scores(_last_stage(regions), scores, shapes, rule)


@functools.partial(jax.jit, static_argnames=('shapes', 'config'))
def _class_scores(regions, scores, shapes, config):
  return merge_windows(regions, scores, shapes, config).scores


@functools.partial(jax.jit, static_argnames=('size', 'stage'))
def stage_groups(
  regions: Regions, size: tuple[int, int], stage: int
) -> Int[Array, 'b h w']:
  """The strongest group of each pixel, of images of one window."""
  return pixel_maps(regions, size, stage=stage)[0].astype(jnp.int32)


upsampled = jax.jit(lambda scores, output: resize.upsample(scores, output))
