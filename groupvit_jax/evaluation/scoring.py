"""Words for groups: how well each class names each group of a picture.

Softmaxes, the gate by the picture as a whole, and rules that refuse a group to
every class; `segmentation` brings the words to pixels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from groupvit_jax.evaluation import background as background_rules
from groupvit_jax.evaluation import zero_shot
from groupvit_jax.evaluation.config import SegmentConfig


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
