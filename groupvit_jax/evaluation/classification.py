"""Zero-shot classification: an image gets the nearest class embedding.

Top-1 and top-5 accuracy, as the paper reports for ImageNet (appendix C.1).
"""

import functools
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from groupvit_jax.evaluation import evaluator as evaluator_lib
from groupvit_jax.evaluation import metrics, scoring, zero_shot
from groupvit_jax.evaluation.resume import ResumeState

# Images from one writing of the resume state to the next: fetching each batch
# at once would keep the device waiting.
_EVERY = 500


# Starts a pass over all images but those at the given positions.
BatchesFn = Callable[[Collection[int]], Iterable[Any]]


class BatchOutput(NamedTuple):
  """Counts and rows of a batch; the arrays may still be on the device.

  Attributes:
    positions: int b, of the images; -1 for padding.
    counts: integers by name, which add up.
    rows: b e, a vector to keep for each image; None for none.
  """

  positions: Any
  counts: Mapping[str, Any]
  rows: Any = None


def run(
  batches: Iterable[Any],
  measure: Callable[[Any], BatchOutput],
  state: ResumeState,
  *,
  every: int = _EVERY,
) -> None:
  """Measures all batches; if interrupted, the state holds the finished ones.

  Args:
    batches: the images that the state does not have.
    measure: starts the computation of a batch.
    state: collects counts and rows.
    every: number of images between two writings of the state.

  Raises:
    ValueError: there is no batch, or no image that counts.
  """
  pending, waiting = [], 0

  def keep():
    nonlocal waiting
    for output in pending:
      state.add(*_fetched(output))
    pending.clear()
    waiting = 0

  came = bool(state.done)
  try:
    for batch in batches:
      came = True
      pending.append(measure(batch))
      waiting += len(pending[-1].positions)
      if waiting >= every:
        keep()
  finally:
    keep()
  if not came:
    raise ValueError(
      'The evaluation set gave no batches; check that its split is not empty '
      'and that batches_fn() starts a new pass each time it is called.'
    )
  if not state.done:
    raise ValueError(
      'No image of the evaluation set counts: every one was skipped, or is '
      'padding (mask 0).'
    )


def _fetched(output):
  """Counts, positions and rows on the host, without padding."""
  positions, counts, rows = jax.device_get(output)
  real = np.asarray(positions) >= 0
  rows = None if rows is None else rows[real]
  return counts, np.asarray(positions)[real].tolist(), rows


class ClassificationEvaluator:
  """Top-k accuracy over a labelled set.

  Compiled once per predict function and batch shape.

  Attributes:
    resume_state: of the last or present pass; None before the first.
  """

  def __init__(
    self,
    batches_fn: BatchesFn,
    class_names: Sequence[str],
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    templates: Sequence[str],
    *,
    top_k: Sequence[int] = (1, 5),
    normalize_each: bool = False,
    mesh: Mesh | None = None,
    open_state: Callable[[Any], ResumeState] = lambda _: ResumeState(),
  ):
    """Prepares the prompts.

    Args:
      batches_fn: starts one pass, but for the positions that it is given:
        dicts of image (uint8 b h w 3), label and position (integers b; the
        position is an image's own) and mask (b, 0 for padding; optional).
      class_names: c names in label order.
      tokenizer: texts -> int32 [n, l].
      templates: prompts with one `{}` each (ImageNet, released: CLIP's seven).
      top_k: each k is reported as top<k>.
      normalize_each: see `embeddings.average_prompts`.
      mesh: splits the batches over its axis 'data'.
      open_state: opens the resume state that belongs to the variables.
    """
    self.resume_state: ResumeState | None = None
    self._open_state = open_state
    self._batches_fn = batches_fn
    self._num_classes = len(class_names)
    self._tokens = zero_shot.tokenize_classes(tokenizer, class_names, templates)
    self._top_k = tuple(top_k)
    self._normalize_each = normalize_each
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
      errors.WorkdirError: the resume state is of another evaluation.
    """
    self.resume_state = self._open_state(variables)
    text = zero_shot.embed_tokens(
      predict_fns['text'],
      variables,
      self._tokens,
      normalize_each=self._normalize_each,
    )
    measure = functools.partial(
      self._measure, predict_fns['image'], variables, text
    )
    run(
      self._batches_fn(self.resume_state.done),
      lambda batch: measure(self._placed(batch)),
      self.resume_state,
    )
    images = int(self.resume_state.counts['images'])
    hits = self.resume_state.counts['hits']
    for k, right in zip(self._top_k, hits, strict=True):
      yield f'top{k}', int(right) / images
    yield 'images', float(images)

  def _placed(self, batch: evaluator_lib.Batch) -> dict[str, Any]:
    """A batch on the device, once its labels are checked."""
    label = np.asarray(batch['label'])
    mask = np.asarray(batch.get('mask', np.ones(len(label), np.float32)))
    self._check(label, mask)
    fields = {
      'image': batch['image'],
      'label': label,
      'position': np.where(mask > 0, batch['position'], -1).astype(np.int32),
    }
    return evaluator_lib.place(fields, self._mesh)

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
  ) -> BatchOutput:
    scores = scoring.similarity(image_fn(variables, batch['image']), text)
    label = batch['label'].astype(jnp.int32)
    real = batch['position'] >= 0
    hits = [
      (metrics.top_k_correct(scores, label, k) & real).sum(dtype=jnp.int32)
      for k in self._top_k
    ]
    counts = {'hits': jnp.stack(hits), 'images': real.sum(dtype=jnp.int32)}
    # Positions come back of all processes, as the counts do.
    return BatchOutput(batch['position'], counts)
