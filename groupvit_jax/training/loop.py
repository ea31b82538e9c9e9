"""The one training loop: data, model, restore, jit; then step, log, eval, save.

It knows a Task and Evaluators, and nothing of GroupViT.
"""

import contextlib
import functools
import math
import os
import signal
import threading
import time
from typing import Any

import jax
import ml_collections
from absl import logging
from clu import parameter_overview

from groupvit_jax import errors, sharding
from groupvit_jax.training import checkpoint, collapse, inputs, results
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import logging as logging_lib
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib

# Turns Ctrl-C and SIGTERM into a request that the training loop can honour.
#
# A pod's scheduler sends SIGTERM before it takes a machine away; both signals
# mean: finish this step, save, leave. A second Ctrl-C leaves at once.


class StopRequest:
  """Context manager; inside it `requested` turns true on SIGINT or SIGTERM."""

  def __init__(self):
    self.requested = False
    self._previous = {}

  def __enter__(self) -> 'StopRequest':
    # Only the main thread may install handlers; elsewhere (a server, a test
    # runner's worker) the owner of the process decides.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *unused):
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous.clear()

  def _handle(self, number, unused_frame):
    if self.requested and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.requested = True
    logging.warning(
      '%s: saving a checkpoint after this step, then leaving (Ctrl-C again '
      'to leave without it)',
      signal.Signals(number).name,
    )


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike,
  base: ml_collections.ConfigDict | None = None,
) -> dict[str, Any]:
  """Trains until `config.num_steps`, evaluating and saving on the way.

  A workdir with a checkpoint of the same config is resumed from it.

  Args:
    config: see `configs/gvit_s.py`.
    workdir: the folder that receives checkpoints, logs, report and summary.
    base: the config without variants and options, so that a run from before an
      option was added is resumed; None refuses it.

  Returns:
    The summary, as written to `workdir/summary.json`.

  Raises:
    WorkdirError: the workdir is not writable, or belongs to another config.
    SourceError: the training data are missing or mostly broken.
    NonFiniteLossError: training diverged.
    Interrupted: after Ctrl-C or SIGTERM, once a checkpoint is saved.
  """
  clock = Clock()
  config = fit_to_hardware(config)
  workdir = checkpoint.claim_workdir(workdir, config, base)
  mesh = sharding.make_mesh()
  with contextlib.ExitStack() as stack:
    data = stack.enter_context(inputs.Inputs(config, mesh))
    task = _make_task(config, data.tokenizer.vocab_size, mesh)
    with errors.explained_as(errors.ConfigError):
      tx, schedule = state_lib.make_optimizer(config)
      state = state_lib.create_state(task, tx, config, mesh)
    checkpoints = checkpoint.Checkpoints(workdir, keep=config.run.keep)
    stack.callback(checkpoints.close)
    restored = checkpoints.restore(state)
    if restored:
      state, meta = restored
      clock.resume(meta)
      logging.info('resumed at step %d of %d', state.step, config.num_steps)
    else:
      count = int(parameter_overview.count_parameters(state.params))
      logging.info('%s: %s parameters', config.task, f'{count:,}')
    log = logging_lib.RunLog(
      workdir,
      resumed_at=int(state.step),
      num_steps=config.num_steps,
      active=jax.process_index() == 0,
    )
    stack.callback(log.close)
    watch = collapse.Watch(
      state_lib.number_of_groups(task, state, config),
      config_lib.flatten(config),
      # As configured: a run cut short to a few steps has not begun to group.
      grace=config.optimizer.warmup_steps,
      rows=log.rows,
    )
    run = Run(config, workdir, mesh, task, data, checkpoints, log, clock, watch)
    run.train(state, tx, schedule)
    return run.finish()


def fit_to_hardware(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns the config with its `cpu` fields in force where only a CPU is."""
  config = config.copy_and_resolve_references()
  changes = config_lib.flatten(config.cpu)
  if jax.default_backend() == 'cpu' and changes:
    config.update(config.cpu)
    logging.warning(
      'no accelerator found, so %s; full size on a CPU takes days: the '
      'configuration for a laptop is --config=configs/gvit_s.py:demo',
      ', '.join(f'{path}={value}' for path, value in changes.items()),
    )
  config.batch_size = sharding.fit_batch_size(config.batch_size)
  return config


def _make_task(config, vocab_size, mesh) -> task_lib.Task:
  if config.task not in task_lib.TASKS:
    raise errors.ConfigError(
      f"unknown task '{config.task}'; choose one of {', '.join(task_lib.TASKS)}"
    )
  with errors.explained_as(errors.ConfigError):
    return task_lib.TASKS[config.task](config, vocab_size, mesh)


class Clock:
  """Wall and training seconds of a run, over all its resumptions."""

  def __init__(self):
    self._started = time.monotonic()
    self._mark = None
    self.train_seconds = 0.0
    self.images = 0

  def resume(self, meta: dict[str, Any]) -> None:
    """Adds what earlier processes of the run have spent."""
    self._started -= meta['wall_seconds']
    self.train_seconds = meta['train_seconds']
    self.images = meta['images']

  @property
  def wall_seconds(self) -> float:
    return time.monotonic() - self._started

  def start(self) -> None:
    """Training begins or goes on; what was before does not count as it."""
    self._mark = time.monotonic()

  def lap(self, images: int) -> float:
    """Counts `images` since the last mark; returns images per second."""
    now = time.monotonic()
    seconds, self._mark = now - self._mark, now
    self.train_seconds += seconds
    self.images += images
    return images / seconds

  def as_meta(self) -> dict[str, Any]:
    return {
      'wall_seconds': self.wall_seconds,
      'train_seconds': self.train_seconds,
      'images': self.images,
    }


class Run:
  """A run under way: steps, logs, evaluates, saves; at the end reports."""

  def __init__(
    self, config, workdir, mesh, task, data, checkpoints, log, clock, watch
  ):
    self._config = config
    self._workdir = workdir
    self._mesh = mesh
    self._task = task
    self._data = data
    self._checkpoints = checkpoints
    self._log = log
    self._clock = clock
    self._watch = watch
    self._evaluators = data.evaluators()
    self._predictor = data.predictor()
    self._snapshots = results.Snapshots(
      workdir, data.pictures(config.run.pictures)
    )

  def train(self, state, tx, schedule):
    """Steps from `state.step` to the last; returns the final state."""
    config, clock = self._config, self._clock
    metrics_class = state_lib.make_train_metrics(self._task, state, config)
    train_step = state_lib.make_train_step(
      self._task, tx, metrics_class, self._mesh
    )
    replicated = sharding.replicated(self._mesh)
    empty = jax.jit(metrics_class.empty, out_shardings=replicated)
    step = logged = int(state.step)
    if self._evaluates_at(step) and not self._log.has('eval', step):
      # The untrained model, or where a run was stopped before it could.
      self.evaluate(state)
    batches = self._data.train_batches(start=step * config.batch_size)
    metrics = empty()
    compiled = False
    with StopRequest() as stop:
      while step < config.num_steps:
        batch = next(batches)
        with jax.transfer_guard('disallow'):
          state, metrics = train_step(state, metrics, batch)
        step += 1
        self._log.tick(step)
        if not compiled:  # the first step compiles; it says nothing of speed
          jax.block_until_ready(metrics)
          compiled, logged = True, step
          clock.start()
        # Read once: a signal from here on is the next step's to honour.
        stopping = stop.requested
        last = step == config.num_steps or stopping
        save = last or step % config.run.checkpoint_every == 0
        if save or step % config.run.log_every == 0:
          self._log_step(step, step - logged, metrics, schedule)
          metrics, logged = empty(), step
        if save:
          self._save(state, step)
        if stopping and step < config.num_steps:
          self._checkpoints.wait()
          raise errors.Interrupted(
            f'stopped at step {step} of {config.num_steps} with everything '
            f'saved in {self._workdir}; the same command goes on from there'
          )
        if self._evaluates_at(step):
          self.evaluate(state)
          clock.start()
    return state

  def _evaluates_at(self, step: int) -> bool:
    first_or_last = step in (0, self._config.num_steps)
    return first_or_last or step % self._config.run.eval_every == 0

  def evaluate(self, state) -> None:
    """Runs every evaluator and takes the pictures of this step."""
    step = int(state.step)
    fns, variables = self._task.predict_fns, state.variables
    figures = {}
    for kind, evaluator in self._evaluators.items():
      if kind == 'segmentation':
        found = evaluator.evaluate(fns, variables)
        figures.update(found.figures())
        if jax.process_index() == 0:
          results.keep(self._workdir, step, found)
      else:
        figures.update(evaluator.run(fns, variables))
    if figures:
      logging.info('step %d: %s', step, results.headline(figures))
      self._record(step, 'eval', figures)
    if self._predictor is not None:
      predict = functools.partial(self._predictor.predict, fns, variables)
      self._snapshots.take(step, predict, self._log)

  def finish(self) -> dict[str, Any]:
    """Writes the report and the summary; returns the summary."""
    spells = self._watch.spells
    summary = results.summarise(self._config, self._log, self._clock, spells)
    if jax.process_index() == 0:
      results.write(
        self._workdir,
        self._config,
        self._data.class_names,
        self._log,
        self._snapshots,
        summary,
        spells,
      )
    return summary

  def _log_step(self, step, num_steps, metrics, schedule) -> None:
    """Logs the averages since the last time; raises where they are NaN."""
    values = {k: float(v) for k, v in metrics.compute().items()}
    if not math.isfinite(values['loss']):
      raise errors.NonFiniteLossError(
        f'the loss is {values["loss"]} at step {step}; the last checkpoint is '
        f'step {self._checkpoints.latest}. Lower optimizer.learning_rate, '
        'lengthen optimizer.warmup_steps, or use dtype=float32'
      )
    values['learning_rate'] = float(schedule(step - 1))
    if num_steps:
      rate = self._clock.lap(num_steps * self._config.batch_size)
      values['images_per_second'] = rate
    values['samples_replaced'] = self._data.replaced
    told = [f'step {step} of {self._config.num_steps}']
    told.append(f'loss {values["loss"]:.3f}')
    if num_steps:
      told.append(f'{rate:.0f} images/s')
    if self._clock.images:  # not before a step without compilation
      images = (self._config.num_steps - step) * self._config.batch_size
      seconds = images * self._clock.train_seconds / self._clock.images
      told.append(f'{_minutes(seconds)} left')
    logging.info('  '.join(told))
    self._record(step, 'train', values)

  def _record(self, step, place, values) -> None:
    """Logs figures, and tells if a collapse begins or ends with them."""
    self._log.scalars(step, {f'{place}/{k}': v for k, v in values.items()})
    spell = self._watch.see(self._log.rows[-1])
    if spell:
      tell = logging.warning if spell.end is None else logging.info
      tell(spell.message)
      self._log.text(step, 'collapse', spell.message)

  def _save(self, state, step) -> None:
    meta = {'position': step * self._config.batch_size}
    self._checkpoints.save(step, state, meta | self._clock.as_meta())


def _minutes(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'
