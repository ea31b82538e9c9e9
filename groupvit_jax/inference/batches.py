"""Pictures through the network in batches of few shapes.

What the network is given of them, and what it says.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from groupvit_jax.data import images as images_lib
from groupvit_jax.evaluation import segmentation
from groupvit_jax.evaluation import windows as windows_lib
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.inference import field
from groupvit_jax.inference import programs as programs_lib


@dataclasses.dataclass(frozen=True)
class Words:
  """What the network's groups are compared with.

  Attributes:
    text: unit vectors of every class's names, padded.
    valid: which classes are real.
    scale: the learned temperature.
  """

  text: Float[Array, 'c s e']
  valid: Bool[Array, 'c']
  scale: Float[Array, '']


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that is ready for the network.

  Attributes:
    image: its pixels as read.
    scaled: its pixels as the network sees them.
    windows: (top, left, height, width) in `scaled`.
  """

  image: UInt8[np.ndarray, 'h w 3']
  scaled: UInt8[np.ndarray, 'H W 3']
  windows: Sequence[tuple[int, int, int, int]]


def prepare(
  source: images_lib.Source, name: str, plan: windows_lib.Plan
) -> Picture:
  """Opens and scales a picture; see `open_image` for what is refused."""
  image = images_lib.open_image(source, name)
  size = windows_lib.scaled_size(image.shape[:2], plan, name)
  scaled = windows_lib.resize_image(image, size)
  return Picture(image, scaled, windows_lib.windows(size, plan))


def check_batch_size(batch_size: int) -> None:
  """Raises ValueError for a batch without pictures."""
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')


def fields(
  programs: programs_lib.Programs,
  variables: Any,
  pictures: Sequence[Picture],
  words: Words,
  plan: windows_lib.Plan,
  config: SegmentConfig,
  batch_size: int,
) -> list[field.Field]:
  """Scores of pictures; each window goes through the encoder once.

  Args:
    programs: of the model.
    variables: its params and batch_stats.
    pictures: of any sizes.
    words: to name groups by.
    plan: canvases and windows.
    config: the rule.
    batch_size: windows that go together at most.

  Returns:
    A field per picture.
  """
  items = [(p, window) for p in pictures for window in p.windows]
  keys = [windows_lib.canvas(window[2:], plan) for _, window in items]
  # All are dispatched before the first is waited for.
  running = [
    (
      places,
      _run(programs, variables, [items[i] for i in places], key, words, config),
    )
    for key, group in windows_lib.batches(keys, batch_size)
    for places in _for_caches(group, key, plan)
  ]
  found = [None] * len(items)
  for places, result in running:
    result = jax.device_get(result)
    tables, limits = _tables(
      result['scores'][: len(places), :, : int(np.sum(words.valid))], config
    )
    for j, i in enumerate(places):
      window = items[i][1]
      found[i] = _window(result, j, window, tables[j], limits[j], plan, config)
  remaining = iter(found)
  return [
    field.Field(p.scaled.shape[:2], tuple(next(remaining) for _ in p.windows))
    for p in pictures
  ]


def _for_caches(places, canvas, plan):
  step = windows_lib.at_a_time(canvas, plan.patch_size, len(places))
  return [places[i : i + step] for i in range(0, len(places), step)]


def _run(programs, variables, items, canvas, words, config):
  """Starts one batch; `items` are pictures with the window that is meant."""
  count = windows_lib.bucket(len(items))
  crops = [
    p.scaled[top : top + height, left : left + width]
    for p, (top, left, height, width) in items
  ]
  images = windows_lib.paste(crops, canvas, count)
  # What fills the batch up is black, and as large as the canvas.
  sizes = [crop.shape[:2] for crop in crops] + [canvas] * (count - len(crops))
  padded = any(size != canvas for size in sizes)
  sizes = jnp.asarray(sizes, jnp.int32) if padded else None
  result = programs.regions(variables, images, sizes, soft=not config.one_hot)
  result['scores'] = programs_lib.score_groups(
    config,
    result,
    words.text,
    words.valid,
    words.scale,
  )
  return {name: result[name] for name in ('scores', 'pixels', 'stages')}


def _tables(
  scores: Float32[np.ndarray, 'b g c'], config: SegmentConfig
) -> tuple[np.ndarray, list[float | None]]:
  """Scores with the background first, and its limits where pixels decide."""
  none = [None] * len(scores)
  if config.background_threshold is None:
    return scores, none
  if config.one_hot or config.constant_background:
    return segmentation.with_background(scores, config), none
  limit = segmentation.background_limit(scores, config)
  background = np.zeros((*scores.shape[:2], 1), np.float32)
  return np.concatenate([background, scores], -1), limit.tolist()


def _window(result, j, window, table, limit, plan, config):
  top, left, height, width = window
  pixels = result['pixels'][j, :height, :width].copy()
  grid = height // plan.patch_size, width // plan.patch_size
  return field.Window(
    top,
    left,
    table,
    groups=pixels if config.one_hot else None,
    maps=None if config.one_hot else pixels,
    limit=limit,
    # Copies, so that a result does not hold its whole batch.
    stages=tuple(
      maps[j, : grid[0], : grid[1]].copy() for maps in result['stages']
    ),
  )
