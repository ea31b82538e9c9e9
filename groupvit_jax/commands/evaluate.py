"""`groupvit evaluate`: a model on a benchmark, as papers report it."""

import argparse
import pathlib
from typing import Any

from groupvit_jax.benchmarks import names
from groupvit_jax.commands import arguments

_EXAMPLES = f"""\
benchmarks:
  {', '.join(names.SEGMENTED[:6])},
  {', '.join(names.SEGMENTED[6:])}   segmentation
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
    choices=names.NAMES,
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
    choices=names.PROTOCOLS,
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
    choices=names.REGIONS,
    default=names.MODEL,
    help='how the patches of a model without groups, such as CLIP, are grouped',
  )
  group.add_argument(
    '--num-groups',
    metavar='K',
    type=arguments.positive,
    help=f'for {" and ".join(names.COUNTED)} (default: {names.NUM_GROUPS})',
  )
  group.add_argument(
    '--no-boundary',
    action='store_true',
    help='leave out boundary mIoU, which takes time',
  )


def _run(args: argparse.Namespace) -> int:
  from groupvit_jax.commands import evaluate_check, evaluate_settings

  steps = evaluate_settings.read(args.settings)
  evaluate_check.check(args)

  from groupvit_jax.commands import evaluate_run

  return evaluate_run.run(args, _question(args, steps))


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
    'protocol': args.protocol or names.PROTOCOLS[0],
    'overrides': overrides,
    'options': {
      k.removeprefix('data.'): v for k, v in steps.items() if k not in overrides
    },
    'regions': args.regions,
    'num_groups': args.num_groups or names.NUM_GROUPS,
    'skip_bad': args.skip_bad,
    'boundary': not args.no_boundary,
  }
