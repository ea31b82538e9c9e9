"""Zero-shot segmentation: groups get words, pixels get groups.

The released inference, every step an option; `segmentation_evaluator` measures
it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.evaluation import background as background_rules
from groupvit_jax.evaluation import soft_maps, zero_shot
from groupvit_jax.evaluation.segment_config import SegmentConfig


def group_scores(
  image: Float[Array, 'b e'],
  embeddings: Float[Array, 'b g e'],
  text: Float[Array, 'c *s e'],
  scale: Float[Array, ''] | float | int,
  config: SegmentConfig = SegmentConfig(),
  valid: Bool[Array, 'c'] | None = None,
  background: Float[Array, 'b g'] | None = None,
) -> Float[Array, 'b g c']:
  """How well each class names each group.

  The released rule (NVlabs/GroupViT `group_vit_seg.py`; the paper's text says
  only "highest similarity"): softmax over all classes, times softmax over the
  top-k classes of the picture as a whole.

  Args:
    image: unit embedding of the picture.
    embeddings: unit embeddings of its groups.
    text: unit embeddings of the classes, background left out; with an axis s,
      of each class's synonyms (see `zero_shot.similarity`).
    scale: multiplies the cosines unless the config sets one.
    config: see `SegmentConfig`.
    valid: False for classes that only fill `text` up to a static length: they
      take no part, whatever their embedding. None: all are classes.
    background: regions['background'], if the model has learned one.

  Returns:
    Scores in 0..1 (cosines in -1..1 if both softmaxes are off). A class that
    fills up or is not let through has the lowest, 0 (-1); groups that a rule
    for the background refuses are next to it.

  Raises:
    ValueError: the config's class_thresholds are not of these classes, or its
      learned_background is not there.
  """
  scale = scale if config.scale is None else config.scale
  cosine = zero_shot.similarity(embeddings, text)
  allowed = _gate(image, text, config, valid)[:, None, :]
  scores = _scores(cosine, allowed, scale, config, valid)
  if not config.refuses:
    return scores
  return _refused(scores, cosine, config, valid is not None, background)


def region_scores(
  regions: Mapping[str, Any],
  text: Float[Array, 'c *s e'],
  scale: Float[Array, ''] | float | int,
  config: SegmentConfig = SegmentConfig(),
  valid: Bool[Array, 'c'] | None = None,
) -> Float[Array, 'b g c']:
  """`group_scores` of what predict_fns['regions'] returns."""
  return group_scores(
    regions['image'],
    regions['embeddings'],
    text,
    scale,
    config,
    valid,
    regions.get('background'),
  )


def scored(regions: Mapping[str, Any]) -> dict[str, Any]:
  """What `region_scores` reads of regions; no maps, which are large."""
  names = ('image', 'embeddings', 'background')
  return {name: regions[name] for name in names if name in regions}


def _scores(cosine, allowed, scale, config, valid):
  if not (config.group_softmax or config.gated_softmax):
    return jnp.where(allowed, cosine, -1.0)
  logits = cosine * scale
  if valid is not None:
    logits = jnp.where(valid, logits, -jnp.inf)
  gated = jnp.where(allowed, logits, -jnp.inf)
  score = jnp.where(allowed, 1.0, 0.0)
  if config.group_softmax:
    score = score * jax.nn.softmax(logits, axis=-1)
  if config.gated_softmax:
    score = score * jax.nn.softmax(gated, axis=-1)
  return score


def _refused(scores, cosine, config, padded, background):
  """Scores, quiet where a rule says background (see `background`)."""
  softmax = config.group_softmax or config.gated_softmax
  options = {'relative': config.relative_threshold, 'floor': softmax - 1.0}
  if config.class_thresholds is not None:
    least = background_rules.per_class(
      config.class_thresholds, scores.shape[-1], padded
    )
    values = cosine if config.threshold_cosines else scores
    scores = background_rules.refuse(scores, values, least, **options)
  if config.learned_background:
    if background is None:
      raise ValueError(
        'This model has learned no background; train it with '
        'loss.background_weight, or set learned_background to False.'
      )
    least = background[..., None]
    scores = background_rules.refuse(scores, cosine, least, **options)
  return scores


def _gate(
  image: Float[Array, 'b e'],
  text: Float[Array, 'c *s e'],
  config: SegmentConfig,
  valid: Bool[Array, 'c'] | None,
) -> Bool[Array, 'b c']:
  """True for the classes that the picture as a whole lets through."""
  classes, top_k = text.shape[0], config.top_k
  if top_k is None or top_k >= classes:
    allowed = jnp.ones((image.shape[0], classes), bool)
  else:
    similarity = zero_shot.similarity(image, text)
    if valid is not None:
      similarity = jnp.where(valid, similarity, -jnp.inf)
    if config.background_prompts:
      similarity = similarity.at[:, 0].set(-jnp.inf)
    _, best = jax.lax.top_k(similarity, top_k)
    allowed = jax.nn.one_hot(best, classes, dtype=bool).any(1)
    if config.background_prompts:
      allowed = allowed.at[:, 0].set(True)
  return allowed if valid is None else allowed & valid


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
  scores = region_scores(regions, text, scale, config)
  maps = soft_maps.final_maps(regions)
  if config.one_hot:
    pixels = soft_maps.take_groups(scores, soft_maps.pixel_groups(maps, size))
  else:
    pixels = jnp.einsum(
      'bhwg,bgc->bhwc',
      soft_maps.resize_maps(maps, size),
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
    scores = region_scores(regions, text, scale, config)
    if config.background_threshold is not None:
      scores = with_background(scores, config)
    names = scores.argmax(-1).astype(jnp.int32)
    groups = soft_maps.pixel_groups(soft_maps.final_maps(regions), size)
    return soft_maps.take_groups(names[..., None], groups)[..., 0]
  scores = segment_scores(regions, text, scale, size, config)
  scores = soft_maps.resize_maps(scores, output_size or size)
  return scores.argmax(-1).astype(jnp.int32)


def background_limit(
  scores: Float[Array | np.ndarray, 'b g c'], config: SegmentConfig
) -> Float[Array | np.ndarray, 'b']:
  """The score below which a pixel of each window is background.

  Released: t = min(threshold, the best score in that window).

  Args:
    scores: of every group, from `group_scores`; of numpy or jax.
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
