"""What is background: rules beside the one threshold of the released code.

A softmax over the classes asked for cannot say "none of them": its scores
depend on how many are asked, and a wrong class may be certain for want of
another. The rules here compare a group with something of its own: a threshold
of its best class, by score or by cosine, or what the model has learned.

They refuse groups rather than add a class: a refused group keeps the order of
its scores, but below any threshold, and becomes background by the threshold
that is there. So nothing that works with scores has to know of them.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

# What the scores of a refused group are multiplied by (cosines, above their
# floor of -1, where 1e-9 would be lost to rounding), and the global threshold
# between those and all others: with 171 classes the best score is above 3e-5.
_QUIET, _QUIET_COSINES = 1e-9, 1e-2
LOWEST = 1e-6


def refuse(
  scores: Float[Array, 'b g c'],
  values: Float[Array, 'b g c'],
  least: Float[Array, 'c'] | Float[Array, 'b g 1'],
  *,
  relative: bool,
  floor: float,
) -> Float[Array, 'b g c']:
  """Quiets the groups whose best class is below what it needs.

  Args:
    scores: of every group.
    values: what is compared: the scores, or cosines.
    least: the value that each class needs, or each group.
    relative: the group that is nearest to being accepted always is, as the
      released code lowers its threshold to the best score of the picture.
    floor: the lowest score that there is (0, of cosines -1).

  Returns:
    Scores; those of refused groups are next to `floor`, in the same order.
  """
  best = scores.argmax(-1, keepdims=True)
  margin = jnp.take_along_axis(values - least, best, axis=-1)
  accepted = margin >= 0
  if relative:
    accepted |= margin >= margin.max(1, keepdims=True)
  quiet = _QUIET_COSINES if floor < 0 else _QUIET
  return jnp.where(accepted, scores, floor + (scores - floor) * quiet)


def check_count(count: int, classes: int) -> None:
  """Raises ValueError for neither one threshold nor one for each class.

  Args:
    count: of thresholds.
    classes: how many there are without the background.
  """
  if count not in (1, classes):
    raise ValueError(
      f'class_thresholds has {count} numbers for {classes} classes (the '
      'background has none); give one for each, or a single one.'
    )


def per_class(
  thresholds: Sequence[float], classes: int, padded: bool
) -> Float[Array, 'c']:
  """A threshold for each of `classes`.

  Args:
    thresholds: one for all, or one for each.
    classes: c.
    padded: whether there may be more classes than thresholds, which only fill
      up and get none.

  Raises:
    ValueError: there are as many thresholds as no list of classes has.
  """
  count = len(thresholds)
  if count == 1:
    return jnp.full(classes, thresholds[0], jnp.float32)
  if count > classes or not padded:
    check_count(count, classes)
  values = jnp.asarray(thresholds, jnp.float32)
  return jnp.pad(values, (0, classes - count))
