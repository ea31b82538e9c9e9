"""What the arguments of several sub-commands have in common."""

import argparse
import pathlib

# As text/prompts.py has them; here for a --help that starts at once.
_TEMPLATES = ('simple', 'subset', 'full', 'tcl')


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


def add_templates(parser, default: str) -> None:
  """The prompts that a name is put into; read them by `templates`."""
  parser.add_argument(
    '--templates',
    metavar='T',
    type=_template,
    action='append',
    help=f'prompts that a name is put into: {", ".join(_TEMPLATES)} (of CLIP; '
    'tcl of TCL), or one of your own, such as "a drawing of a {}."; several '
    f'--templates are averaged (default: {default})',
  )
  parser.set_defaults(default_templates=default)


def templates(args: argparse.Namespace) -> str | list[str]:
  """The templates of a command line, as `Model.segment` takes them."""
  given = args.templates or [args.default_templates]
  return given[0] if len(given) == 1 else given


def _template(text: str) -> str:
  """An argparse type."""
  if text not in _TEMPLATES and '{}' not in text:
    raise argparse.ArgumentTypeError(
      f'must be one of {", ".join(_TEMPLATES)}, or hold a {{}} where the name '
      f'goes: {text!r}'
    )
  return text


def positive(text: str) -> int:
  """An argparse type; its name never shows, the message does."""
  try:
    value = int(text)
  except ValueError:
    value = 0
  if value < 1:
    raise argparse.ArgumentTypeError(f'must be a positive number: {text!r}')
  return value
