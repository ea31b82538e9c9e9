"""What is counted of a labelled set, and the figures it gives."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import numpy as np

from groupvit_jax import metrics
from groupvit_jax.evaluation import oracle

# A group wins if it holds at least this share of all pixels.
WINS = 0.01


@flax.struct.dataclass
class SegmentationCounts:
  """What one batch adds to the figures (clu's merge protocol).

  Attributes:
    confusion: predictions against truth.
    oracle: the same with every group named by its majority class.
    usage: [g] sum over pictures of each group's share of the pixels.
    used: sum over pictures of the effective number of groups.
    recall: sum over pictures of the recall of their classes by the pooled
      embedding.
    images: number of pictures with at least one counted pixel.
  """

  # Any: JAX rebuilds pytrees with placeholders that are not arrays.
  confusion: Any
  oracle: Any
  usage: Any
  used: Any
  recall: Any
  images: Any

  def merge(self, other: 'SegmentationCounts') -> 'SegmentationCounts':
    """The counts of two disjoint sets of pictures."""
    return SegmentationCounts(
      confusion=self.confusion.merge(other.confusion),
      oracle=self.oracle.merge(other.oracle),
      usage=self.usage + other.usage,
      used=self.used + other.used,
      recall=self.recall + other.recall,
      images=self.images + other.images,
    )


@dataclasses.dataclass(frozen=True)
class SegmentationResult:
  """Everything one evaluation measured, on the host.

  Attributes:
    class_names: c names, in the order of the matrices, as they are shown.
    background: whether class 0 is the background.
    label_groups: named subsets of class indices.
    confusion_matrix: int64 [c, c], rows truth, columns prediction.
    oracle_confusion_matrix: the same under oracle labels.
    group_usage: [g] mean share of a picture's pixels that each group holds.
    groups_per_image: mean effective number of groups of a picture.
    image_recall: mean recall of a picture's classes by its pooled embedding,
      read off as many as are true.
    images: how many pictures counted.
  """

  class_names: tuple[str, ...]
  background: bool
  label_groups: Mapping[str, tuple[int, ...]]
  confusion_matrix: np.ndarray
  oracle_confusion_matrix: np.ndarray
  group_usage: np.ndarray
  groups_per_image: float
  image_recall: float
  images: int

  def figures(self) -> Iterator[tuple[str, float]]:
    """(name, figure) pairs; shares in 0..1; absent classes are left out."""
    truth, best = self.confusion_matrix, self.oracle_confusion_matrix
    yield 'miou', metrics.miou(truth)
    yield 'pixel_accuracy', metrics.pixel_accuracy(truth)
    yield 'mean_accuracy', metrics.mean_accuracy(truth)
    yield 'oracle_miou', metrics.miou(best)
    yield 'image_recall', self.image_recall
    # Named and defined as losses/assignment.py does for the training batches,
    # but counted in pixels.
    usage = self.group_usage
    yield 'groups_in_use', float(oracle.effective_number(usage))
    yield 'groups_winning', float((usage >= WINS).sum())
    yield 'groups_per_image', self.groups_per_image
    yield 'largest_share', float(usage.max())
    for name, classes in self.label_groups.items():
      yield from _occurring(f'miou_{name}', metrics.miou(truth, classes))
      yield from _occurring(f'oracle_miou_{name}', metrics.miou(best, classes))
    for name, value in zip(self.class_names, metrics.iou(truth), strict=True):
      yield from _occurring(f'iou/{name}', float(value))
    yield 'images', float(self.images)


def _occurring(name: str, value: float) -> Iterator[tuple[str, float]]:
  if not np.isnan(value):
    yield name, value
