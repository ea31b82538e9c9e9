"""Linear probes: logistic regression on frozen features.

As in CLIP's paper (Radford et al. 2021, appendix A.3), which uses
scikit-learn's L-BFGS: the same objective in float64, solved on the devices of a
mesh, and the same search over the strength of the L2 penalty. One label an
image makes it multinomial; several, a binary regression for each class.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64, Int

from groupvit_jax import sharding

MAX_STEPS = 1000
# Of the gradient's largest entry, the objective being a mean over examples.
_TOLERANCE = 1e-9
# The grid of C: 8 steps a decade from 1e-6 to 1e6.
_STEPS, _END = 8, 48
_FIRST_STEP = 16
_MEMORY = 10
# Examples are filled up to a multiple: few-shot probes share one program.
_MULTIPLE = 256


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

  def scores(
    self, features: Float[np.ndarray, 'n d']
  ) -> Float64[np.ndarray, 'n c']:
    """Logits."""
    return features.astype(np.float64) @ self.weights + self.bias


def fit(
  features: Float[np.ndarray, 'n d'],
  labels: Int[np.ndarray, 'n *c'],
  num_classes: int,
  strength: float,
  *,
  mesh: Mesh | None = None,
  start: Probe | None = None,
) -> Probe:
  """Minimises `|W|^2 / 2 + C sum cross_entropy`; the bias is not penalised.

  With two classes the penalty is that of scikit-learn's single vector,
  w = W_1 - W_0: |w|^2 / 2. With several labels an example the cross entropy is
  that of every class against the rest, so that each is a probe of its own.

  Args:
    features: one row an example; any floating type, computed in float64.
    labels: 0..num_classes-1, or for each class 1, -1, or 0 where the example
      does not count for it.
    num_classes: c.
    strength: C.
    mesh: splits the examples over its axis; None: one device.
    start: a probe to begin from; the solution is the same.

  Returns:
    The probe; equal to scikit-learn's within 1e-5 in every coefficient.
  """
  missing = -len(labels) % math.lcm(_MULTIPLE, mesh.size if mesh else 1)
  data = tuple(
    np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    for x in (
      # A one behind the features of each, for the bias.
      np.pad(features.astype(np.float64), ((0, 0), (0, 1)), constant_values=1),
      labels.astype(np.int32),
      np.ones(len(labels)),
    )
  )
  weights = np.zeros((features.shape[1] + 1, num_classes))
  if start is not None:
    weights = np.concatenate([start.weights, start.bias[None]])
  with jax.enable_x64(True):
    if mesh is not None:
      data = sharding.shard_batch(data, mesh)
    found, steps = _solve(jnp.asarray(weights), *data, jnp.float64(strength))
    found = np.asarray(found)
  bias = found[-1]
  if labels.ndim == 1:  # which is free up to a constant
    bias = bias - bias.mean()
  return Probe(found[:-1], bias, strength, int(steps))


@jax.jit
def _solve(
  start: Float[Array, '_d c'],
  rows: Float[Array, 'n _d'],
  labels: Int[Array, 'n *c'],
  mask: Float[Array, ' n'],
  strength: Float[Array, ''],
) -> tuple[Any, Int[Array, '']]:
  """Weights with the bias as the last row, and the steps taken."""
  # scikit-learn has one vector for two classes, of twice the norm.
  pair = 2 if labels.ndim == 1 and start.shape[1] == 2 else 1

  def losses(logits):
    if labels.ndim == 1:
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    counted = jnp.where(labels == 0, 0, jax.nn.softplus(-labels * logits))
    return counted.sum(1)

  def objective(weights):
    penalty = pair * jnp.sum(jnp.square(weights[:-1])) / 2
    total = jnp.sum(losses(rows @ weights) * mask) + penalty / strength
    return total / mask.sum()

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
  labels: Int[np.ndarray, 'n *c'],
  shots: int,
  seed: int,
  names: Sequence[str] = (),
) -> Int[np.ndarray, ' m']:
  """Positions of `shots` examples of each class, drawn at random.

  The examples of fewer shots are among those of more, at the same seed. Classes
  are those that occur; of several labels an example all, and one that is drawn
  for several classes is there once. An error gives the class by its name, or
  where there are no `names` by its number.

  Raises:
    ValueError: a class has fewer examples.
  """
  classes = np.unique(labels) if labels.ndim == 1 else range(labels.shape[1])
  chosen = []
  for label in map(int, classes):
    right = labels == label if labels.ndim == 1 else labels[:, label] == 1
    places = np.flatnonzero(right)
    if len(places) < shots:
      name = repr(names[label]) if names else f'class {label}'
      raise ValueError(
        f'{shots} shots need as many training examples of each class, and '
        f'{name} has {len(places)}; ask for fewer shots'
      )
    order = np.random.default_rng([seed, label]).permutation(places)
    chosen.append(order[:shots])
  return np.unique(np.concatenate(chosen))
