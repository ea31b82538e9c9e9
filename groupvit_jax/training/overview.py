"""Reads a run from its workdir: how far it is, how it does, how it ended.

Nothing is changed there, so that a run may be read while it trains.
"""

import json
import os
import pathlib
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from groupvit_jax import errors
from groupvit_jax.training import checkpoint, collapse, loss, results
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import logging as logging_lib
from groupvit_jax.training import workdir as workdir_lib

# Fields of a config that tell runs apart at a glance.
_SHORT = (
  'task',
  'data.source',
  'image_size',
  'batch_size',
  'num_steps',
  'dtype',
  'seed',
  'optimizer.name',
  'optimizer.learning_rate',
)
_RECENT = 20  # rows whose median is the throughput
_SHOWN = 8  # evaluations that the text shows


def find(folder: pathlib.Path) -> list[pathlib.Path]:
  """The workdirs that a folder is or holds, by name.

  Raises:
    WorkdirError: there is none.
  """
  if (folder / 'config.json').is_file():
    return [folder]
  found = sorted(path.parent for path in folder.glob('*/config.json'))
  if not found:
    raise errors.WorkdirError(
      f'{folder} is no workdir and holds none: a run has a config.json'
    )
  return found


def read(workdir: pathlib.Path, verify: bool = True) -> dict[str, Any]:
  """Returns what a workdir tells of its run, fit for JSON.

  Args:
    workdir: of the run.
    verify: read every checkpoint and compare it with its digest.

  Returns:
    `config` (a few fields), `step`, `num_steps`, `state` (finished, stopped,
    failed, running, killed or unknown) with `message` and `time`,
    `images_per_second` (median of the last rows), `losses` (first and last
    value of each), `skipped_steps`, `evaluations` (percent, by step),
    `checkpoints` (step and health), `set_aside` (names of damaged ones),
    `dumps` (paths) and `collapses`.

  Raises:
    WorkdirError: its config.json cannot be read.
  """
  try:
    config = json.loads((workdir / 'config.json').read_text())
    flat = config_lib.flatten(config)
  except (OSError, ValueError, AttributeError) as error:
    raise errors.WorkdirError(
      f'{workdir / "config.json"} is not readable as a config: {error}'
    ) from error
  rows = logging_lib.read_rows(workdir / 'metrics.jsonl')
  trained = [row for row in rows if 'train/loss' in row]
  last = trained[-1] if trained else {}
  speeds = [
    row['train/images_per_second']
    for row in trained[-_RECENT:]
    if row.get('train/images_per_second')
  ]
  saved = checkpoint.health(workdir, verify)
  steps = [row['step'] for row in rows] + [one['step'] for one in saved]
  summary = results.finished(workdir, flat['num_steps']) or {}
  return {
    'workdir': str(workdir),
    'config': {name: flat[name] for name in _SHORT if name in flat},
    'step': max(steps, default=0),
    'num_steps': flat['num_steps'],
    **_end(workdir, finished=bool(summary)),
    'images_per_second': statistics.median(speeds) if speeds else None,
    'losses': {
      name: [trained[0].get(f'train/{name}'), last[f'train/{name}']]
      for name in loss.TERMS
      if f'train/{name}' in last
    },
    'skipped_steps': last.get('train/skipped_steps'),
    'evaluations': [
      {
        'step': row['step'],
        **{k: round(v, 2) for k, v in results.headline(row).items()},
      }
      for row in rows
      if any(name.startswith('eval/') for name in row)
    ],
    'checkpoints': saved,
    'set_aside': sorted(
      path.name for path in (workdir / 'checkpoints_unreadable').glob('*')
    ),
    'dumps': sorted(map(str, (workdir / 'dumps').glob('*'))),
    'collapses': summary.get('collapses', []),
  }


def _end(workdir: pathlib.Path, finished: bool) -> dict[str, str]:
  """How the run ended: `state`, `message` and `time`."""
  record = workdir_lib.read_end(workdir)
  if finished:
    return {'state': 'finished', 'message': '', 'time': record.get('time', '')}
  if record:
    return record
  try:
    holder = (workdir / 'run.holder').read_text()
  except OSError:
    return {'state': 'unknown', 'message': '', 'time': ''}
  # As `workdir.held` writes it.
  parts = re.match(r'process (\d+) on (.*), since (.*),', holder)
  number, node, since = parts.groups() if parts else ('0', '', '')
  message = f'process {number} on {node}, since {since}'
  if node != platform.node():
    message += '; running or killed, which only that machine knows'
    return {'state': 'unknown', 'message': message, 'time': ''}
  state = 'running' if _alive(int(number)) else 'killed'
  return {'state': state, 'message': message, 'time': ''}


def _alive(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except OSError:  # of another user
    return True
  return True


def as_text(run: Mapping[str, Any]) -> str:
  """A run as lines for a terminal."""
  speed, evaluations = run['images_per_second'], run['evaluations']
  state = ' '.join(filter(None, [run['state'], run['time']]))
  lines = [
    ('config', _pairs(run['config'])),
    ('step', f'{run["step"]:,} of {run["num_steps"]:,}, {state}'),
    ('', run['message']),
    ('throughput', '' if speed is None else f'{speed:.0f} images/s'),
  ]
  lines += [
    (name, f'{_number(last)} (first {_number(first)})')
    for name, (first, last) in run['losses'].items()
  ]
  if run['skipped_steps']:
    skipped = f'{run["skipped_steps"]:.0f} steps: their gradient was not finite'
    lines.append(('skipped', skipped))
  if len(evaluations) > _SHOWN:
    lines.append(('evaluations', f'{len(evaluations)}, the last {_SHOWN}:'))
  for one in evaluations[-_SHOWN:]:
    figures = {k: v for k, v in one.items() if k != 'step'}
    lines.append(('evaluation', f'step {one["step"]}: {_pairs(figures)}'))
  lines += [
    ('checkpoint', f'step {one["step"]}: {one["health"]}')
    for one in run['checkpoints']
  ]
  lines += [('set aside', f'{name}, damaged') for name in run['set_aside']]
  lines += [('dump', path) for path in run['dumps']]
  for event in run['collapses']:
    period = collapse.period(event['begin'], event['end'])
    lines.append(('collapse', f'{event["name"]}, {period}'))
  shown = [f'  {name:<12} {words}' for name, words in lines if words]
  return '\n'.join([run['workdir'], *shown])


def as_table(runs: Sequence[Mapping[str, Any]]) -> str:
  """A line for each run."""
  table = [('run', 'state', 'step', 'images/s', 'loss', 'last evaluation')]
  for run in runs:
    speed = run['images_per_second']
    loss = run['losses'].get('loss', (None, None))[1]
    figures = dict(run['evaluations'][-1]) if run['evaluations'] else {}
    figures.pop('step', None)
    table.append(
      (
        pathlib.Path(run['workdir']).name,
        run['state'],
        f'{run["step"]}/{run["num_steps"]}',
        '-' if speed is None else f'{speed:.0f}',
        _number(loss),
        _pairs(figures),
      )
    )
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return '\n'.join(
    '  '.join(
      word.ljust(width) for word, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in table
  )


def _pairs(values: Mapping[str, Any]) -> str:
  return '  '.join(f'{name}={value}' for name, value in values.items())


def _number(value: float | None) -> str:
  return '-' if value is None else f'{value:.4g}'
