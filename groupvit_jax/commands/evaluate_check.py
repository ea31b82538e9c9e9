"""What a command line of `groupvit evaluate` cannot ask for.

Told before a model loads. An option that would do nothing is refused: whoever
gives it expects something of it.
"""

import argparse

from groupvit_jax.benchmarks import names
from groupvit_jax.commands import evaluate_files

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
  _check_data(args)
  if args.benchmark in names.WHOLES:
    for name in _OF_SEGMENTATION:
      if getattr(args, name):
        raise ValueError(
          f'--{name.replace("_", "-")} is of segmentation; leave it out for '
          f'{args.benchmark}'
        )
  if args.class_names and args.benchmark == names.CAPTIONS:
    raise ValueError('--class-names: captions have no classes; leave it out')
  if args.num_groups and args.regions not in names.COUNTED:
    raise ValueError(
      f'--num-groups is for --regions {" and ".join(names.COUNTED)}; '
      'leave it out'
    )
  if args.out is not None:
    evaluate_files.check(args.out, args.overwrite)
  elif args.overwrite:
    raise ValueError('--overwrite replaces what --out names; give --out FILE')


def _check_data(args):
  drawn = args.benchmark in names.DRAWN
  if args.data is None and not drawn:
    raise ValueError(
      f'{args.benchmark} needs its folder: give --data DIR; docs/evaluation.md '
      'tells how it must look'
    )
  if args.data is not None and drawn:
    raise ValueError(
      f'{args.benchmark} are drawn, from no folder; leave --data out'
    )
