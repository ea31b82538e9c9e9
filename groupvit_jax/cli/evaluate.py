"""`groupvit evaluate`: a model on a benchmark, as papers report it."""

import argparse
import ast
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from groupvit_jax import processes, sharding
from groupvit_jax.benchmarks import build, calibrate, label_sets
from groupvit_jax.cli import common, reports
from groupvit_jax.evaluation import diagnosis, resume
from groupvit_jax.evaluation.counts import Measures
from groupvit_jax.evaluation.evaluator import RunOptions

_CLIP = sorted(label_sets.CLIP_METRICS)
_EXAMPLES = f"""\
benchmarks:
  {', '.join(label_sets.SEGMENTATION[:6])},
  {', '.join(label_sets.SEGMENTATION[6:])}   segmentation
  imagenet, classes   classification (class folders, or shards with cls)
  {', '.join(_CLIP[:8])},
  {', '.join(_CLIP[8:16])},
  {', '.join(_CLIP[16:26])},
  {', '.join(_CLIP[26:])}
                      the sets of CLIP's paper, by its prompts and metrics
  captions            retrieval (captions.jsonl, or COCO's, or Karpathy's)
  flickr30k, coco_captions   retrieval in Karpathy's splits, by CLIP's prompt
  scene_crops, scene_captions   classification and retrieval without data
docs/benchmarks.md says where to get each, and how its folder must look.

protocols of segmentation: groupvit, the released one (windows of 448,
thresholds .95/.35/.95), and tcl, the unified one of later papers (one
threshold, nine prompts).

--set replaces a step of the protocol: top_k, background_threshold, one_hot,
short_side, window, stride, templates, refine, ... (docs/evaluation.md), of
classification templates and prompt_average (unit or raw: normalise each prompt
before averaging, or not);
data.NAME=VALUE is for the reader (scenes: data.count, data.size, data.seed).

With --out, the same command resumes an evaluation that was interrupted.

examples:
  groupvit evaluate --model my_model --benchmark voc21 --data VOC2012 \\
    --out voc21.json
  groupvit evaluate --model my_model --benchmark context59 --protocol tcl \\
    --data VOC2010 --skip-bad
  groupvit evaluate --model my_model --benchmark folder --data photos \\
    --set top_k=none --set background_threshold=0.6 --limit 20
  groupvit evaluate --model my_model --benchmark imagenet --data ILSVRC/val
  groupvit evaluate --model my_clip --benchmark cifar10 --data cifar10/test
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
  text = 'the folder of the benchmark (scenes needs none)'
  common.add_path(parser, '--data', 'DIR', text)
  parser.add_argument(
    '--protocol',
    choices=label_sets.PROTOCOLS,
    help='of segmentation, see below (default: groupvit)',
  )
  text = 'write settings, figures and confusion matrix as JSON'
  common.add_path(parser, '--out', 'FILE', text)
  common.add_overwrite(parser, 'FILE')
  parser.add_argument(
    '--diagnosis',
    action='store_true',
    help='measure where the errors come from, and print it with the worst '
    'confusions; takes half as long again',
  )
  parser.add_argument(
    '--distributed',
    action='store_true',
    help='one process of several, found through the cluster environment',
  )
  group = parser.add_argument_group('data')
  group.add_argument(
    '--split', metavar='NAME', help='default: the one that papers report on'
  )
  common.add_number(
    group, '--limit', 'only the first N images, for a quick look'
  )
  group.add_argument(
    '--skip-bad',
    action='store_true',
    help='skip images that cannot be used, and list them',
  )
  group = parser.add_argument_group('steps', 'The defaults are the protocol.')
  group.add_argument(
    '--set',
    dest='settings',
    metavar='FIELD=VALUE',
    action='append',
    default=[],
    help='replace a step of the protocol; may be repeated',
  )
  common.add_number(
    group,
    '--size',
    'pixels of the shorter side and of the windows; stride and longer side '
    'follow (default: 448)',
  )
  common.add_path(
    group,
    '--calibrate',
    'DIR',
    'find the background by a threshold per class, learned from these '
    'captioned images; no mask is read',
  )
  common.add_path(
    group,
    '--class-names',
    'FILE',
    'a name per line in label order, synonyms as person|man|woman',
  )
  group.add_argument(
    '--regions',
    choices=label_sets.REGIONS,
    default=label_sets.MODEL,
    help='how the patches of a model without groups, such as CLIP, are grouped',
  )
  common.add_number(
    group,
    '--num-groups',
    f'for {" and ".join(label_sets.WITH_NUM_GROUPS)} (default: %(default)s)',
    default=label_sets.NUM_GROUPS,
  )
  group.add_argument(
    '--no-boundary',
    action='store_true',
    help='leave out boundary mIoU, which takes time',
  )


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
  """Values of `--set FIELD=VALUE` by field, 'segment.' left out.

  Args:
    settings: texts such as 'top_k=none'. A value is none, true, false, a
      number, numbers between commas, or text.

  Raises:
    ValueError: one without a field or value, or a field that is set twice.
  """
  values: dict[str, Any] = {}
  for text in settings:
    name, equals, value = text.partition('=')
    name = name.strip().removeprefix('segment.')
    if not (name and equals and value.strip()):
      raise ValueError(f'--set {text}: write FIELD=VALUE, as in top_k=none')
    if name in values:
      raise ValueError(f'--set has {name} twice; it takes one value')
    values[name] = _value(value.strip())
  return values


_CONSTANTS = {'none': 'None', 'true': 'True', 'false': 'False'}


def _value(text: str) -> Any:
  try:
    value = ast.literal_eval(_CONSTANTS.get(text.lower(), text))
  except (ValueError, SyntaxError):
    return text
  numbers = value if isinstance(value, tuple) else (value,)
  plain = all(isinstance(x, int | float | None) for x in numbers)
  return value if plain else text


def run(args: argparse.Namespace) -> int:
  """Measures, prints a table and writes the report; returns the exit code."""
  spec = _spec(args)
  if args.distributed:
    sharding.initialize_distributed()
  report_file = _open_report(args)
  try:
    return _measure(args, spec, report_file)
  finally:
    if report_file is not None:
      report_file.release()


def _spec(args: argparse.Namespace) -> build.BenchmarkSpec:
  steps = read_settings(args.settings)
  synthetic = args.benchmark in label_sets.SYNTHETIC
  if args.data is None and not synthetic:
    raise ValueError(
      f'{args.benchmark} needs its folder: give --data DIR; docs/benchmarks.md '
      'describes its layout'
    )
  overrides = {k: v for k, v in steps.items() if not k.startswith('data.')}
  if args.size:
    overrides = dict(build.at_size(args.size)) | overrides
  names = args.class_names and label_sets.read_names(args.class_names)
  return build.BenchmarkSpec(
    benchmark=args.benchmark,
    folder=None if synthetic else args.data,
    split=args.split,
    limit=args.limit,
    protocol=args.protocol or label_sets.PROTOCOLS[0],
    overrides=overrides,
    options={
      k.removeprefix('data.'): v for k, v in steps.items() if k not in overrides
    },
    class_names=names,
    regions=args.regions,
    num_groups=args.num_groups,
    measures=Measures(
      boundary=not args.no_boundary, comparisons=args.diagnosis
    ),
  )


def _open_report(
  args: argparse.Namespace,
) -> reports.ReportFile | None:
  """The report, in the process that writes it."""
  report_file = message = None
  if args.out is not None and not jax.process_index():
    try:
      report_file = reports.ReportFile(args.out, args.overwrite)
    except ValueError as error:
      message = str(error)
  # All stop together: if the first stopped alone, the others would wait.
  message = sharding.gather(message)[0]
  if message is not None:
    raise ValueError(message)
  return report_file


def _measure(
  args: argparse.Namespace,
  spec: build.BenchmarkSpec,
  report_file: reports.ReportFile | None,
) -> int:
  _check_data(args.data)
  _check_data(args.calibrate)
  model, variables, mesh = load(args.model)
  options = RunOptions(batch_size=args.batch, mesh=mesh)
  if args.calibrate:
    with _Bar('calibrating') as bar:
      spec = calibrate.calibrate(
        spec,
        model.as_encoder(),
        model.predict_fns,
        variables,
        args.calibrate,
        options=dataclasses.replace(options, progress=bar.show),
      )
  with _Bar() as bar:
    options = dataclasses.replace(
      options,
      resume_path=args.out and reports.state_path(args.out),
      progress=bar.show,
      skip_bad=args.skip_bad,
    )
    runner = build.make(spec, model.as_encoder(), options)
    try:
      result = runner.evaluator.evaluate(model.predict_fns, variables)
    except KeyboardInterrupt:
      raise KeyboardInterrupt(_interrupted(args)) from None
  if not jax.process_index():
    report = reports.make(args.model, model, runner, result)
    print(reports.text(report))
    if args.diagnosis and runner.kind == 'segmentation':
      print()
      print(diagnosis.as_text(diagnosis.of_result(result)))
    _list_skipped(report['skipped'])
    # Last: if the file cannot be written, the figures were still printed.
    if report_file is not None:
      report_file.write(reports.as_json(report))
  runner.evaluator.resume_state.remove()
  return 0


def load(path: pathlib.Path) -> tuple[Any, Any, Mesh | None]:
  """A model, its variables on all devices, and their mesh; None for one."""
  from groupvit_jax import inference

  mesh = sharding.make_mesh() if jax.device_count() > 1 else None
  model = inference.load(path)
  if mesh is None:
    return model, model.variables, None
  return model, sharding.replicate(model.variables, mesh), mesh


def _check_data(data: pathlib.Path | None) -> None:
  """Before the model is loaded; readers look closer."""
  pattern = data is not None and any(mark in str(data) for mark in '*{')
  if data is not None and not pattern and not data.expanduser().exists():
    raise ValueError(f'{data}: there is no such folder or shard')


class _Bar(processes.Bar):
  """A progress bar that appears with the first image, on a terminal only."""

  def __init__(self, label: str | None = None):
    hidden = True if jax.process_index() else None
    super().__init__(desc=label, unit='image', disable=hidden, delay=1e-3)

  def show(self, done: int, total: int) -> None:
    """Moves to `done` images; images of an earlier run set the start."""
    if self.total is None:
      self.reset(total)
      self.initial = self.n = self.last_print_n = done
    self.update(done - self.n)


def _interrupted(args: argparse.Namespace) -> str:
  if args.out is None:
    return 'interrupted; with --out FILE it could be resumed'
  state = resume.process_path(reports.state_path(args.out))
  if not state.exists():
    return 'interrupted before anything was counted'
  return 'interrupted; the same command resumes it'


def _list_skipped(skipped: Sequence[Mapping[str, str]]) -> None:
  for entry in skipped[:10]:
    common.complain(entry['reason'], 'skipped')
  if len(skipped) > 10:
    common.complain(f'and {len(skipped) - 10} more', 'skipped')
