"""`groupvit info`: what is in a model folder or any other source of weights."""

import argparse
import pathlib

from groupvit_jax.cli import common

_EXAMPLES = """\
examples:
  groupvit info my_model
  groupvit info runs/demo
"""


def add(commands) -> None:
  """Declares the sub-command."""
  parser = common.add_command(
    commands,
    'info',
    'tell the architecture, parameters and metrics of a model',
    _EXAMPLES,
  )
  parser.add_argument(
    'model',
    metavar='DIR',
    type=pathlib.Path,
    help='a model folder, a training workdir, or any source of `groupvit '
    'convert`',
  )
  parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
  from groupvit_jax import convert

  print(convert.describe(convert.load_source(args.model)))
