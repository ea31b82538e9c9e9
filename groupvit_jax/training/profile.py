"""A trace of a few training steps, for Perfetto and XProf."""

import contextlib
import pathlib
from typing import Any

import jax
from absl import logging

WARM_UP = 10  # steps before the trace: compilation, first batches
STEPS = 5  # steps that are traced


class Trace:
  """Traces steps of a run once it has warmed up; a context manager."""

  def __init__(
    self, folder: pathlib.Path | None, step: int, num_steps: int
  ) -> None:
    """Plans the trace.

    Args:
      folder: to write; None for no trace.
      step: at which training begins.
      num_steps: of the run; one with fewer steps is traced at its end.
    """
    self._folder = folder
    self._first = step + 1 + max(1, min(WARM_UP, num_steps - step - STEPS))
    self._last = min(self._first + STEPS - 1, num_steps)
    self._running = False

  def __enter__(self) -> 'Trace':
    return self

  def __exit__(self, *unused: object) -> None:
    if self._running:  # an error within the steps
      jax.profiler.stop_trace()

  def step(self, number: int) -> contextlib.AbstractContextManager:
    """Context to dispatch a step in; steps count from 1."""
    if not self._folder:
      return contextlib.nullcontext()
    if number == self._first:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # it slows the steps down
      jax.profiler.start_trace(
        self._folder, create_perfetto_trace=True, profiler_options=options
      )
      self._running = True
    return jax.profiler.StepTraceAnnotation('train', step_num=number)

  def stop_after(self, number: int, results: Any) -> None:
    """Ends the trace if `number` is its last step; waits for its results."""
    if not (self._running and number == self._last):
      return
    jax.block_until_ready(results)
    jax.profiler.stop_trace()
    self._running = False
    (path,) = sorted(self._folder.rglob('perfetto_trace.json.gz'))[-1:]
    logging.info(
      'trace of steps %d to %d: open %s at https://ui.perfetto.dev, or run '
      '`xprof --logdir %s` (pip install xprof)',
      *(self._first, self._last, path, self._folder),
    )
