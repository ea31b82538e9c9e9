"""Metrics that need the scores of all images, as CLIP's sets are reported."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from groupvit_jax.evaluation import image_metrics, scoring
from groupvit_jax.evaluation.evaluator import Output, PredictFns, Totals
from groupvit_jax.evaluation.image_level import (
  ClassificationEvaluator,
  ImageLevelResult,
  jit_whole,
)


class ScoreEvaluator(ClassificationEvaluator):
  """One of `image_metrics.METRICS`, of the scores of all images.

  A label is an integer, or an array with a value for each class.
  """

  def __init__(self, *arguments: Any, metric: str, **options: Any):
    """Reads nothing yet; arguments of `ClassificationEvaluator`."""
    super().__init__(*arguments, **options)
    self._metric = metric

  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Any]], Output]:
    text = self._text(predict_fns, variables)
    score = _scores(predict_fns['image'], self.mesh)

    def measure(images):
      pixels = self._batch(images)
      label = np.stack([np.atleast_1d(x.label) for _, x in images])
      label = np.pad(label, ((0, len(pixels) - len(label)), (0, 0)))
      label = self._placed(label.astype(np.float32))
      return Output({}, score(variables, text, pixels, label))

    return measure

  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> ImageLevelResult:
    rows = np.stack([totals.rows[i] for i in sorted(totals.rows)])
    scores, labels = np.split(rows, [len(self._tokens)], axis=1)
    labels = labels.astype(np.int32)
    labels = labels[:, 0] if labels.shape[1] == 1 else labels
    share = image_metrics.METRICS[self._metric](scores, labels)
    counts = {'images': len(rows)}
    return ImageLevelResult({self._metric: share}, counts, *totals[2:])


@functools.lru_cache(maxsize=64)
def _scores(
  image_fn: Callable[..., Any], mesh: Mesh | None
) -> Callable[..., Any]:
  """Compiled: the scores of a batch, and its labels behind them."""

  def score(variables, text, images, label):
    scores = scoring.similarity(image_fn(variables, images), text)
    return jnp.concatenate([scores, label], axis=1)

  return jit_whole(score, mesh)
