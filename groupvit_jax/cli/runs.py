"""`groupvit runs`: how training runs are, or were, getting on."""

import argparse
import json
from typing import Any

from groupvit_jax import files
from groupvit_jax.cli import common

_SHOW_EXAMPLES = """\
examples:
  groupvit runs show runs/demo
  groupvit runs show runs
  groupvit runs show runs/demo --json

A folder of several workdirs becomes a table. Nothing is changed, and a run may
be read while it trains. Of one run, every checkpoint is read and compared with
its digest; --quick leaves that out.
"""

_REPLAY_EXAMPLES = """\
example:
  groupvit runs replay runs/demo/dumps/step_1200

A run stops after run.max_skipped steps in a row without a finite gradient, and
leaves the batch and the random key of the last one. Shown are the terms of the
loss with the norms of their gradients, the first layer whose output is not
finite, and the first, backwards, whose gradient is not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's own commands."""
  group = parser.add_subparsers(metavar='COMMAND', required=True)
  _add_show(group)
  _add_replay(group)


def _add_show(commands: Any) -> None:
  summary = 'show config, progress, losses, evaluations, checkpoints and end'
  parser = common.add_command(commands, 'show', summary, _SHOW_EXAMPLES, _show)
  text = 'the workdir of a run, or a folder of workdirs'
  common.add_path(parser, 'workdir', 'WORKDIR', text)
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument(
    '--quick', action='store_true', help='do not read the checkpoints'
  )


def _add_replay(commands: Any) -> None:
  summary = 'run a step again whose gradient was not finite, and look inside'
  parser = common.add_command(
    commands, 'replay', summary, _REPLAY_EXAMPLES, _replay
  )
  text = 'what a run that gave up has left: WORKDIR/dumps/step_N'
  common.add_path(parser, 'dump', 'DUMP', text)
  parser.add_argument('--json', action='store_true', help='print JSON')


def _replay(args: argparse.Namespace) -> None:
  from groupvit_jax.training import replay

  report = replay.replay(files.expanded(args.dump))
  print(json.dumps(report, indent=2) if args.json else replay.as_text(report))


def _show(args: argparse.Namespace) -> None:
  from groupvit_jax.training import overview

  folder = files.expanded(args.workdir)
  found = overview.find(folder)
  one = found == [folder]
  runs = [overview.read(path, one and not args.quick) for path in found]
  if args.json:
    print(json.dumps(runs[0] if one else runs, indent=2))
  else:
    print(overview.as_text(runs[0]) if one else overview.as_table(runs))
