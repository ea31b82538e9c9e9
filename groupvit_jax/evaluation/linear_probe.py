"""Linear probes: multinomial logistic regression on frozen features.

As in CLIP's paper (Radford et al. 2021, appendix A.3), which uses
scikit-learn's L-BFGS: the same objective in float64, solved on the devices of a
mesh, and the same search over the strength of the L2 penalty.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64, Int, Num

from groupvit_jax import sharding

MAX_STEPS = 1000
# Of the gradient's largest entry, the objective being a mean over examples.
_TOLERANCE = 1e-9
# The grid of C: 8 steps a decade from 1e-6 to 1e6.
_STEPS, _END = 8, 48
_FIRST_STEP = 16
_MEMORY = 10


@dataclasses.dataclass(frozen=True)
class Probe:
  """A linear classifier of features.

  Attributes:
    weights, bias: the logits are `features @ weights + bias`.
    strength: C, the inverse of the penalty, as scikit-learn counts it.
    steps: of L-BFGS.
  """

  weights: Float64[np.ndarray, 'd c']
  bias: Float64[np.ndarray, ' c']
  strength: float
  steps: int

  def scores(self, features: Float[np.ndarray, 'n d']) -> np.ndarray:
    """Logits n c."""
    return features.astype(np.float64) @ self.weights + self.bias


def fit(
  features: Float[np.ndarray, 'n d'],
  labels: Int[np.ndarray, ' n'],
  num_classes: int,
  strength: float,
  *,
  mesh: Mesh | None = None,
  start: Probe | None = None,
) -> Probe:
  """Minimises `|W|^2 / 2 + C sum cross_entropy`; the bias is not penalised.

  With two classes the penalty is that of scikit-learn's single vector,
  w = W_1 - W_0: |w|^2 / 2.

  Args:
    features: one row an example; any floating type, computed in float64.
    labels: 0..num_classes-1.
    num_classes: c.
    strength: C.
    mesh: splits the examples over its axis; None: one device.
    start: a probe to begin from; the solution is the same.

  Returns:
    The probe; equal to scikit-learn's within 1e-5 in every coefficient.
  """
  with jax.enable_x64(True):
    data = _placed(features, labels, mesh)
    weights = np.zeros((features.shape[1] + 1, num_classes))
    if start is not None:
      weights = np.concatenate([start.weights, start.bias[None]])
    found, steps = _solve(
      jnp.asarray(weights), *data, jnp.float64(strength), len(labels)
    )
    found = np.asarray(found)
  # The bias is free up to a constant, as are unpenalised directions.
  bias = found[-1] - found[-1].mean()
  return Probe(found[:-1], bias, strength, int(steps))


def _placed(features, labels, mesh):
  """Rows with a one behind them, labels and weights, split over the mesh."""
  ones = np.ones((len(features), 1))
  rows = np.concatenate([features.astype(np.float64), ones], axis=1)
  data = rows, labels.astype(np.int32), np.ones(len(labels))
  if mesh is None:
    return jax.tree.map(jnp.asarray, data)
  missing = -len(labels) % mesh.size
  padded = [np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in data]
  return tuple(sharding.shard_batch(padded, mesh))


@functools.partial(jax.jit, static_argnames='count')
def _solve(
  start: Float[Array, '_d c'],
  rows: Float[Array, 'n _d'],
  labels: Int[Array, ' n'],
  mask: Num[Array, ' n'],
  strength: Float[Array, ''],
  count: int,
) -> tuple[Any, Int[Array, '']]:
  """Weights with the bias as the last row, and the steps taken."""
  # scikit-learn has one vector for two classes, of twice the norm.
  pair = 2 if start.shape[1] == 2 else 1

  def objective(weights):
    logits = rows @ weights
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    penalty = pair * jnp.sum(jnp.square(weights[:-1])) / 2
    return (jnp.sum(losses * mask) + penalty / strength) / count

  solver = optax.lbfgs(memory_size=_MEMORY)
  value_and_grad = optax.value_and_grad_from_state(objective)

  def step(carry):
    weights, state, steps, _ = carry
    value, grad = value_and_grad(weights, state=state)
    updates, state = solver.update(
      grad, state, weights, value=value, grad=grad, value_fn=objective
    )
    weights = optax.apply_updates(weights, updates)
    largest = jnp.abs(optax.tree.get(state, 'grad')).max()
    return weights, state, steps + 1, largest

  def goes_on(carry):
    _, _, steps, largest = carry
    return (steps < MAX_STEPS) & (largest > _TOLERANCE)

  first = start, solver.init(start), jnp.int32(0), jnp.float64(jnp.inf)
  weights, _, steps, _ = jax.lax.while_loop(goes_on, step, first)
  return weights, steps


def search(
  fit_at: Callable[[float, Any], Any], score: Callable[[Any], float]
) -> tuple[float, dict[float, float]]:
  """The paper's search: coarse points, then halves around the best one.

  Starts at 1e-6, 1e-4, ..., 1e6 and halves the interval around the peak until
  the resolution is 8 steps a decade.

  Args:
    fit_at: from C and a probe to start from (or None) to a probe.
    score: of a probe on the validation split; larger is better. Of equal
      scores the smallest C, hence the strongest penalty, wins.

  Returns:
    The best C, and the score of every C that was tried.
  """
  scores: dict[int, float] = {}
  last = None

  def best_of(points: Sequence[int]) -> int:
    nonlocal last
    for point in points:
      if -_END <= point <= _END and point not in scores:
        last = fit_at(10 ** (point / _STEPS), last)
        scores[point] = score(last)
    return max(sorted(scores), key=lambda point: scores[point])

  step = _FIRST_STEP
  best = best_of(range(-_END, _END + 1, step))
  while step > 1:
    step //= 2
    best = best_of([best - step, best + step])
  tried = {10 ** (point / _STEPS): scores[point] for point in sorted(scores)}
  return 10 ** (best / _STEPS), tried


def few_shot(
  labels: Int[np.ndarray, ' n'], shots: int, seed: int
) -> Int[np.ndarray, ' m']:
  """Positions of `shots` examples of each class that occurs, drawn at random.

  The examples of fewer shots are among those of more, at the same seed.

  Raises:
    ValueError: a class has fewer examples.
  """
  chosen = []
  for label in np.unique(labels).tolist():
    places = np.flatnonzero(labels == label)
    if len(places) < shots:
      raise ValueError(
        f'{shots} shots need as many training examples of each class, and '
        f'class {label} has {len(places)}; ask for fewer shots'
      )
    order = np.random.default_rng([seed, label]).permutation(places)
    chosen.append(order[:shots])
  return np.sort(np.concatenate(chosen))
