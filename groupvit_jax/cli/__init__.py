"""The `groupvit` command: its frame; a module for each sub-command.

Bad input ends in one line on standard error and exit code 1 (2 for a wrong
command line, 130 for Ctrl-C), never in a stack trace.

To add a sub-command: write a module here (see below what
belongs there) and list it in `_COMMANDS`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import groupvit_jax
from groupvit_jax import errors
from groupvit_jax.cli import (
  classify,
  common,
  convert,
  evaluate,
  info,
  segment,
  tokenizer,
)

OK, FAILED, INTERRUPTED = 0, 1, 130  # argparse adds 2, a wrong command line

_COMMANDS = (segment, classify, evaluate, convert, info, tokenizer)

_EXAMPLES = """\
examples:
  groupvit convert group_vit_gcc_yfcc_30e-879422e0.pth my_model
  groupvit info my_model
  groupvit segment photo.jpg --model my_model --labels "dog,grass,sky" \\
    --out out
  groupvit classify photo.jpg --model my_model --labels "a cat,a dog"
  groupvit evaluate --model my_model --benchmark voc21 --data VOC2012
  groupvit tokenizer show "a photo of a cat"

`groupvit COMMAND --help` explains each command.

exit codes: 0 all is done; 1 something failed, and a line on standard error says
what; 2 a wrong command line; 130 interrupted by Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments without the program's name; by default the process's own.

  Returns:
    The exit code (a wrong command line exits at once with code 2).
  """
  args = _make_parser().parse_args(argv)
  if hasattr(sys.stdout, 'reconfigure'):  # a notebook's stream has none
    # Names of files need not be text in any encoding.
    sys.stdout.reconfigure(errors='backslashreplace')
  try:
    with common.ShownWarnings():
      code = args.run(args)
    sys.stdout.flush()
    return code or OK
  except KeyboardInterrupt as error:
    common.complain(str(error) or 'interrupted')
    return INTERRUPTED
  except BrokenPipeError:
    # The reader (`| head`) has what it wanted. Python would complain when it
    # flushes at exit, so the stream is pointed elsewhere (Python docs, signal).
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK
  except OSError as error:
    common.complain(common.describe(error))
  except (ValueError, errors.UserError) as error:
    common.complain(str(error))
  except MemoryError:
    common.complain('not enough memory; a smaller --batch takes less')
  return FAILED


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='groupvit',
    description='Segmentation that emerges from text supervision.',
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--version', action='version', version=f'groupvit {_version()}'
  )
  commands = common.add_group(parser)
  for command in _COMMANDS:
    command.add(commands)
  return parser


def _version() -> str:
  return getattr(groupvit_jax, '__version__', 'unknown')
