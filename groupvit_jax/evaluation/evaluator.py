"""What an evaluator is, and the few steps all of them share.

An evaluator sees pure functions of (variables, inputs), never a model, so the
same one judges a GroupViT, a CLIP ViT and whatever comes later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from groupvit_jax import sharding

PredictFns = Mapping[str, Callable[..., Any]]
Batch = Mapping[str, Any]
BatchesFn = Callable[[], Iterable[Batch]]

# Figures of the evaluators that are not shares in 0..1.
COUNTS = (
  'groups_in_use',
  'groups_winning',
  'groups_per_image',
  'images',
  'captions',
  'skipped',
)

M = TypeVar('M')


@runtime_checkable
class Evaluator(Protocol):
  """Anything with `run`."""

  def run(
    self, predict_fns: PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Yields (name, figure) pairs; shares are in 0..1.

    Args:
      predict_fns: pure functions by name ('image', 'text', 'regions',
        'logit_scale'). Pass the same function objects each time: a new one
        compiles anew.
      variables: the flax dict that they take first.
    """
    ...


def run_all(
  evaluators: Mapping[str, Evaluator], predict_fns: PredictFns, variables: Any
) -> dict[str, float]:
  """Runs every evaluator; figures are named 'evaluator/figure'."""
  return {
    f'{name}/{figure}': value
    for name, evaluator in evaluators.items()
    for figure, value in evaluator.run(predict_fns, variables)
  }


def to_percent(figures: Mapping[str, float]) -> dict[str, float]:
  """The same figures with shares in 0..100, as papers and summary.json say."""
  return {
    name: value if name.rsplit('/', 1)[-1] in COUNTS else 100.0 * value
    for name, value in figures.items()
  }


def place(tree: Any, mesh: Mesh | None) -> Any:
  """Splits host arrays over the mesh; without one, leaves them to jit."""
  return tree if mesh is None else sharding.shard_batch(tree, mesh)


def jit_measure(
  measure: Callable[..., M],
  mesh: Mesh | None,
  static_argnums: int | tuple[int, ...],
) -> Callable[..., M]:
  """Compiles what measures a batch; metrics lie whole on every device."""
  whole = None if mesh is None else sharding.replicated(mesh)
  return jax.jit(measure, static_argnums=static_argnums, out_shardings=whole)


_merge = jax.jit(lambda a, b: a.merge(b))


def measure_all(
  batches_fn: BatchesFn,
  check: Callable[[np.ndarray, np.ndarray], None],
  measure: Callable[[dict[str, Any]], M],
  mesh: Mesh | None,
) -> M:
  """Measures every batch of one pass and merges, on the device.

  Args:
    batches_fn: starts the pass: dicts of image, label and mask (b, 0 for
      padding; all count without it).
    check: takes label and mask on the host; raises ValueError if the labels
      cannot be.
    measure: from a placed batch, always with its three fields, to metrics
      (clu's protocol) of equal type and shape.
    mesh: splits the batches over its axis 'data'.

  Returns:
    The merged metric.

  Raises:
    ValueError: if there are no batches.
  """
  total = None
  for batch in batches_fn():
    label = np.asarray(batch['label'])
    mask = np.asarray(batch.get('mask', np.ones(len(label), np.float32)))
    check(label, mask)
    fields = {'image': batch['image'], 'label': label, 'mask': mask}
    update = measure(place(fields, mesh))
    # Starting from the first update, not from zeros made elsewhere, keeps one
    # kind of array in the loop, hence one compilation.
    total = update if total is None else _merge(total, update)
  if total is None:
    raise ValueError(
      'The evaluation set gave no batches; check that its split is not empty '
      'and that batches_fn() starts a new pass each time it is called.'
    )
  return total
