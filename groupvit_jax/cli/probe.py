"""`groupvit probe`: linear probes of a model's features, few-shot and full."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax.cli import common

_EXAMPLES = """\
The protocol of CLIP's paper: logistic regression on frozen features by L-BFGS
in float64, as scikit-learn solves it; its strength is searched on the
validation split (without one, on a fifth of the training split), and the test
split is measured once. Few-shot probes take so many labels of each class.

With --out, features are kept in the folder, so that another run with other
shots needs no pass through the network; it also gets probe.json and probe.png.

examples:
  groupvit probe --model my_clip --benchmark cifar10 --data cifar10 --out probe
  groupvit probe --model runs/clip --benchmark scene_crops --limit 1000
  groupvit probe --model my_clip --benchmark dtd --data dtd --validation val \\
    --shots 1,4,16 --features pooled
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_model(parser)
  parser.add_argument(
    '--benchmark',
    required=True,
    metavar='NAME',
    help='a classification benchmark of `groupvit evaluate`',
  )
  common.add_path(
    parser,
    '--data',
    'DIR',
    'its folder, with a sub-folder for each split, or prepared by TFDS '
    '(scene_crops needs none)',
  )
  parser.add_argument('--train', metavar='SPLIT', default='train')
  parser.add_argument(
    '--validation',
    metavar='SPLIT',
    help='where the strength is searched (default: validation for scene_crops, '
    'else a fifth of the training split)',
  )
  parser.add_argument('--test', metavar='SPLIT', default='test')
  parser.add_argument(
    '--shots',
    metavar='N,N,...',
    type=_shots,
    default=(1, 2, 4, 8, 16),
    help='labels of each class, or none (default: 1,2,4,8,16)',
  )
  text = 'draws of the labels (default: %(default)s)'
  common.add_number(parser, '--seeds', text, default=3)
  parser.add_argument(
    '--features',
    choices=('projected', 'pooled'),
    default='projected',
    help='after the projection into the joint space, or before it, as in the '
    'paper (default: %(default)s)',
  )
  parser.add_argument(
    '--set',
    dest='settings',
    metavar='data.NAME=VALUE',
    action='append',
    default=[],
    help='an option of the reader, as of `groupvit evaluate`: '
    'data.order=sorted (folders count the classes), of scene_crops '
    'data.size, data.seed',
  )
  common.add_number(parser, '--limit', 'only the first N images of each split')
  text = 'folder for features, figures and the figure'
  common.add_path(parser, '--out', 'DIR', text)


def _shots(text: str) -> tuple[int, ...]:
  """An argparse type."""
  if text == 'none':
    return ()
  return tuple(common.positive(part) for part in text.split(','))


def run(args: argparse.Namespace) -> None:
  """Runs the sub-command."""
  from groupvit_jax import files
  from groupvit_jax.benchmarks import label_sets, probe
  from groupvit_jax.cli import evaluate
  from groupvit_jax.evaluation.evaluator import RunOptions

  settings = evaluate.read_settings(args.settings)
  synthetic = args.benchmark in label_sets.SYNTHETIC
  if args.data is None and not synthetic:
    raise ValueError(
      f'{args.benchmark} needs its folder: give --data DIR; docs/clip.md says '
      'how it must look'
    )
  validation = args.validation
  if validation is None:
    validation = 'validation' if synthetic else ''
  spec = probe.ProbeSpec(
    args.benchmark,
    None if synthetic else args.data,
    train=args.train,
    validation=validation,
    test=args.test,
    options={k.removeprefix('data.'): v for k, v in settings.items()},
    limit=args.limit,
    features=args.features,
    shots=args.shots,
    seeds=args.seeds,
  )
  model, variables, mesh = evaluate.load(args.model)
  result = probe.run(
    spec,
    model.as_encoder(),
    model.predict_fns,
    variables,
    keep=args.out,
    options=RunOptions(batch_size=args.batch, mesh=mesh),
  )
  print(_text(result))
  if args.out is not None:
    from groupvit_jax.viz import probe_chart

    result['model'] = str(args.model)
    files.write_atomically(
      args.out / 'probe.json', json.dumps(result, indent=2) + '\n'
    )
    probe_chart.draw(result, args.out / 'probe.png')
    print(f'written to {args.out}')


def _text(result: Mapping[str, Any]) -> str:
  images = ', '.join(f'{n:,} {part}' for part, n in result['images'].items())
  lines = [
    f'{result["benchmark"]}, {result["metric"]}, {images}',
    f'zero-shot    {100 * result["zero_shot"]:6.2f}',
  ]
  for shots, figures in result['few_shot'].items():
    mean, deviation = 100 * np.mean(figures), 100 * np.std(figures)
    lines.append(
      f'{f"{shots}-shot":<13}{mean:6.2f}  +- {deviation:.2f} over '
      f'{len(figures)} draws'
    )
  lines.append(
    f'linear probe {100 * result["probe"]:6.2f}  C = {result["strength"]:.3g}'
  )
  return '\n'.join(lines)
