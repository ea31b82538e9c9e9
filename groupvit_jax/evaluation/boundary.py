"""Boundary IoU: how good the borders of the classes are.

Cheng et al. 2021 (arXiv 2103.16562); the boundary mIoU of the paper's Table 3.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from groupvit_jax import metrics

# Of the picture's diagonal: the width of the band along a border (their
# section 4.1, for all but very large pictures).
DILATION_RATIO = 0.02


def width(size: tuple[int, int], ratio: float = DILATION_RATIO) -> int:
  """The width in pixels of the band inside the borders of a picture (h, w)."""
  return max(1, round(ratio * math.hypot(*size)))


def bands(
  labels: Int[Array, 'b h w'],
  sizes: Int[Array, 'b 2'],
  widths: Int[Array, 'b'],
) -> Bool[Array, 'b h w']:
  """Pixels within a distance of the border of their own class.

  A pixel belongs to the band if the square around it, `width` to each side,
  holds another class or reaches over the picture's edge: what the erosion of
  every class's mask by a 3 x 3 square, `width` times, takes away, for all
  classes at once.

  Args:
    labels: integers; each value is a class of its own, the ignored one too.
    sizes: (h, w) of the pictures, in the top left corners.
    widths: from `width`.

  Returns:
    The bands; anything beyond the pictures.
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
  strips = _rows(sums, rows[1]) - _rows(sums, rows[0])
  return _columns(strips, columns[1]) - _columns(strips, columns[0])


_rows = jax.vmap(lambda x, index: x[index])
_columns = jax.vmap(lambda x, index: x[:, index])


def counts(
  label: Int[Array, 'b h w'],
  prediction: Int[Array, 'b h w'],
  sizes: Int[Array, 'b 2'],
  widths: Int[Array, 'b'],
  num_classes: int,
  mask: Array,
) -> Int[Array, '3 c']:
  """Pixels in both bands, in the truth's, in the prediction's, by class.

  Pixels whose truth is ignored count nothing, but a border with them is one.

  Args:
    label: the truth; what is out of range is ignored.
    prediction: classes.
    sizes, widths: as in `bands`.
    num_classes: c.
    mask: b, 0 for padding.

  Returns:
    int32, summed over the batch; add those of all batches, then `iou`.
  """
  valid = (label >= 0) & (label < num_classes)
  # Whatever lies in no band goes to one extra class.
  truth, found = (
    jnp.where(bands(x, sizes, widths) & valid, x, num_classes)
    for x in (label, prediction)
  )
  sizes_of_table = num_classes + 1, num_classes + 1
  table = metrics.joint_counts(truth, found, sizes_of_table, mask).sum(0)
  both, rows, columns = jnp.diag(table), table.sum(1), table.sum(0)
  return jnp.stack([both, rows, columns])[:, :num_classes]


def iou(counts: Int[np.ndarray, '3 c']) -> np.ndarray:
  """Boundary IoU per class from summed `counts`; NaN where there is no band."""
  both, truth, found = np.asarray(counts, np.float64)
  union = truth + found - both
  out = np.full(union.shape, np.nan)
  return np.divide(both, union, out=out, where=union > 0)
