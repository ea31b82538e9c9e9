"""`groupvit evaluate`: a model on a benchmark, as papers report it."""

import argparse
import glob
import pathlib
from typing import Any

from groupvit_jax.commands import arguments

# As judge.NAMES has them; here for a --help that starts at once.
SEGMENTED = (
  *('voc21', 'voc20', 'context60', 'context59', 'coco_object', 'coco_stuff'),
  *('ade20k', 'cityscapes', 'pet', 'scenes', 'scenes_things', 'folder'),
)
WHOLE = ('imagenet', 'classes', 'captions')
PROTOCOLS = ('groupvit', 'tcl')
REGIONS = ('model', 'kmeans', 'pixels', 'mean_shift', 'spectral')

_EXAMPLES = f"""\
benchmarks:
  {', '.join(SEGMENTED[:6])},
  {', '.join(SEGMENTED[6:])}   segmentation
  imagenet, classes   classification (class folders, or shards with cls)
  captions            retrieval (captions.jsonl, or COCO's, or Karpathy's)
docs/evaluation.md tells where to get each, and how its folder must look.

protocols of segmentation: groupvit, the released one (windows of 448,
thresholds .95/.35/.95), and tcl, the unified one of later papers (one
threshold, nine prompts).

--set replaces a step of the protocol: top_k, background_threshold, one_hot,
short_side, window, stride, templates, refine, ... (docs/evaluation.md);
data.NAME=VALUE is for the reader (scenes: data.count, data.size, data.seed).

With --out, a segmentation that was interrupted goes on where it stopped, by the
same command.

examples:
  groupvit evaluate --model my_model --benchmark voc21 --data VOC2012 \\
    --out voc21.json
  groupvit evaluate --model my_model --benchmark context59 --protocol tcl \\
    --data VOC2010 --skip-bad
  groupvit evaluate --model my_model --benchmark folder --data photos \\
    --set top_k=none --set background_threshold=0.6 --limit 20
  groupvit evaluate --model my_model --benchmark imagenet --data ILSVRC/val
"""


def add(commands) -> None:
  """Declares the sub-command."""
  parser = arguments.add_command(
    commands, 'evaluate', 'measure a model on a benchmark', _EXAMPLES
  )
  arguments.add_model(parser)
  parser.add_argument(
    '--benchmark',
    required=True,
    metavar='NAME',
    choices=(*SEGMENTED, *WHOLE),
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
    choices=PROTOCOLS,
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
  parser.set_defaults(run=_run)


def _add_data(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('data')
  group.add_argument(
    '--split', metavar='NAME', help='default: the one that papers report on'
  )
  group.add_argument(
    '--limit',
    metavar='N',
    type=arguments.positive,
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
    type=arguments.positive,
    help='pixels of the shorter side and of the windows; stride and longer '
    'side follow (default: 448)',
  )
  group.add_argument(
    '--class-names',
    metavar='FILE',
    type=pathlib.Path,
    help='a name per line in label order, synonyms as person|man|woman',
  )
  group.add_argument(
    '--regions',
    choices=REGIONS,
    default=REGIONS[0],
    help='how the patches of a model without groups, such as CLIP, are grouped',
  )
  group.add_argument(
    '--num-groups',
    metavar='K',
    type=arguments.positive,
    default=8,
    help='for kmeans and spectral (default: %(default)s)',
  )
  group.add_argument(
    '--no-boundary',
    action='store_true',
    help='leave out boundary mIoU, which takes time',
  )


def _run(args: argparse.Namespace) -> int:
  from groupvit_jax.commands import evaluate_settings

  steps = evaluate_settings.read(args.settings)
  _check(args)

  from groupvit_jax.commands import evaluate_run

  return evaluate_run.run(args, _question(args, steps))


def _check(args: argparse.Namespace) -> None:
  """What costs nothing before a model loads."""
  if args.data is None and not args.benchmark.startswith('scenes'):
    raise ValueError(
      f'{args.benchmark} needs its folder: give --data DIR; docs/evaluation.md '
      'tells how it must look'
    )
  if args.benchmark in WHOLE:
    for name in ('protocol', 'size', 'diagnosis'):
      if getattr(args, name):
        raise ValueError(
          f'--{name} is of segmentation; leave it out for {args.benchmark}'
        )
  if args.out is None:
    return
  if args.out.is_dir():
    raise ValueError(f'{args.out} is a folder: --out names a file')
  # Beside a journal, it is what an interrupted run was to replace.
  going_on = bool(journals_of(args.out))
  if args.out.exists() and not (args.overwrite or going_on):
    raise ValueError(
      f'{args.out} exists: choose another --out, or replace it with --overwrite'
    )


def journal_of(out: pathlib.Path) -> pathlib.Path:
  """Where an interrupted run keeps what it has done."""
  return out.with_name(f'{out.name}.journal')


def journals_of(out: pathlib.Path) -> list[pathlib.Path]:
  """What interrupted runs have left, of one process or of several."""
  return sorted(out.parent.glob(f'{glob.escape(out.name)}.journal*'))


def _question(args: argparse.Namespace, steps: dict[str, Any]) -> dict:
  """Fields of `judge.Question`."""
  from groupvit_jax import judge

  overrides = {k: v for k, v in steps.items() if not k.startswith('data.')}
  if args.size:
    overrides = judge.at_size(args.size) | overrides
  return {
    'benchmark': args.benchmark,
    'folder': args.data,
    'split': args.split,
    'limit': args.limit,
    'protocol': args.protocol or PROTOCOLS[0],
    'overrides': overrides,
    'options': {
      k.removeprefix('data.'): v for k, v in steps.items() if k not in overrides
    },
    'regions': args.regions,
    'num_groups': args.num_groups,
    'skip_bad': args.skip_bad,
    'boundary': not args.no_boundary,
  }
