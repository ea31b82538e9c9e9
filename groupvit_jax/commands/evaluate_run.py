"""A run of `groupvit evaluate`, once its command line has been read.

Imported only then: what it needs takes a second to import.
"""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import tqdm

from groupvit_jax import errors, sharding, sharding_processes
from groupvit_jax.benchmarks import build, calibrate, label_sets
from groupvit_jax.commands import (
  evaluate_claim,
  evaluate_files,
  evaluate_report,
  evaluate_table,
  messages,
)
from groupvit_jax.evaluation import diagnosis, resume


def run(args: argparse.Namespace, fields: Mapping[str, Any]) -> int:
  """Measures, prints a table and writes the report.

  Args:
    args: of the command line.
    fields: of `build.Question`.

  Returns:
    The exit code.
  """
  sharding.initialize_distributed(detect=args.distributed)
  claim = _claim(args)
  try:
    return _run(args, fields, claim)
  finally:
    if claim is not None:
      claim.release()


def _run(args, fields, claim) -> int:
  mesh = sharding.make_mesh() if jax.device_count() > 1 else None
  if args.class_names:
    names = label_sets.read_names(args.class_names)
    fields = {**fields, 'class_names': names}
  _check_data(args.data)
  _check_data(args.calibrate)

  from groupvit_jax import inference

  model = inference.load(args.model)
  question = build.Question(**fields)
  if args.calibrate:
    question = _calibrated(args, question, model)
  with _Bar() as bar:
    asked = _make(
      args,
      question,
      model.as_encoder(),
      batch_size=_batch_size(args, mesh),
      mesh=mesh,
      journal=_journal(args),
      progress=bar.show,
    )
    try:
      found = _evaluate(asked, model, mesh)
    except KeyboardInterrupt:
      raise KeyboardInterrupt(_interrupted(args)) from None
  if jax.process_index():
    return _forget(args, asked)
  report = evaluate_report.make(args.model, model, asked, found)
  print(evaluate_table.text(report))
  if args.diagnosis:
    print()
    print(diagnosis.as_text(diagnosis.of_result(found)))
  _tell_skipped(report)
  # Last: a file that cannot be written takes no figures with it.
  if claim is not None:
    claim.write(evaluate_report.as_json(report))
  _forget(args, asked)
  return 0


def _claim(args) -> evaluate_claim.Claim | None:
  """To the report, of the process that writes it."""
  claim = told = None
  if args.out is not None and not jax.process_index():
    journal = resume.part(evaluate_files.journal_of(args.out))
    try:
      claim = evaluate_claim.Claim(args.out, journal, args.overwrite)
    except (ValueError, OSError) as error:
      told = messages.describe(error)
  # All stop together: if the first alone did, the others would wait.
  told = sharding_processes.gather(told)[0]
  if told is not None:
    raise ValueError(told)
  return claim


def _check_data(data: pathlib.Path | None) -> None:
  """Before the model is loaded; readers look closer."""
  pattern = data is not None and any(mark in str(data) for mark in '*{')
  if data is not None and not pattern and not data.expanduser().exists():
    raise ValueError(f'{data}: there is no such folder or shard')


def _make(args, *question, **options) -> build.Judge:
  """`build.make`, in the words of the command line."""
  try:
    return build.make(*question, **options)
  except errors.ConfigError as error:
    if args.size and 'short_side' in str(error):
      raise ValueError(f'--size {args.size}: {error}') from error
    raise


def _calibrated(args, question, model) -> build.Question:
  with _Bar('calibrating') as bar:
    return calibrate.calibrate(
      question,
      model.as_encoder(),
      model.predict_fns,
      model.variables,
      args.calibrate,
      batch_size=args.batch,
      progress=bar.show,
    )


def _evaluate(asked, model, mesh):
  """The evaluator's result: figures by name, or a `BenchmarkResult`."""
  variables = model.variables
  if mesh is not None:
    variables = sharding.replicate(variables, mesh)
  if asked.kind == 'segmentation':
    return asked.evaluator.evaluate(model.predict_fns, variables)
  return dict(asked.evaluator.run(model.predict_fns, variables))


class _Bar:
  """A progress bar that appears with the first picture, on a terminal only."""

  def __init__(self, what: str | None = None):
    self._what = what

  def __enter__(self) -> '_Bar':
    self._bar = None
    return self

  def __exit__(self, *unused) -> None:
    if self._bar is not None:
      self._bar.close()

  def show(self, done: int, total: int) -> None:
    """Moves to `done` pictures; what an earlier run did sets the start."""
    if jax.process_index():
      return
    if self._bar is None:
      self._bar = tqdm.tqdm(
        desc=self._what,
        total=total,
        initial=done,
        unit='picture',
        disable=None,
      )
    self._bar.update(done - self._bar.n)


def _batch_size(args: argparse.Namespace, mesh) -> int:
  """Of this process; whole pictures are shared out over its devices."""
  if mesh is None or args.benchmark not in build.WHOLES:
    return args.batch
  return sharding.fit_batch_size(args.batch) // jax.process_count()


def _journal(args: argparse.Namespace) -> pathlib.Path | None:
  """Where an interrupted run keeps what it has done."""
  if args.out is None:
    return None
  if args.overwrite:
    evaluate_files.remove_journals(args.out, jax.process_index())
  return evaluate_files.journal_of(args.out)


def _forget(args: argparse.Namespace, asked: build.Judge) -> int:
  """What was kept to go on from is of no use to a run that is done."""
  if args.out is not None:
    asked.evaluator.journal.remove()
  return 0


def _interrupted(args: argparse.Namespace) -> str:
  if args.benchmark in build.WHOLES and jax.process_count() > 1:
    return f'interrupted; {args.benchmark} begins anew next time'
  if args.out is None:
    return 'interrupted; with --out FILE it could go on from here'
  journal = resume.part(evaluate_files.journal_of(args.out))
  if not journal.exists():
    return 'interrupted, before anything was counted'
  again = 'the same command'
  if args.overwrite:
    again += ' without --overwrite'
  return f'interrupted; {again} goes on where this one stopped'


def _tell_skipped(report: Mapping[str, Any]) -> None:
  skipped = report['skipped']
  for entry in skipped[:10]:
    messages.complain(entry['reason'], 'skipped')
  if len(skipped) > 10:
    messages.complain(f'and {len(skipped) - 10} more', 'skipped')
