"""The one training loop: data, model, restore, jit; then step, log, eval, save.

It knows a Task and Evaluators, and nothing of GroupViT.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from clu import parameter_overview

from groupvit_jax import errors, programs, sharding
from groupvit_jax.data import on_device
from groupvit_jax.models import ops
from groupvit_jax.training import (
  checkpoint,
  clip,
  collapse,
  gradients,
  inputs,
  replay,
  results,
  signals,
)
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import initial as initial_lib
from groupvit_jax.training import logging as logging_lib
from groupvit_jax.training import profile as profile_lib
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib
from groupvit_jax.training import workdir as workdir_lib

# Share of the time that a step may wait for data before the log says so.
_MUCH_WAITING = 0.1


def train_and_evaluate(
  config: config_lib.Config,
  workdir: str | os.PathLike,
  base: config_lib.Config | None = None,
  initial: Any = None,
  profile: bool = False,
) -> dict[str, Any]:
  """Trains until `config.num_steps`, evaluating and saving on the way.

  A workdir with a checkpoint of the same config is resumed from it; that of a
  finished run is left as it is.

  Args:
    config: see `configs/gvit_s.py`.
    workdir: the folder that receives checkpoints, logs, report and summary.
    base: the config without variants and options, so that a run from before an
      option was added is resumed; None refuses it.
    initial: the model that `config.init_from` names, as `convert.load_source`
      returns it: training begins with its weights.
    profile: write a trace of a few steps into `workdir/profile`.

  Returns:
    The summary, as written to `workdir/summary.json`.

  Raises:
    ConfigError: a field has a value that cannot be used.
    WorkdirError: the workdir is not writable, or belongs to another config.
    SourceError: the training data are missing or mostly broken.
    NonFiniteLossError: training diverged.
    Interrupted: after Ctrl-C or SIGTERM, once a checkpoint is saved.
  """
  clock = logging_lib.Clock()
  config_lib.check(config)
  config = fit_to_hardware(config)
  workdir = workdir_lib.check(workdir, config, base)
  config = choose_operands(config, workdir_lib.stored_config(workdir))
  if summary := results.finished(workdir, config.num_steps):
    logging.info(
      '%s is a finished run of %d steps and stays as it is; choose another '
      '--workdir to train again',
      workdir,
      config.num_steps,
    )
    return summary
  mesh = sharding.make_mesh(fsdp=config.get('mesh', {}).get('fsdp', 1))
  with contextlib.ExitStack() as stack:
    stack.enter_context(workdir_lib.held(workdir))
    stack.enter_context(workdir_lib.end_recorded(workdir))
    stack.enter_context(workdir_lib.storage_explained(workdir))
    workdir_lib.record_config(workdir, config)
    data = stack.enter_context(inputs.Inputs(config, mesh))
    with errors.explained_as(errors.ConfigError):
      vocab_size = data.tokenizer.vocab_size
      task = task_lib.make(config, vocab_size, mesh)
      tx, schedule = state_lib.make_optimizer(config)
      state = state_lib.create_state(task, tx, config, mesh)
    checkpoints = checkpoint.Checkpoints(workdir, keep=config.run.keep)
    stack.push(lambda kind, *_: kind and checkpoints.abandon())
    restored = checkpoints.restore(state)
    if restored:
      state, meta = restored
      workdir_lib.check_data(
        workdir, meta.get('data'), data.identity, config.run.accept_other_data
      )
      clock.resume(meta)
      data.resume(meta)
    elif config.get('init_from'):
      state = _started(state, config, vocab_size, initial, mesh)
    # Without a checkpoint nothing of an earlier try counts.
    known = int(state.step) if restored else -1
    _announce(config, workdir, state)
    log = logging_lib.RunLog(
      workdir,
      resumed_at=known,
      num_steps=config.num_steps,
      active=jax.process_index() == 0,
      project=config.run.get('wandb', ''),
    )
    stack.callback(log.close)
    monitor = collapse.CollapseMonitor(
      state_lib.number_of_groups(task, state, config),
      config_lib.flatten(config),
      # As configured: a run cut short to a few steps has not begun to group.
      grace=config.optimizer.warmup_steps,
      rows=log.rows,
    )
    watched = gradients.GradientMonitor(log.rows)
    shown = data.evaluation and data.evaluation.report_images(
      config.run.pictures
    )
    regrouped = config.eval.get('regroup', 'none') != 'none'
    snapshots = results.Snapshots(workdir, shown or {}, regrouped=regrouped)
    snapshots.discard_after(known)
    run = Run(
      config=config,
      workdir=workdir,
      mesh=mesh,
      task=task,
      data=data,
      checkpoints=checkpoints,
      log=log,
      clock=clock,
      monitor=monitor,
      gradients=watched,
      snapshots=snapshots,
      profile=profile and jax.process_index() == 0,
    )
    run.train(state, tx, schedule)
    checkpoints.close()
    return run.finish()


def _started(state, config, vocab_size, initial, mesh):
  """The state with the weights of `initial`, before the first step."""
  if initial is None:
    raise errors.ConfigError(
      f'init_from is {config.init_from!r}: pass the model itself, '
      'initial=convert.load_source(config.init_from)'
    )
  normalization = clip.normalization(config)
  mean, std = on_device.NORMALIZATIONS[normalization]
  described = task_lib.architecture(config, vocab_size)
  pixels = {'mean': mean, 'std': std}
  state = initial_lib.start_from(state, described, pixels, initial, mesh)
  return sharding.split(state, mesh)


def fit_to_hardware(
  config: config_lib.Config,
) -> config_lib.Config:
  """Returns the config with its `cpu` fields in force where only a CPU is."""
  config = config.copy_and_resolve_references()
  changes = config_lib.flatten(config.cpu)
  if sharding.platform() == 'cpu' and changes:
    config.update(config.cpu)
    logging.warning(
      'no accelerator found, so %s; full size on a CPU takes days: the '
      'configuration for a laptop is --config=configs/gvit_s.py:demo',
      ', '.join(f'{path}={value}' for path, value in changes.items()),
    )
  config.batch_size = sharding.fit_batch_size(config.batch_size)
  parts = config.get('accumulate', 1)
  if config.batch_size % (parts * jax.device_count()):
    raise errors.ConfigError(
      f'accumulate={parts} does not divide the {config.batch_size} images of a '
      f'batch on {jax.device_count()} devices'
    )
  return config


def choose_operands(
  config: config_lib.Config, stored: Mapping[str, Any] | None
) -> config_lib.Config:
  """Returns the config with `matmul_operands` decided where it is 'auto'.

  Args:
    config: of the run, fitted to the hardware.
    stored: the config of the run that is resumed, whose choice stays, so that
      it goes on bit by bit; None: there is none, and products of the size of
      the training step are timed, in the first process for all.
  """
  if config.matmul_operands != 'auto':
    return config
  if stored is not None:
    chosen = stored.get('matmul_operands', 'float32')
  else:
    side = config.image_size // config.model.patch_size
    width = config.model.width
    rows = config.batch_size // jax.device_count() * side**2
    chosen = sharding.gather(ops.faster_operands(rows, width, 4 * width))[0]
    logging.info('matmul_operands=%s, by a measurement', chosen)
  config = config.copy_and_resolve_references()
  config.matmul_operands = chosen
  return config


def _announce(
  config: config_lib.Config,
  workdir: pathlib.Path,
  state: state_lib.TrainState,
) -> None:
  """Logs what is trained, where, on which devices, and how much."""
  count = int(parameter_overview.count_parameters(state.params))
  logging.info(
    '%s: %s parameters on %d x %s',
    config.task,
    f'{count:,}',
    jax.device_count(),
    jax.devices()[0].device_kind,
  )
  logging.info(
    '%s%s steps of %s images, in %s',
    f'resumed at step {state.step} of ' if state.step else '',
    f'{config.num_steps:,}',
    f'{config.batch_size:,}',
    workdir,
  )


@dataclasses.dataclass(frozen=True)
class Run:
  """A run under way: steps, logs, evaluates, saves; at the end reports."""

  config: config_lib.Config
  workdir: pathlib.Path
  mesh: jax.sharding.Mesh
  task: task_lib.Task
  data: inputs.Inputs
  checkpoints: checkpoint.Checkpoints
  log: logging_lib.RunLog
  clock: logging_lib.Clock
  monitor: collapse.CollapseMonitor
  gradients: gradients.GradientMonitor
  snapshots: results.Snapshots
  profile: bool

  def train(
    self,
    state: state_lib.TrainState,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
  ) -> state_lib.TrainState:
    """Steps from `state.step` to the last; returns the final state."""
    config, clock = self.config, self.clock
    metrics_class = state_lib.make_train_metrics(self.task, state, config)
    jitted = state_lib.make_train_step(
      *(self.task, tx, metrics_class, self.mesh),
      placement=sharding.state_sharding(state, self.mesh),
      accumulated=config.get('accumulate', 1),
    )
    train_step = programs.Programs(jitted, 'the training step')
    replicated = sharding.replicated(self.mesh)
    empty = jax.jit(metrics_class.empty, out_shardings=replicated)
    step = int(state.step)
    if self._evaluates_at(step) and not self.log.has('eval', step):
      # The untrained model, or where a run was stopped before it could.
      self.evaluate(state)
    batches = self.data.train_batches(
      start=step * config.batch_size,
      used_rows=state_lib.used_rows(state, config),
      busy=lambda: not state.step.is_ready(),
    )
    metrics, unread = empty(), None
    if step < config.num_steps:
      logging.info('compiling the training step, which takes up to minutes')
    folder = self.workdir / 'profile' if self.profile else None
    trace = profile_lib.Trace(folder, step, config.num_steps)
    with signals.StopRequest() as stop, trace:
      while step < config.num_steps:
        batch = next(batches)
        step += 1
        if new := train_step.is_new(batch):
          jax.block_until_ready(metrics)
          clock.stop()  # compiling says nothing of speed
        with jax.transfer_guard('disallow'), trace.step(step):
          state, metrics = train_step(state, metrics, batch)
        trace.stop_after(step, metrics)
        self.checkpoints.check()
        self.log.tick(step)
        if new:
          jax.block_until_ready(metrics)
          clock.start()
        else:
          clock.count(config.batch_size)
        if unread:  # of the step before, while this one runs
          self._log_step(*unread, schedule)
          unread = None
        # Read once: a signal from here on is a later step's to honour. Several
        # processes agree where they log, and wait for each other anyway.
        agree = jax.process_count() == 1 or step % config.run.log_every == 0
        stopping = agree and any(sharding.gather(stop.requested))
        last = step == config.num_steps or stopping
        save = last or step % config.run.checkpoint_every == 0
        evaluates, hopeless = self._evaluates_at(step), self._hopeless()
        if save or hopeless or step % config.run.log_every == 0:
          unread, metrics = (step, metrics), empty()
        if unread and (save or evaluates or hopeless):
          self._log_step(*unread, schedule)
          unread = None
          if self._hopeless():  # this very step was skipped
            self._give_up(state, batch, step)
        if save:
          self._save(state, step)
        if stopping and step < config.num_steps:
          self.checkpoints.wait()
          raise errors.Interrupted(
            f'stopped at step {step} of {config.num_steps} with everything '
            f'saved in {self.workdir}; the same command goes on from there'
          )
        if evaluates:
          jax.block_until_ready(state)  # until here it is training's time
          clock.stop()
          self.evaluate(state)
          clock.start()
    return state

  def _evaluates_at(self, step: int) -> bool:
    first_or_last = step in (0, self.config.num_steps)
    return first_or_last or step % self.config.run.eval_every == 0

  def evaluate(self, state: state_lib.TrainState) -> None:
    """Evaluates, and segments the report's images at this step."""
    evaluation = self.data.evaluation
    if evaluation is None:
      return
    step, evaluator = int(state.step), evaluation.evaluator
    fns, variables = self.task.predict_fns, sharding.whole(state.variables)
    result = evaluator.evaluate(fns, variables)
    if evaluation.segments and jax.process_index() == 0:
      results.write_confusion(self.workdir, step, result)
    self._record(step, 'eval', dict(result.figures()))
    shown = results.headline(self.log.rows[-1])
    words = [f'{name} {value:.1f}' for name, value in shown.items()]
    logging.info('step %d: %s', step, '  '.join(words))
    if evaluation.segments:
      predict = functools.partial(evaluator.predict, fns, variables)
      self.snapshots.take(step, predict, self.log)

  def finish(self) -> dict[str, Any]:
    """Writes the report and the summary; returns the summary."""
    events = self.monitor.events
    summary = results.summarise(self.config, self.log, self.clock, events)
    if jax.process_index() == 0:
      evaluation = self.data.evaluation
      results.write(
        self.workdir,
        self.config,
        evaluation.class_names if evaluation else (),
        self.log,
        self.snapshots,
        summary,
        events,
      )
    return summary

  def _log_step(
    self, step: int, metrics: Any, schedule: optax.Schedule
  ) -> None:
    """Logs the averages since the last time."""
    config = self.config
    found = jax.device_get(metrics.compute())
    skipped, largest = found.pop('skipped'), found.pop('largest')
    values = {name: float(value) for name, value in found.items()}
    spike = self.gradients.update(skipped, largest, values['grad_norm'])
    update = step - 1 - self.gradients.skipped
    values |= {
      'grad_norm_max': float(largest[0]),
      'skipped_steps': float(self.gradients.skipped),
      # A skipped step leaves the schedule where it was.
      'learning_rate': np.asarray(schedule(update)).item(),
    }
    words = [f'step {step} of {config.num_steps}', f'loss {values["loss"]:.3f}']
    if skipped[1]:
      words.append(f'{skipped[1]} of {skipped[0]} steps skipped')
    speed = self.clock.lap()
    if speed is not None:
      values['images_per_second'] = speed
      words.append(f'{speed:.0f} images/s')
    if self.clock.images:  # not before a step without compilation
      images = (config.num_steps - step) * config.batch_size
      seconds = images * self.clock.train_seconds / self.clock.images
      words.append(f'{logging_lib.duration(seconds)} left')
    values |= self.data.metrics()
    logging.info('  '.join(words))
    if self.clock.images and values['waiting'] > _MUCH_WAITING:
      logging.warning(
        'the step waited for data %.0f %% of the time; %s',
        *(100 * values['waiting'], inputs.ADVICE),
      )
    if spike:
      logging.warning('%s', spike)
      self.log.text(step, 'gradients', spike)
    self._record(step, 'train', values)

  def _record(self, step: int, place: str, values: Mapping[str, float]) -> None:
    """Logs figures, and a collapse that begins or ends with them."""
    self.log.scalars(step, {f'{place}/{k}': v for k, v in values.items()})
    event = self.monitor.update(self.log.rows[-1])
    if event:
      level = logging.WARNING if event.end is None else logging.INFO
      logging.log(level, '%s', event.message)
      self.log.text(step, 'collapse', event.message)

  def _hopeless(self) -> bool:
    limit = self.config.run.get('max_skipped', 10)
    return self.gradients.in_a_row >= limit

  def _give_up(
    self, state: state_lib.TrainState, batch: Mapping[str, Any], step: int
  ) -> None:
    """Saves, dumps the batch, and raises: the steps until here were skipped."""
    count = self.gradients.in_a_row
    self._save(state, step)
    self.checkpoints.wait()
    size = self.config.batch_size
    # Parameters are as they were before the step, whose number its rng has.
    dump = replay.Dump(
      step=step,
      checkpoint=step,
      rng=jax.random.fold_in(state.rng, step - 1),
      samples=self.data.sample_names((step - 1) * size, size),
      batch=batch,
    )
    path = dump.write(self.workdir)
    raise errors.NonFiniteLossError(
      f'the loss or its gradient was not finite in {count} steps in a row, the '
      f'last one step {step}; parameters are as before them, in the checkpoint '
      f'of step {step}. `groupvit runs replay {path}` shows the term and the '
      'layer. Lower optimizer.learning_rate, lengthen optimizer.warmup_steps, '
      'or use dtype=float32'
    )

  def _save(self, state: state_lib.TrainState, step: int) -> None:
    if not state_lib.is_finite(state):
      raise errors.NonFiniteLossError(
        f'parameters are not finite after step {step}, though the loss is; the '
        f'last checkpoint is step {self.checkpoints.latest}. Lower '
        'optimizer.learning_rate, or lengthen optimizer.warmup_steps'
      )
    position = {'position': step * self.config.batch_size}
    meta = position | self.clock.as_meta() | self.data.as_meta()
    self.checkpoints.save(step, state, meta)
