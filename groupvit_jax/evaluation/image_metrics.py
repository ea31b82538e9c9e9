"""Metrics of CLIP's image-level data sets, from the scores of all images.

Which set is reported by which metric: Radford et al. 2021, table 9.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

Scores = Float[np.ndarray, 'n c']


def accuracy(scores: Scores, labels: Int[np.ndarray, ' n']) -> float:
  """Share of images whose highest score is their label's."""
  return float((scores.argmax(1) == labels).mean())


def mean_per_class(scores: Scores, labels: Int[np.ndarray, ' n']) -> float:
  """Mean over the classes that occur of the accuracy within each."""
  right = scores.argmax(1) == labels
  return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def mean_top1_top5(scores: Scores, labels: Int[np.ndarray, ' n']) -> float:
  """Mean of top-1 and top-5 accuracy (Kinetics700)."""
  own = np.take_along_axis(scores, labels[:, None], 1)
  # Ties go to the lower class, as argmax has it.
  classes = np.arange(scores.shape[1])
  before = (scores == own) & (classes < labels[:, None])
  rank = ((scores > own) | before).sum(1)
  return float(((rank < 1).mean() + (rank < 5).mean()) / 2)


def roc_auc(scores: Scores, labels: Int[np.ndarray, ' n']) -> float:
  """Area under the ROC curve of class 1 against class 0; ties count half.

  Raises:
    ValueError: not two classes, or only one of them occurs.
  """
  if scores.shape[1] != 2 or len(np.unique(labels)) != 2:
    raise ValueError('ROC AUC needs two classes that both occur')
  margin = scores[:, 1] - scores[:, 0]
  _, ranks, counts = np.unique(margin, return_inverse=True, return_counts=True)
  # The mean rank of equal values, from 1.
  mean_rank = np.cumsum(counts) - (counts - 1) / 2
  positive = labels == 1
  m, n = positive.sum(), (~positive).sum()
  total = mean_rank[ranks][positive].sum()
  return float((total - m * (m + 1) / 2) / (m * n))


def map_11_point(scores: Scores, labels: Int[np.ndarray, 'n c']) -> float:
  """Mean over classes of 11-point average precision (VOC 2007).

  The mean, over recalls 0, .1, ..., 1, of the highest precision at that recall
  or more (the development kit of VOC 2007).

  Args:
    scores: of every class.
    labels: 1 where the class is in the image, -1 where it is not, 0 where the
      image does not count for the class (difficult).
  """
  found = []
  for column, label in zip(scores.T, labels.T, strict=True):
    counted = label != 0
    order = np.argsort(-column[counted], kind='stable')
    positive = (label[counted] > 0)[order]
    if not positive.any():
      continue
    hits = np.cumsum(positive)
    recall = hits / positive.sum()
    precision = hits / np.arange(1, len(hits) + 1)
    points = [
      precision[recall >= level - 1e-12].max(initial=0)
      for level in np.linspace(0, 1, 11)
    ]
    found.append(np.mean(points))
  return float(np.mean(found))


# By the names that `benchmarks.label_sets` gives them.
METRICS: Mapping[str, Callable[..., float]] = {
  'accuracy': accuracy,
  'mean_per_class': mean_per_class,
  'mean_top1_top5': mean_top1_top5,
  'roc_auc': roc_auc,
  'map_11_point': map_11_point,
}
