"""Zero-shot classification: a picture gets the class whose words it is near.

Top-1 and top-5 accuracy, as the paper reports for ImageNet (appendix C.1).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from groupvit_jax import metrics
from groupvit_jax.evaluation import evaluator as evaluator_lib
from groupvit_jax.evaluation import zero_shot


@flax.struct.dataclass
class _Counts:
  """Right and counted examples, per k."""

  hits: Any  # k int32
  images: Any  # int32

  def merge(self, other: '_Counts') -> '_Counts':
    return _Counts(self.hits + other.hits, self.images + other.images)


class ClassificationEvaluator:
  """Top-k accuracy over a labelled set.

  Compiled once per predict function and batch shape.
  """

  def __init__(
    self,
    batches_fn: evaluator_lib.BatchesFn,
    class_names: Sequence[str],
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    templates: Sequence[str],
    *,
    top_k: Sequence[int] = (1, 5),
    mesh: Mesh | None = None,
  ):
    """Prepares the prompts.

    Args:
      batches_fn: starts one pass: dicts of image (uint8 b h w 3), label
        (integers b) and mask (b, 0 for padding; optional).
      class_names: c names in label order.
      tokenizer: texts -> int32 [n, l].
      templates: prompts with one `{}` each (ImageNet, released: CLIP's seven).
      top_k: each k is reported as top<k>.
      mesh: splits the batches over its axis 'data'.
    """
    self._batches_fn = batches_fn
    self._num_classes = len(class_names)
    self._tokens = zero_shot.tokenize_classes(tokenizer, class_names, templates)
    self._top_k = tuple(top_k)
    self._mesh = mesh
    self._measure = evaluator_lib.jit_measure(
      self._measure_images, mesh, static_argnums=0
    )

  def run(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Evaluates and yields ('top1', share), ..., ('images', count).

    Args:
      predict_fns: 'image' and 'text'.
      variables: their first argument.

    Yields:
      (name, figure); shares in 0..1.

    Raises:
      ValueError: for labels out of range or a set without examples.
    """
    text = zero_shot.embed_tokens(predict_fns['text'], variables, self._tokens)
    counts = evaluator_lib.measure_all(
      self._batches_fn,
      self._check,
      functools.partial(self._measure, predict_fns['image'], variables, text),
      self._mesh,
    )
    images = int(counts.images)
    if not images:
      raise ValueError(
        'Every example of the evaluation set is padding (mask 0); check the '
        'masks that batches_fn() gives.'
      )
    hits = np.asarray(counts.hits)
    for k, right in zip(self._top_k, hits, strict=True):
      yield f'top{k}', int(right) / images
    yield 'images', float(images)

  def _check(self, label: np.ndarray, mask: np.ndarray) -> None:
    real = label[mask.astype(bool)]
    if real.size and not (real.min() >= 0 and real.max() < self._num_classes):
      raise ValueError(
        f'Labels run from {real.min()} to {real.max()}, but there are '
        f'{self._num_classes} classes. Check that the class list belongs to '
        'this data.'
      )

  def _measure_images(
    self, image_fn: Callable[..., Any], variables: Any, text: Array, batch: Any
  ) -> _Counts:
    scores = zero_shot.similarity(image_fn(variables, batch['image']), text)
    label = batch['label'].astype(jnp.int32)
    real = batch['mask'].astype(bool)
    hits = [
      (metrics.top_k_correct(scores, label, k) & real).sum(dtype=jnp.int32)
      for k in self._top_k
    ]
    return _Counts(jnp.stack(hits), real.sum(dtype=jnp.int32))
