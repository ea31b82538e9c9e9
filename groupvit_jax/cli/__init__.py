"""The `groupvit` command; a module of this package for each sub-command.

Bad input ends in one line on standard error and exit code 1 (2 for a wrong
command line, 130 for Ctrl-C), never in a stack trace.

To add a sub-command, write a module with `add_arguments(parser)` and
`run(args)` and list it in `_COMMANDS`. Only the module of the sub-command that
was asked for is imported, so that the others' libraries cost no time.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

import groupvit_jax
from groupvit_jax import errors
from groupvit_jax.cli import common

OK, FAILED, INTERRUPTED = 0, 1, 130  # argparse adds 2, a wrong command line

_COMMANDS = {
  'train': 'train a model: `python -m groupvit_jax.main` by a shorter name',
  'segment': 'find named things in images',
  'classify': 'classify whole images',
  'evaluate': 'measure a model on a benchmark',
  'probe': 'train linear probes on the features of a model',
  'convert': 'turn weights into a model folder',
  'export': 'write a model as programs: StableHLO, TensorFlow, ONNX',
  'serve': 'try models in a browser, or ask them by HTTP',
  'runs': 'show how training runs are, or were, getting on',
  'info': 'show the architecture, parameters and metrics of a model',
  'data': 'prepare pairs for training, or look at them',
  'tokenizer': 'train or look at a tokenizer',
}

_EXAMPLES = """\
examples:
  groupvit train --config=configs/gvit_s.py:demo --workdir=runs/demo
  groupvit runs show runs/demo
  groupvit convert group_vit_gcc_yfcc_30e-879422e0.pth my_model
  groupvit info my_model
  groupvit segment photo.jpg --model nvidia/groupvit-gcc-yfcc --out out \\
    --labels "dog,grass,sky"
  groupvit classify photo.jpg --model my_model --labels "a cat,a dog"
  groupvit evaluate --model my_model --benchmark voc21 --data VOC2012
  groupvit tokenizer show "a photo of a cat"

`groupvit COMMAND --help` explains each command.

exit codes: 0 success; 1 something failed, and a line on standard error says
what; 2 a wrong command line; 130 interrupted by Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments without the program's name; by default the process's own.

  Returns:
    The exit code (a wrong command line exits at once with code 2).
  """
  argv = sys.argv[1:] if argv is None else argv
  if argv and argv[0] == 'train':  # its flags are absl's, in its own process
    command = [sys.executable, '-m', 'groupvit_jax.main', *argv[1:]]
    os.execv(sys.executable, command)
  args = _parse(argv or ['--help'])
  if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's stream is not
    # File names may hold bytes that are not valid in any encoding.
    sys.stdout.reconfigure(errors='backslashreplace')
  try:
    with common.ShownWarnings(record=False):
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


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = common.Parser(
    prog='groupvit',
    description='Segmentation that emerges from text supervision.',
    epilog=_EXAMPLES,
  )
  parser.add_argument(
    '--version',
    action='version',
    version=f'groupvit {groupvit_jax.__version__}',
  )
  commands = parser.add_subparsers(metavar='COMMAND', required=True)
  for name, summary in _COMMANDS.items():
    command = commands.add_parser(name, help=summary, description=summary)
    if argv and argv[0] == name:
      module = importlib.import_module(f'groupvit_jax.cli.{name}')
      # Before the arguments: a nested command sets its own.
      command.set_defaults(run=getattr(module, 'run', None))
      module.add_arguments(command)
      parser.current = command
  return parser.parse_args(argv)
