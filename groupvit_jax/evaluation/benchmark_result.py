"""What one evaluation of a benchmark found, and its figures."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from groupvit_jax import metrics
from groupvit_jax.evaluation import boundary
from groupvit_jax.evaluation.oracle import JACCARD_UNIT


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
  """Everything that was counted, on the host.

  Attributes:
    class_names: c names, in the order of the matrices, as they are shown.
    background: whether class 0 is the background.
    confusion_matrix: int64 c c, rows truth, columns prediction.
    images: pictures that counted.
    skipped: (name, reason) of those that could not be used.
    seconds: all that it took, earlier attempts included.
    given_background_confusion_matrix: the same, had the truth told which pixels
      are background; None without one.
    oracle_confusion_matrix: the same, had the truth named every group.
    jaccard: int64 2 c, by true class: windows that show it, and the sum of the
      best group's Jaccard index in hundred-thousandths.
    boundary: int64 3 c, pixels in both bands along borders, in the truth's, in
      the prediction's.
    blank: pictures none of whose pixels count.
  """

  class_names: tuple[str, ...]
  background: bool
  confusion_matrix: np.ndarray
  images: int
  skipped: tuple[tuple[str, str], ...] = ()
  seconds: float = 0.0
  given_background_confusion_matrix: np.ndarray | None = None
  oracle_confusion_matrix: np.ndarray | None = None
  jaccard: np.ndarray | None = None
  boundary: np.ndarray | None = None
  blank: int = 0

  @property
  def miou(self) -> float:
    """Mean IoU over the classes that truth or prediction has, in 0..1."""
    return metrics.miou(self.confusion_matrix)

  @property
  def best_group_jaccard(self) -> float:
    """Mean Jaccard index of the best group over classes and windows.

    The background is no object and is left out. NaN if nothing was counted.
    """
    count, total = self.jaccard[:, int(self.background) :].sum(1)
    return float(total / JACCARD_UNIT / count) if count else float('nan')

  def figures(self) -> Iterator[tuple[str, float]]:
    """(name, figure) pairs; shares in 0..1; absent classes are left out."""
    truth = self.confusion_matrix
    yield 'miou', self.miou
    yield 'pixel_accuracy', metrics.pixel_accuracy(truth)
    yield 'mean_accuracy', metrics.mean_accuracy(truth)
    yield 'frequency_weighted_iou', metrics.frequency_weighted_iou(truth)
    if self.boundary is not None:
      by_class = boundary.iou(self.boundary)
      yield 'boundary_miou', metrics.mean_of_present(by_class)
    if self.oracle_confusion_matrix is not None:
      yield 'oracle_miou', metrics.miou(self.oracle_confusion_matrix)
    if self.given_background_confusion_matrix is not None:
      given = self.given_background_confusion_matrix
      yield 'given_background_miou', metrics.miou(given)
    if self.jaccard is not None:
      yield from _present('best_group_jaccard', self.best_group_jaccard)
    for name, value in zip(self.class_names, metrics.iou(truth), strict=True):
      yield from _present(f'iou/{name}', float(value))
    yield 'images', float(self.images)
    yield 'skipped', float(len(self.skipped))


def _present(name: str, value: float) -> Iterator[tuple[str, float]]:
  if not np.isnan(value):
    yield name, value
