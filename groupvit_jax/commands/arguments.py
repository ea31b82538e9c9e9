"""What the arguments of several sub-commands have in common."""

import argparse
import pathlib


def add_group(parser: argparse.ArgumentParser):
  """Makes room for sub-commands, one of which is required."""
  return parser.add_subparsers(metavar='COMMAND', required=True)


def add_command(commands, name: str, summary: str, epilog: str = ''):
  """Adds a sub-command whose help ends with examples."""
  return commands.add_parser(
    name,
    help=summary,
    description=summary,
    epilog=epilog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def add_pictures(parser: argparse.ArgumentParser) -> None:
  """The pictures that a command works on."""
  parser.add_argument(
    'pictures',
    nargs='+',
    metavar='PICTURE',
    help="files, folders, or patterns in quotes ('photos/*.jpg')",
  )


def add_model(parser: argparse.ArgumentParser) -> None:
  """The model, and how many pictures it sees at a time."""
  parser.add_argument(
    '--model',
    required=True,
    metavar='DIR',
    type=pathlib.Path,
    help='a model folder, a training workdir, or any source of `groupvit '
    'convert`',
  )
  parser.add_argument(
    '--batch',
    type=positive,
    default=8,
    metavar='N',
    help='pictures that go through the network together (default: %(default)s)',
  )


def positive(text: str) -> int:
  """An argparse type; its name never shows, the message does."""
  try:
    value = int(text)
  except ValueError:
    value = 0
  if value < 1:
    raise argparse.ArgumentTypeError(f'must be a positive number: {text!r}')
  return value
