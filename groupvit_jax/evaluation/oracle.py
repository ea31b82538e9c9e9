"""The oracle: how good the groups are when their labels come from the truth.

Separates the two errors of text-supervised segmentation: where the borders of
the groups are wrong, and where a good group gets the wrong word.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from groupvit_jax import metrics

# Jaccard indices are summed as whole hundred-thousandths, so that no order of
# summing changes them; int32 holds 21,000 windows of a batch.
JACCARD_UNIT = 100_000


def group_class_counts(
  groups: Int[Array, 'b h w'],
  label: Int[Array, 'b h w'],
  num_groups: int,
  num_classes: int,
  mask: Array | None = None,
) -> Int[Array, 'b g c']:
  """How many pixels of each true class each group of each picture holds.

  Args:
    groups: the group of each pixel.
    label: the true class of each pixel; 255 and out of range count nothing.
    num_groups: g.
    num_classes: c.
    mask: b, 0 for padded examples, which count nothing.

  Returns:
    int32 counts.
  """
  return metrics.joint_counts(groups, label, (num_groups, num_classes), mask)


def oracle_confusion(counts: Int[Array, 'b g c']) -> Int[Array, 'c c']:
  """The confusion matrix if every group were named by its majority class.

  Paper, section 4.3 ("oracle labels"; 73.7 mIoU on VOC against 52.3 by text).
  A tie goes to the lower class; a group without counted pixels adds nothing.

  Args:
    counts: from `group_class_counts`.

  Returns:
    int32 [truth, prediction], summed over the batch.
  """
  name = jax.nn.one_hot(counts.argmax(-1), counts.shape[-1], dtype=jnp.int32)
  return jnp.einsum('bgt,bgp->tp', counts, name)


def best_group_jaccard(groups: Int[Array, 'b n g c']) -> Int[Array, '2 c']:
  """How well the best group of each window covers each class that it shows.

  Mask probing (the paper's C.2): the Jaccard index of a true mask and the group
  that fits it best.

  Args:
    groups: pixels of every true class in every group.

  Returns:
    int32: windows that show the class, and the sum of the indices in
    hundred-thousandths.
  """
  true = groups.sum(2, keepdims=True)
  union = groups.sum(3, keepdims=True) + true - groups
  best = _hundred_thousandths(groups, jnp.maximum(union, 1)).max(2)
  shown = true[:, :, 0] > 0
  total = jnp.where(shown, best, 0).sum((0, 1))
  return jnp.stack([shown.sum((0, 1), dtype=jnp.int32), total])


def _hundred_thousandths(
  part: Int[Array, '*n'], whole: Int[Array, '*n']
) -> Int[Array, '*n']:
  """The share of a part, half a unit rounded up.

  By long division in whole numbers: how a float is divided may depend on the
  shape of the batch. Exact up to 2^31 / 10 pixels.
  """
  share, rest = part // whole, part % whole
  unit = 1
  while unit < JACCARD_UNIT:
    share = 10 * share + 10 * rest // whole
    rest = 10 * rest % whole
    unit *= 10
  return share + (2 * rest >= whole)


def usage(counts: Int[Array, 'b g c']) -> Float[Array, 'b g']:
  """The share of each picture's counted pixels that each group holds."""
  pixels = counts.sum(-1).astype(jnp.float32)
  return pixels / jnp.maximum(pixels.sum(-1, keepdims=True), 1.0)


def effective_number(share: Array | np.ndarray) -> Array:
  """exp(entropy) of shares that sum to one over the last axis.

  1 if one group holds everything, g if g groups hold the same.
  """
  share = jnp.asarray(share)
  # xlogy(0, 0) is 0: a group that holds nothing does not count.
  return jnp.exp(-jax.scipy.special.xlogy(share, share).sum(-1))
