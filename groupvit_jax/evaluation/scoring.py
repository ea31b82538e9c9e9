"""Step 2, `score`: scores of the classes in each region.

Softmaxes, the gate by the whole image, and the background. A softmax over the
given classes cannot say "none of them": its scores depend on the number of
classes, and a wrong class has a high score where the right one is not given.
So there are other rules than one threshold on scores. They compare a region
with the threshold of its best class, or with its learned background, and add no
class. The scores of a refused region keep their order, below any threshold.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions

# What the scores of a refused region are multiplied by (cosines, above their
# floor of -1, where 1e-9 would be lost to rounding).
_QUIET, _QUIET_COSINES = 1e-9, 1e-2

# The logit of a class that does not compete; finite, for none may compete.
_NEVER = -1e30

# Fields of a config that `score` does not read, or reads as an array.
_UNREAD = {
  name: getattr(SegmentConfig(), name)
  for name in (
    'regroup',
    'regroup_number',
    'regroup_rounds',
    'mix_logits',
    'scale',
    'mode',
    'short_side',
    'long_side',
    'window',
    'stride',
  )
}


class ClassEmbeddings(NamedTuple):
  """The classes that regions are compared with.

  Attributes:
    vectors: c e, unit vectors, the background left out unless it has a prompt;
      or c s e, of the s names of each class.
    logit_scale: multiplies the cosines unless the config sets another
      (exponentiated).
    valid: bool c, False for padding; None if all are classes. Or bool b c, the
      classes that compete in each image; there may be none.
  """

  vectors: Any
  logit_scale: Any
  valid: Any = None


class Scores(NamedTuple):
  """Scores of regions.

  Attributes:
    classes: b n g k; with a background threshold k = 1 + c, and the background
      comes first.
    limits: b n, the score below which a pixel is background, where pixels
      decide that (soft maps); else None.
  """

  classes: Any
  limits: Any = None


def score(
  regions: Regions, classes: ClassEmbeddings, config: SegmentConfig
) -> Scores:
  """Scores every class for every region.

  The released rule (NVlabs/GroupViT `group_vit_seg.py`; the paper's text says
  only "highest similarity"): softmax over all classes, times softmax over the
  top-k classes of the image as a whole. Compiled once per shape and rule; the
  background threshold and the scale are no part of the rule.

  Returns:
    Scores in 0..1 (cosines in -1..1 if both softmaxes are off). A class that is
    padding or does not pass the gate has the lowest, 0 (-1). The background's
    score is 1 where all others are below its threshold, else 0; or the
    threshold (`constant_background`).

  Raises:
    ValueError: the config's class_thresholds are not of these classes, or the
      model has learned no background.
  """
  threshold = config.background_threshold
  rule = dataclasses.replace(
    config,
    background_threshold=None if threshold is None else 0.0,
    **_UNREAD,
  )
  scale = classes.logit_scale if config.scale is None else config.scale
  return _score(
    rule,
    regions._replace(stages=(), grids=None, places=None, tokens=None),
    classes._replace(logit_scale=jnp.float32(scale)),
    jnp.float32(0 if threshold is None else threshold),
  )


@functools.partial(jax.jit, static_argnums=0)
def _score(rule, regions, classes, threshold):
  if classes.valid is not None and classes.valid.ndim == 2:
    classes = classes._replace(valid=classes.valid[:, None])  # b n c
  cosines = similarity(regions.embeddings, classes.vectors)
  allowed = _gate(regions.image, classes, rule)[..., None, :]
  scores = _class_scores(cosines, allowed, classes, rule)
  scores = _refused(scores, cosines, regions.background, classes.valid, rule)
  if rule.background_threshold is None:
    return Scores(scores)
  # Released: the threshold, or the best score of the window if that is lower.
  best = scores.max((-2, -1))
  limits = jnp.full_like(best, threshold)
  if rule.relative_threshold:
    limits = jnp.minimum(limits, best)
  column = jnp.broadcast_to(limits[..., None, None], (*scores.shape[:-1], 1))
  by_pixel = not (rule.one_hot or rule.constant_background)
  if by_pixel:
    column = jnp.zeros_like(column)
  elif not rule.constant_background:
    column = scores.max(-1, keepdims=True) < column
  scores = jnp.concatenate([column.astype(scores.dtype), scores], -1)
  return Scores(scores, limits if by_pixel else None)


def similarity(
  a: Float[Array, '*b e'], classes: Float[Array, 'c *s e']
) -> Float[Array, '*b c']:
  """Cosines of unit vectors, in full float32.

  The default precision of accelerators would err by 1e-3, and the learned
  scale multiplies that by up to 100.

  Args:
    a: unit vectors.
    classes: unit vectors of c classes; or, with one more axis, of s names of
      each. A class is then as near as the nearest of its names: synonyms do not
      compete with each other, and one more never makes its class less likely.

  Returns:
    A cosine per class.
  """
  names = classes.reshape(-1, classes.shape[-1])
  cosines = jnp.einsum(
    '...e,ce->...c', a, names, precision=jax.lax.Precision.HIGHEST
  )
  if classes.ndim == 2:
    return cosines
  return cosines.reshape(*a.shape[:-1], *classes.shape[:2]).max(-1)


def _gate(
  image: Float[Array, '*b e'], classes: ClassEmbeddings, rule: SegmentConfig
) -> Bool[Array, '*b c']:
  """True for the classes that the image as a whole lets through."""
  count, top_k, valid = classes.vectors.shape[0], rule.top_k, classes.valid
  if top_k is None or top_k >= count:
    allowed = jnp.ones((*image.shape[:-1], count), bool)
  else:
    cosines = similarity(image, classes.vectors)
    if valid is not None:
      cosines = jnp.where(valid, cosines, -jnp.inf)
    if rule.background_prompts:
      cosines = cosines.at[..., 0].set(-jnp.inf)
    # By operations that exported programs may hold; the first of equals.
    best = jnp.argsort(-cosines, axis=-1, stable=True)[..., :top_k]
    allowed = (best[..., None] == jnp.arange(count)).any(-2)
    if rule.background_prompts:
      allowed = allowed.at[..., 0].set(True)
  return allowed if valid is None else allowed & valid


def _class_scores(cosines, allowed, classes, rule):
  if not rule.softmaxes:
    return jnp.where(allowed, cosines, -1.0)
  logits = cosines * classes.logit_scale
  if classes.valid is not None:
    logits = jnp.where(classes.valid[..., None, :], logits, _NEVER)
  gated = jnp.where(allowed, logits, _NEVER)
  scores = jnp.where(allowed, 1.0, 0.0)
  if rule.group_softmax:
    scores = scores * jax.nn.softmax(logits, axis=-1)
  if rule.gated_softmax:
    scores = scores * jax.nn.softmax(gated, axis=-1)
  return scores


def _refused(scores, cosines, background, valid, rule):
  """Scores, quiet in the regions that a rule calls background."""
  if rule.class_thresholds is not None:
    least = _per_class(rule.class_thresholds, scores.shape[-1], valid)
    values = cosines if rule.threshold_cosines else scores
    scores = _quieted(scores, values - least, rule)
  if rule.learned_background:
    if background is None:
      raise ValueError(
        'This model has learned no background; train it with '
        'loss.background_weight, or set learned_background to False.'
      )
    scores = _quieted(scores, cosines - background[..., None], rule)
  return scores


def _quieted(
  scores: Float[Array, '*b g c'],
  margins: Float[Array, '*b g c'],
  rule: SegmentConfig,
) -> Float[Array, '*b g c']:
  """Quiets the regions whose best class has a margin below zero."""
  best = scores.argmax(-1, keepdims=True)
  margin = jnp.take_along_axis(margins, best, axis=-1)
  accepted = margin >= 0
  if rule.relative_threshold:
    # As the released code lowers its threshold to the best score of the image.
    accepted |= margin >= margin.max(-2, keepdims=True)
  quiet = _QUIET if rule.softmaxes else _QUIET_COSINES
  return jnp.where(accepted, scores, rule.floor + (scores - rule.floor) * quiet)


def check_thresholds(count: int, classes: int) -> None:
  """Raises ValueError for neither one class threshold nor one for each.

  Args:
    count: of thresholds.
    classes: how many there are without the background.
  """
  if count not in (1, classes):
    raise ValueError(
      f'class_thresholds has {count} numbers for {classes} classes (the '
      'background has none); give one for each, or a single one.'
    )


def _per_class(
  thresholds: Sequence[float], classes: int, valid: Array | None
) -> Float[Array, 'c']:
  """A threshold for each of c classes; padding gets 0."""
  count = len(thresholds)
  if count == 1:
    return jnp.full(classes, thresholds[0], jnp.float32)
  if count > classes or valid is None:
    check_thresholds(count, classes)
  values = jnp.asarray(thresholds, jnp.float32)
  return jnp.pad(values, (0, classes - count))
