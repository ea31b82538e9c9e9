"""`groupvit evaluate`: a model on a benchmark, as papers report it."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import tqdm

from groupvit_jax import errors, sharding
from groupvit_jax.benchmarks import build, calibrate, label_sets
from groupvit_jax.cli import common, evaluate_report
from groupvit_jax.cli import resume as report_files
from groupvit_jax.evaluation import diagnosis, resume

# What a command line of `groupvit evaluate` cannot ask for.
#
# Told before a model loads. An option that would do nothing is refused: whoever
# gives it expects something of it.

_OF_SEGMENTATION = (
  'protocol',
  'size',
  'calibrate',
  'diagnosis',
  'no_boundary',
)


def check(args: argparse.Namespace) -> None:
  """Looks at options alone, and at the place of the report.

  Raises:
    ValueError: options that do not go together, or a report that could not be
      written.
  """
  _check_data_options(args)
  if args.benchmark in label_sets.IMAGE_LEVEL:
    for name in _OF_SEGMENTATION:
      if getattr(args, name):
        raise ValueError(
          f'--{name.replace("_", "-")} is of segmentation; leave it out for '
          f'{args.benchmark}'
        )
  if args.class_names and args.benchmark == label_sets.CAPTIONS:
    raise ValueError('--class-names: captions have no classes; leave it out')
  if args.num_groups and args.regions not in label_sets.WITH_NUM_GROUPS:
    named = ' and '.join(label_sets.WITH_NUM_GROUPS)
    raise ValueError(f'--num-groups is for --regions {named}; leave it out')
  if args.out is not None:
    report_files.check(args.out, args.overwrite)
  elif args.overwrite:
    raise ValueError('--overwrite replaces what --out names; give --out FILE')


def _check_data_options(args):
  drawn = args.benchmark in label_sets.SYNTHETIC
  if args.data is None and not drawn:
    raise ValueError(
      f'{args.benchmark} needs its folder: give --data DIR; docs/evaluation.md '
      'tells how it must look'
    )
  if args.data is not None and drawn:
    raise ValueError(
      f'{args.benchmark} are drawn, from no folder; leave --data out'
    )


# A run of `groupvit evaluate`, once its command line has been read.
#
# Imported only then: what it needs takes a second to import.


def measure(args: argparse.Namespace, fields: Mapping[str, Any]) -> int:
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
    return _evaluate(args, fields, claim)
  finally:
    if claim is not None:
      claim.release()


def _evaluate(args, fields, claim) -> int:
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
      resume_path=_journal(args),
      progress=bar.show,
    )
    try:
      found = _measure(asked, model, mesh)
    except KeyboardInterrupt:
      raise KeyboardInterrupt(_interrupted(args)) from None
  if jax.process_index():
    return _forget(args, asked)
  report = evaluate_report.make(args.model, model, asked, found)
  print(evaluate_report.text(report))
  if args.diagnosis:
    print()
    print(diagnosis.as_text(diagnosis.of_result(found)))
  _tell_skipped(report)
  # Last: a file that cannot be written takes no figures with it.
  if claim is not None:
    claim.write(evaluate_report.as_json(report))
  _forget(args, asked)
  return 0


def _claim(args) -> report_files.Claim | None:
  """To the report, of the process that writes it."""
  claim = told = None
  if args.out is not None and not jax.process_index():
    journal = resume.process_path(report_files.journal_of(args.out))
    try:
      claim = report_files.Claim(args.out, journal, args.overwrite)
    except (ValueError, OSError) as error:
      told = common.describe(error)
  # All stop together: if the first alone did, the others would wait.
  told = sharding.gather(told)[0]
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


def _measure(asked, model, mesh):
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
  if mesh is None or args.benchmark not in build.IMAGE_LEVEL:
    return args.batch
  return sharding.fit_batch_size(args.batch) // jax.process_count()


def _journal(args: argparse.Namespace) -> pathlib.Path | None:
  """Where an interrupted run keeps what it has done."""
  if args.out is None:
    return None
  if args.overwrite:
    report_files.remove_journals(args.out, jax.process_index())
  return report_files.journal_of(args.out)


def _forget(args: argparse.Namespace, asked: build.Judge) -> int:
  """What was kept to go on from is of no use to a run that is done."""
  if args.out is not None:
    asked.evaluator.resume_state.remove()
  return 0


def _interrupted(args: argparse.Namespace) -> str:
  if args.benchmark in build.IMAGE_LEVEL and jax.process_count() > 1:
    return f'interrupted; {args.benchmark} begins anew next time'
  if args.out is None:
    return 'interrupted; with --out FILE it could go on from here'
  journal = resume.process_path(report_files.journal_of(args.out))
  if not journal.exists():
    return 'interrupted, before anything was counted'
  again = 'the same command'
  if args.overwrite:
    again += ' without --overwrite'
  return f'interrupted; {again} goes on where this one stopped'


def _tell_skipped(report: Mapping[str, Any]) -> None:
  skipped = report['skipped']
  for entry in skipped[:10]:
    common.complain(entry['reason'], 'skipped')
  if len(skipped) > 10:
    common.complain(f'and {len(skipped) - 10} more', 'skipped')


# `--set FIELD=VALUE` of a command line, as plain values.

_WORDS = {'none': None, 'true': True, 'false': False}


def read(settings: Sequence[str]) -> dict[str, Any]:
  """Values by field, 'segment.' left out.

  Args:
    settings: texts such as 'top_k=none'. A value is none, true, false, a
      number, numbers between commas, or text.

  Raises:
    ValueError: one without a field or value, or a field that stands twice.
  """
  found = {}
  for text in settings:
    name, equals, value = text.partition('=')
    name = name.strip().removeprefix('segment.')
    if not (name and equals and value.strip()):
      raise ValueError(
        f'--set {text} does not say which field gets which value: write '
        'FIELD=VALUE, as in top_k=none'
      )
    if name in found:
      raise ValueError(f'--set has {name} twice; it can have one value')
    found[name] = _value(value.strip())
  return found


def _value(text: str) -> Any:
  if ',' in text:
    values = tuple(_value(part.strip()) for part in text.split(','))
    return values if all(map(_is_number, values)) else text
  if text.lower() in _WORDS:
    return _WORDS[text.lower()]
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


_EXAMPLES = f"""\
benchmarks:
  {', '.join(label_sets.SEGMENTATION[:6])},
  {', '.join(label_sets.SEGMENTATION[6:])}   segmentation
  imagenet, classes   classification (class folders, or shards with cls)
  captions            retrieval (captions.jsonl, or COCO's, or Karpathy's)
docs/evaluation.md tells where to get each, and how its folder must look.

protocols of segmentation: groupvit, the released one (windows of 448,
thresholds .95/.35/.95), and tcl, the unified one of later papers (one
threshold, nine prompts).

--set replaces a step of the protocol: top_k, background_threshold, one_hot,
short_side, window, stride, templates, refine, ... (docs/evaluation.md);
data.NAME=VALUE is for the reader (scenes: data.count, data.size, data.seed).

With --out, what was interrupted goes on where it stopped, by the same command.

examples:
  groupvit evaluate --model my_model --benchmark voc21 --data VOC2012 \\
    --out voc21.json
  groupvit evaluate --model my_model --benchmark context59 --protocol tcl \\
    --data VOC2010 --skip-bad
  groupvit evaluate --model my_model --benchmark folder --data photos \\
    --set top_k=none --set background_threshold=0.6 --limit 20
  groupvit evaluate --model my_model --benchmark imagenet --data ILSVRC/val
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_model(parser)
  parser.add_argument(
    '--benchmark',
    required=True,
    metavar='NAME',
    choices=label_sets.BENCHMARK_NAMES,
    help='see below',
  )
  parser.add_argument(
    '--data',
    metavar='DIR',
    type=pathlib.Path,
    help='the folder of the benchmark (scenes needs none)',
  )
  parser.add_argument(
    '--protocol',
    choices=label_sets.PROTOCOLS,
    help='of segmentation, see below (default: groupvit)',
  )
  parser.add_argument(
    '--out',
    metavar='FILE',
    type=pathlib.Path,
    help='write settings, figures and confusion matrix as JSON',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace FILE; begin anew'
  )
  parser.add_argument(
    '--diagnosis',
    action='store_true',
    help='also print where the errors come from, and the worst confusions',
  )
  parser.add_argument(
    '--distributed',
    action='store_true',
    help='one process of several, found through the cluster environment',
  )
  _add_data(parser)
  _add_steps(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('data')
  group.add_argument(
    '--split', metavar='NAME', help='default: the one that papers report on'
  )
  group.add_argument(
    '--limit',
    metavar='N',
    type=common.positive,
    help='the first N pictures alone, for a quick look',
  )
  group.add_argument(
    '--skip-bad',
    action='store_true',
    help='pass over pictures that cannot be used, and list them',
  )


def _add_steps(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('steps', 'The defaults are the protocol.')
  group.add_argument(
    '--set',
    dest='settings',
    metavar='FIELD=VALUE',
    action='append',
    default=[],
    help='replace a step of the protocol; may be repeated',
  )
  group.add_argument(
    '--size',
    metavar='N',
    type=common.positive,
    help='pixels of the shorter side and of the windows; stride and longer '
    'side follow (default: 448)',
  )
  group.add_argument(
    '--calibrate',
    metavar='DIR',
    type=pathlib.Path,
    help='find the background by a threshold per class, learned from these '
    'captioned pictures, or pictures alone; no mask is read',
  )
  group.add_argument(
    '--class-names',
    metavar='FILE',
    type=pathlib.Path,
    help='a name per line in label order, synonyms as person|man|woman',
  )
  group.add_argument(
    '--regions',
    choices=label_sets.REGIONS,
    default=label_sets.MODEL,
    help='how the patches of a model without groups, such as CLIP, are grouped',
  )
  group.add_argument(
    '--num-groups',
    metavar='K',
    type=common.positive,
    help=f'for {" and ".join(label_sets.WITH_NUM_GROUPS)} '
    f'(default: {label_sets.NUM_GROUPS})',
  )
  group.add_argument(
    '--no-boundary',
    action='store_true',
    help='leave out boundary mIoU, which takes time',
  )


def run(args: argparse.Namespace) -> int:
  """Runs the sub-command; returns the exit code."""
  steps = read(args.settings)
  check(args)
  return measure(args, _question(args, steps))


def _question(args: argparse.Namespace, steps: dict[str, Any]) -> dict:
  """Fields of `build.Question`."""
  from groupvit_jax.benchmarks import build

  overrides = {k: v for k, v in steps.items() if not k.startswith('data.')}
  if args.size:
    if 'short_side' in steps:
      raise ValueError('--size sets short_side too; give one of the two')
    overrides = build.at_size(args.size) | overrides
  return {
    'benchmark': args.benchmark,
    'folder': args.data,
    'split': args.split,
    'limit': args.limit,
    'protocol': args.protocol or label_sets.PROTOCOLS[0],
    'overrides': overrides,
    'options': {
      k.removeprefix('data.'): v for k, v in steps.items() if k not in overrides
    },
    'regions': args.regions,
    'num_groups': args.num_groups or label_sets.NUM_GROUPS,
    'skip_bad': args.skip_bad,
    'boundary': not args.no_boundary,
  }
