"""Zero-shot segmentation: pixels get groups, and so their words.

The released inference, every step an option: `naming` gives groups their words,
and `segmentation_evaluator` measures it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from groupvit_jax.evaluation import resize, scoring
from groupvit_jax.evaluation.config import SegmentConfig


def segment_scores(
  regions: Mapping[str, Any],
  text: Float[Array, 'c *s e'],
  scale: Float[Array, ''] | float | int,
  size: tuple[int, int],
  config: SegmentConfig = SegmentConfig(),
) -> Float[Array, 'b H W k']:
  """Scores of every class at every pixel; k = c, or 1 + c with background.

  Args:
    regions: what predict_fns['regions'] returns: image, embeddings, stages.
    text: unit embeddings of the classes, background left out.
    scale: the learned temperature (already exponentiated).
    size: (H, W) in pixels, the network's input size in the released protocol.
    config: see `SegmentConfig`.

  Returns:
    Scores; the background's is 1 where it wins and 0 elsewhere.
  """
  scores = scoring.region_scores(regions, text, scale, config)
  maps = resize.final_maps(regions)
  if config.one_hot:
    pixels = resize.take_groups(scores, resize.pixel_groups(maps, size))
  else:
    pixels = jnp.einsum(
      'bhwg,bgc->bhwc',
      resize.resize_maps(maps, size),
      scores,
      precision=jax.lax.Precision.HIGHEST,
    )
  if config.background_threshold is None:
    return pixels
  return with_background(pixels, config, background_limit(scores, config))


def segment(
  regions: Mapping[str, Any],
  text: Float[Array, 'c *s e'],
  scale: Float[Array, ''] | float | int,
  size: tuple[int, int],
  config: SegmentConfig = SegmentConfig(),
  output_size: tuple[int, int] | None = None,
) -> Int[Array, 'b H W']:
  """A class per pixel.

  Args:
    regions: what predict_fns['regions'] returns: image, embeddings, stages.
    text: unit embeddings of the classes, background left out.
    scale: the learned temperature (already exponentiated).
    size: (h, w) at which pixels are scored, the network's input size.
    config: see `SegmentConfig`.
    output_size: (H, W) of the labels; scores are enlarged to it bilinearly.
      None means `size`.

  Returns:
    int32 classes, 0 being the background if the config has one.
  """
  if config.one_hot and output_size in (None, size):
    # The same labels without a score per pixel and class: name the groups,
    # then look the pixels up.
    scores = scoring.region_scores(regions, text, scale, config)
    if config.background_threshold is not None:
      scores = with_background(scores, config)
    names = scores.argmax(-1).astype(jnp.int32)
    groups = resize.pixel_groups(resize.final_maps(regions), size)
    return resize.take_groups(names[..., None], groups)[..., 0]
  scores = segment_scores(regions, text, scale, size, config)
  scores = resize.resize_maps(scores, output_size or size)
  return scores.argmax(-1).astype(jnp.int32)


def background_limit(
  scores: Float[Array | np.ndarray, 'b g c'], config: SegmentConfig
) -> Float[Array | np.ndarray, 'b']:
  """The score below which a pixel of each window is background.

  Released: t = min(threshold, the best score in that window).

  Args:
    scores: of every group, from `scoring.group_scores`; of numpy or jax.
    config: with a threshold.
  """
  best = scores.max((1, 2))
  xp = scores.__array_namespace__()
  limit = xp.full_like(best, config.background_threshold)
  return xp.minimum(limit, best) if config.relative_threshold else limit


def with_background(
  scores: Float[Array | np.ndarray, 'b *n c'],
  config: SegmentConfig,
  limit: Float[Array | np.ndarray, 'b'] | None = None,
) -> Float[Array | np.ndarray, 'b *n k']:
  """Scores with the background's before them: k = 1 + c.

  Args:
    scores: of every group (b g c) or of every pixel (b h w c), of numpy or jax:
      device and host obey one rule.
    config: with a threshold.
    limit: from `background_limit`; None computes it from `scores`, which are
      then those of the groups.

  Returns:
    Scores; see `SegmentConfig.constant_background` for the first.
  """
  xp = scores.__array_namespace__()
  limit = background_limit(scores, config) if limit is None else limit
  limit = limit.reshape(-1, *[1] * (scores.ndim - 1))
  if config.constant_background:
    column = xp.broadcast_to(limit, (*scores.shape[:-1], 1))
  else:
    column = scores.max(-1, keepdims=True) < limit
  return xp.concat([column.astype(scores.dtype), scores], axis=-1)
