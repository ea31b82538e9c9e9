"""Metrics that need the scores of all images, as CLIP's sets are reported."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from groupvit_jax.evaluation import (
  classification,
  image_metrics,
  scoring,
  zero_shot,
)
from groupvit_jax.evaluation import evaluator as evaluator_lib


class ScoreEvaluator(classification.ClassificationEvaluator):
  """One of `image_metrics.METRICS`, of the scores of all images.

  A label is an integer, or an array with a value for each class.
  """

  def __init__(self, *arguments: Any, metric: str, **options: Any):
    """Prepares the prompts; arguments of `ClassificationEvaluator`."""
    super().__init__(*arguments, **options)
    self._metric = metric

  def run(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Evaluates and yields (metric, share in 0..1) and ('images', count)."""
    self.resume_state = self._open_state(variables)
    text = zero_shot.embed_tokens(
      predict_fns['text'],
      variables,
      self._tokens,
      normalize_each=self._normalize_each,
    )
    image_fn = predict_fns['image']
    classification.run(
      self._batches_fn(self.resume_state.done),
      lambda batch: self._measure(
        image_fn, variables, text, self._placed(batch)
      ),
      self.resume_state,
    )
    found = self.resume_state.rows
    rows = np.stack([found[i] for i in sorted(found)])
    scores, labels = np.split(rows, [self._num_classes], axis=1)
    labels = labels.astype(np.int32)
    labels = labels[:, 0] if labels.shape[1] == 1 else labels
    yield self._metric, image_metrics.METRICS[self._metric](scores, labels)
    yield 'images', float(len(rows))

  def _check(self, label: np.ndarray, mask: np.ndarray) -> None:
    if label.ndim == 1:  # others have a value for each class
      super()._check(label, mask)

  def _measure_images(
    self, image_fn: Callable[..., Any], variables: Any, text: Array, batch: Any
  ) -> classification.BatchOutput:
    scores = scoring.similarity(image_fn(variables, batch['image']), text)
    label = batch['label'].reshape(len(scores), -1).astype(jnp.float32)
    rows = jnp.concatenate([scores, label], axis=1)
    return classification.BatchOutput(batch['position'], {}, rows)
