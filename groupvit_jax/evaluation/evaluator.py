"""What an evaluator is, and the few steps all of them share.

An evaluator sees pure functions of (variables, inputs), never a model, so the
same one judges a GroupViT, a CLIP ViT and whatever comes later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from jax.sharding import Mesh, NamedSharding

from groupvit_jax import sharding

PredictFns = Mapping[str, Callable[..., Any]]
Batch = Mapping[str, Any]
BatchesFn = Callable[[], Iterable[Batch]]

# Figures of the evaluators that are not shares in 0..1.
COUNTS = ('groups_in_use', 'groups_winning', 'groups_per_image', 'images')

M = TypeVar('M')


@runtime_checkable
class Evaluator(Protocol):
  """Anything with `run`."""

  def run(
    self, predict_fns: PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Yields (name, figure) pairs; shares are in 0..1.

    Args:
      predict_fns: pure functions by name ('image', 'text', 'regions', 'scale').
        Pass the same function objects each time: a new one compiles anew.
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


def metric_sharding(mesh: Mesh | None) -> NamedSharding | None:
  """Metrics lie whole on every device; None without a mesh."""
  return None if mesh is None else sharding.replicated(mesh)


_merge = jax.jit(lambda a, b: a.merge(b))


def accumulate(updates: Iterable[M]) -> M:
  """Merges the metrics of the batches, on the device.

  Args:
    updates: metrics (clu's protocol) of equal type and shape.

  Returns:
    Their merged metric.

  Raises:
    ValueError: if there are none.
  """
  total = None
  for update in updates:
    # Starting from the first update, not from zeros made elsewhere, keeps one
    # kind of array in the loop, hence one compilation.
    total = update if total is None else _merge(total, update)
  if total is None:
    raise ValueError(
      'The evaluation set gave no batches; check that its split is not empty '
      'and that batches_fn() starts a new pass each time it is called.'
    )
  return total
