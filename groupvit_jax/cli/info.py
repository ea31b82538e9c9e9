"""`groupvit info`: what is in a model."""

import argparse

from groupvit_jax.cli import common

_EXAMPLES = """\
examples:
  groupvit info my_model
  groupvit info runs/demo
  groupvit info nvidia/groupvit-gcc-yfcc
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_path(parser, 'model', 'MODEL', common.MODEL)


def run(args: argparse.Namespace) -> None:
  """Runs the sub-command."""
  from groupvit_jax import convert

  print(convert.describe(convert.load_source(args.model)))
