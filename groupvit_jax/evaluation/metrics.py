"""Metrics that count under a mask: confusion matrices, IoU, top-k, recall.

Counts are integers, so that a figure never depends on batch size, padding, the
number of devices or processes, or on where a run was interrupted.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Float64, Int

from groupvit_jax import IGNORE
from groupvit_jax.evaluation import resize


def joint_counts(
  first: Int[Array, '*b'],
  second: Int[Array, '*b'],
  sizes: tuple[int, int],
  mask: Array | None = None,
) -> Int[Array, 'b m n']:
  """Counts each pair of values, one table per example.

  Args:
    first: integers, leading axis b; a position counts where it is in
      `[0, sizes[0])`.
    second: integers of the same shape, counted in `[0, sizes[1])`.
    sizes: (m, n).
    mask: b; examples with 0 count nothing.

  Returns:
    int32 tables. Kept per example so that a batch sharded over devices is
    counted where it lies, and only the small tables travel.
  """
  first = first.reshape(first.shape[0], -1)
  second = second.reshape(second.shape[0], -1)
  valid = (first >= 0) & (first < sizes[0])
  valid &= (second >= 0) & (second < sizes[1])
  if mask is not None:
    valid &= mask.astype(bool)[:, None]
  length = sizes[0] * sizes[1]
  # Whatever counts nothing falls into one extra bin, dropped at the end.
  index = jnp.where(valid, first * sizes[1] + second, length)
  counts = jax.vmap(lambda i: jnp.bincount(i, length=length + 1))(index)
  return counts[:, :length].astype(jnp.int32).reshape(-1, *sizes)


def check_labels(label: Int[np.ndarray, '...'], num_classes: int) -> None:
  """Raises ValueError if a label is neither a class nor ignored."""
  wrong = (label != IGNORE) & ((label < 0) | (label >= num_classes))
  if wrong.any():
    raise ValueError(
      f'The ground truth holds label {label[wrong].flat[0]}, but there are '
      f'{num_classes} classes (0 to {num_classes - 1}; {IGNORE} is ignored). '
      'Check that the class list belongs to this data.'
    )


def iou(confusion: ArrayLike) -> Float64[np.ndarray, ' c']:
  """Intersection over union per class; NaN where a class is absent.

  Absent means from labels and predictions, so that 0 / 0 is left out of the
  mean as mmseg's `eval_metrics` leaves it out (nanmean).
  """
  confusion = np.asarray(confusion, np.float64)
  hit = np.diag(confusion)
  return _divide(hit, confusion.sum(0) + confusion.sum(1) - hit)


def miou(confusion: ArrayLike, classes: Sequence[int] | None = None) -> float:
  """Mean IoU over `classes` (all by default) that occur; in 0..1.

  The IoU of a subset is still taken from the whole matrix, so pixels that go
  to classes outside it count against it. NaN if none of them occurs.
  """
  values = iou(confusion)
  return mean_of_present(values if classes is None else values[list(classes)])


def pixel_accuracy(confusion: ArrayLike) -> float:
  """Share of pixels labelled right (mmseg's aAcc), in 0..1."""
  confusion = np.asarray(confusion, np.float64)
  return float(_divide(np.trace(confusion), confusion.sum()))


def frequency_weighted_iou(confusion: ArrayLike) -> float:
  """Mean IoU, every class weighted by its share of the true pixels; in 0..1."""
  confusion = np.asarray(confusion, np.float64)
  pixels = confusion.sum(1)
  weighted = np.where(pixels > 0, pixels * np.nan_to_num(iou(confusion)), 0)
  return float(_divide(weighted.sum(), pixels.sum()))


def mean_accuracy(confusion: ArrayLike) -> float:
  """Mean over the true classes of their recall (mmseg's mAcc), in 0..1."""
  confusion = np.asarray(confusion, np.float64)
  return mean_of_present(_divide(np.diag(confusion), confusion.sum(1)))


def mean_of_present(values: ArrayLike) -> float:
  """The mean of what is not NaN, as mmseg's nanmean; NaN if nothing is."""
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else float('nan')


def _divide(a: Any, b: Any) -> np.ndarray:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def top_k_correct(
  scores: Float[Array, 'b c'], label: Int[Array, 'b'], k: int
) -> Bool[Array, 'b']:
  """Whether the true class is among the k highest scores.

  Ties go to the lower class index, so that constant scores are not a success.

  Args:
    scores: any scores, higher is better.
    label: true classes.
    k: capped at the number of classes.

  Returns:
    One boolean per example.
  """
  _, best = jax.lax.top_k(scores, min(k, scores.shape[-1]))
  return (best == label[:, None]).any(-1)


def recall(
  scores: Float[Array, 'b c'], present: Bool[Array, 'b c']
) -> Float[Array, 'b']:
  """Share of an example's true classes that rank among its best ones.

  As many are read off as are true, so that a perfect ranking, and nothing else,
  gives 1.

  Args:
    scores: any scores, higher is better; ties go to the lower class index.
    present: which classes are true of the example.

  Returns:
    Recall per example; 0 where no class is true (leave those out by a mask).
  """
  # argsort of argsort is the rank; stable, so ties keep the class order.
  rank = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
  true = present.sum(-1, keepdims=True)
  hits = (present & (rank < true)).sum(-1)
  return hits / jnp.maximum(true[:, 0], 1)


# Boundary IoU of Cheng et al. 2021 (arXiv 2103.16562), in the paper's Table 3.
# Width of the band along a border, in shares of the image's diagonal (their
# section 4.1, for all but very large images).
DILATION_RATIO = 0.02


def width(size: tuple[int, int]) -> int:
  """The width in pixels of the band inside the borders of an image (h, w)."""
  return max(1, round(DILATION_RATIO * math.hypot(*size)))


def bands(
  labels: Int[Array, 'b h w'],
  sizes: Int[Array, 'b 2'],
  widths: Int[Array, 'b'],
) -> Bool[Array, 'b h w']:
  """Pixels within a distance of the border of their own class.

  A pixel belongs to the band if the square around it, `width` to each side,
  holds another class or reaches over the image's edge: what the erosion of
  every class's mask by a 3 x 3 square, `width` times, takes away, for all
  classes at once.

  Args:
    labels: integers; each value is a class of its own, the ignored one too.
    sizes: (h, w) of the images, in the top left corners.
    widths: from `width`.

  Returns:
    The bands; anything beyond the images.
  """
  height, width = labels.shape[1:]
  d = widths[:, None]
  y, x = jnp.arange(height)[None], jnp.arange(width)[None]
  over = (y < d) | (y + d >= sizes[:, :1])
  over = over[:, :, None] | ((x < d) | (x + d >= sizes[:, 1:]))[:, None, :]
  across = labels[:, :, 1:] != labels[:, :, :-1]
  down = labels[:, 1:] != labels[:, :-1]
  changes = _window_sums(across, (y - d, y + d + 1), (x - d, x + d))
  changes += _window_sums(down, (y - d, y + d), (x - d, x + d + 1))
  return over | (changes > 0)


def _window_sums(marks, rows, columns):
  """How many marks lie in rows and columns [first, end), by integral images."""
  sums = jnp.cumsum(jnp.cumsum(marks.astype(jnp.int32), 1), 2)
  sums = jnp.pad(sums, ((0, 0), (1, 0), (1, 0)))
  rows = [jnp.clip(index, 0, sums.shape[1] - 1) for index in rows]
  columns = [jnp.clip(index, 0, sums.shape[2] - 1) for index in columns]
  first, end = (resize.take_rows(sums, index) for index in rows)
  first, end = (resize.take_columns(end - first, index) for index in columns)
  return end - first


def counts(
  label: Int[Array, 'b h w'],
  prediction: Int[Array, 'b h w'],
  sizes: Int[Array, 'b 2'],
  widths: Int[Array, 'b'],
  num_classes: int,
  mask: Array,
) -> Int[Array, '3 c']:
  """Pixels in both bands, the ground truth's and the prediction's, by class.

  Pixels with an ignored label do not count, but borders with them are borders.

  Args:
    label: the ground truth; what is out of range is ignored.
    prediction: classes.
    sizes, widths: as in `bands`.
    num_classes: c.
    mask: b, 0 for padding.

  Returns:
    int32, summed over the batch; add those of all batches, then `iou`.
  """
  valid = (label >= 0) & (label < num_classes)
  # Whatever lies in no band goes to one extra class.
  labels, predicted = (
    jnp.where(bands(x, sizes, widths) & valid, x, num_classes)
    for x in (label, prediction)
  )
  sizes_of_table = num_classes + 1, num_classes + 1
  table = joint_counts(labels, predicted, sizes_of_table, mask).sum(0)
  both, rows, columns = jnp.diag(table), table.sum(1), table.sum(0)
  return jnp.stack([both, rows, columns])[:, :num_classes]


def boundary_iou(counts: Int[np.ndarray, '3 c']) -> Float64[np.ndarray, ' c']:
  """Boundary IoU per class from summed `counts`; NaN where there is no band."""
  both, labels, predicted = np.asarray(counts, np.float64)
  return _divide(both, labels + predicted - both)
