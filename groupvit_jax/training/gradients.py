"""Gradients that are not finite, or much larger than usual.

A step whose loss or gradient is not finite changes nothing but its number: the
compiled step keeps parameters, batch statistics and optimizer state as they
were. It counts on the device; here the host checks the values that it logs.
"""

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax import sharding

SPIKE = 10.0  # a norm of so many times the median is one
_REMEMBERED = 100  # logged norms that the median is of
_FEW = 5  # of them are not enough


def if_finite(
  finite: Bool[Array, ''],
  update: Callable[[], Any],
  before: Any,
  mesh: jax.sharding.Mesh,
) -> Any:
  """Result of `update`, or `before` where the gradient is not finite.

  On one CPU device by a branch: XLA does not update in place there what it
  selects from, and AdamW took more than twice as long.
  """
  if sharding.platform() == 'cpu' and mesh.size == 1:
    return jax.lax.cond(finite, update, lambda: before)
  return jax.tree.map(functools.partial(jnp.where, finite), update(), before)


@struct.dataclass
class Skipped(clu_metrics.Metric):
  """Counts steps whose gradient was not finite.

  Attributes:
    steps: all steps.
    total: skipped ones.
    in_a_row: skipped ones since the last that was not.
  """

  steps: Any
  total: Any
  in_a_row: Any

  @classmethod
  def empty(cls) -> 'Skipped':
    """Of no step."""
    return cls(jnp.int32(0), jnp.int32(0), jnp.int32(0))

  @classmethod
  def from_model_output(cls, *, finite: Bool[Array, ''], **_: Any) -> 'Skipped':
    """Of one step."""
    skipped = jnp.int32(~finite)
    return cls(jnp.int32(1), skipped, skipped)

  def merge(self, other: 'Skipped') -> 'Skipped':
    """Of these steps, then those."""
    before = jnp.where(other.in_a_row == other.steps, self.in_a_row, 0)
    return Skipped(
      self.steps + other.steps,
      self.total + other.total,
      other.in_a_row + before,
    )

  def compute(self) -> Int[Array, '3']:
    """The three numbers."""
    return jnp.stack([self.steps, self.total, self.in_a_row])


@struct.dataclass
class Largest(clu_metrics.Metric):
  """The largest finite norm of a gradient, and the step that had it."""

  norm: Any
  step: Any

  @classmethod
  def empty(cls) -> 'Largest':
    """Of no step."""
    return cls(jnp.float32(0), jnp.int32(0))

  @classmethod
  def from_model_output(
    cls,
    *,
    norm: Float[Array, ''],
    finite: Bool[Array, ''],
    step: Int[Array, ''],
    **_: Any,
  ) -> 'Largest':
    """Of one step."""
    return cls(jnp.where(finite, norm, 0), step)

  def merge(self, other: 'Largest') -> 'Largest':
    """The larger of two."""
    larger = other.norm > self.norm
    return Largest(
      jnp.where(larger, other.norm, self.norm),
      jnp.where(larger, other.step, self.step),
    )

  def compute(self) -> Float[Array, '2']:
    """The norm and the step."""
    return jnp.stack([self.norm, self.step.astype(jnp.float32)])


class GradientMonitor:
  """Judges what the step has counted.

  Attributes:
    skipped: skipped steps of the run so far.
    in_a_row: of them, those since the last good step (of this process).
  """

  def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
    """Begins; `rows` of metrics.jsonl are what earlier processes have seen."""
    self.skipped, self.in_a_row = 0, 0
    self._norms: list[float] = []
    for row in rows:
      self.skipped = int(row.get('train/skipped_steps') or self.skipped)
      self._remember(row.get('train/grad_norm'))

  def _remember(self, norm: float | None) -> None:
    if norm is not None and norm == norm:  # of skipped steps alone it is NaN
      self._norms = [*self._norms, norm][-_REMEMBERED:]

  def update(
    self,
    skipped: Int[np.ndarray, '3'],
    largest: Float[np.ndarray, '2'],
    norm: float,
  ) -> str:
    """Takes the steps since the last call.

    Args:
      skipped, largest: as `Skipped` and `Largest` compute them.
      norm: mean norm of the gradients.

    Returns:
      A warning about a norm far above the median of the logged ones, or ''.
    """
    steps, total, in_a_row = skipped.tolist()
    self.in_a_row = in_a_row + (in_a_row == steps) * self.in_a_row
    self.skipped += total
    usual = self._norms
    self._remember(norm)
    if len(usual) < _FEW:
      return ''
    median = statistics.median(usual)
    peak, step = largest.tolist()
    if peak <= SPIKE * median:
      return ''
    return (
      f'step {step:.0f}: the norm of the gradient is {peak:.3g}, '
      f'{peak / max(median, 1e-30):.0f} times its median'
    )
