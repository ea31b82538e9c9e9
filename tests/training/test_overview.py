"""Reading runs: progress, checkpoints, and how they ended."""

import json
import os
import platform

import jax.numpy as jnp
import pytest

from groupvit_jax import cli, errors
from groupvit_jax.training import checkpoint, overview, workdir

CONFIG = {'task': 'groupvit', 'num_steps': 9, 'optimizer': {'name': 'muon'}}
ROWS = (
  {'step': 0, 'eval/miou': 0.125},
  {'step': 2, 'train/loss': 4.0, 'train/contrastive': 3.0},
  {
    'step': 4,
    'train/loss': 2.0,
    'train/contrastive': None,  # not finite
    'train/images_per_second': 30.0,
    'train/skipped_steps': 1.0,
  },
  {'step': 4, 'eval/miou': 0.25},
)


@pytest.fixture
def run(tmp_path):
  path = tmp_path / 'run'
  path.mkdir()
  (path / 'config.json').write_text(json.dumps(CONFIG))
  lines = [json.dumps(row) + '\n' for row in ROWS]
  (path / 'metrics.jsonl').write_text(''.join(lines))
  checkpoints = checkpoint.Checkpoints(path)
  for step in (2, 4):
    checkpoints.save(step, {'w': jnp.full(3, float(step))}, {'position': step})
  checkpoints.close()
  (path / 'checkpoints_unreadable' / '3').mkdir(parents=True)
  return path


def test_a_run_is_read_with_the_health_of_its_checkpoints(
  run, capsys, monkeypatch
):
  monkeypatch.chdir(run.parent)  # a relative path, as people type
  damaged = run / 'checkpoints' / '4' / 'meta' / 'metadata'
  damaged.write_text('{"position": 5}')
  assert cli.main(['runs', 'show', 'run', '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['config'] == {
    'task': 'groupvit',
    'num_steps': 9,
    'optimizer.name': 'muon',
  }
  assert (found['step'], found['num_steps']) == (4, 9)
  assert found['images_per_second'] == 30
  assert found['losses'] == {'loss': [4.0, 2.0], 'contrastive': [3.0, None]}
  assert found['skipped_steps'] == 1
  assert found['evaluations'] == [
    {'step': 0, 'miou': 12.5},
    {'step': 4, 'miou': 25.0},
  ]
  whole, broken = found['checkpoints']
  assert whole == {'step': 2, 'health': 'digest ok'}
  assert broken['step'] == 4 and 'damaged' in broken['health']
  assert found['set_aside'] == ['3']

  assert cli.main(['runs', 'show', str(run), '--quick']) == 0
  text = capsys.readouterr().out
  for words in ('4 of 9', 'step 4: not read', 'miou=25.0', '30 images/s'):
    assert words in text


def test_a_folder_of_runs_is_a_table(run, capsys):
  assert cli.main(['runs', 'show', str(run.parent)]) == 0
  (line,) = capsys.readouterr().out.splitlines()[1:]
  assert line.split()[:5] == ['run', 'unknown', '4/9', '30', '2']
  with pytest.raises(errors.WorkdirError, match='is no workdir'):
    overview.find(run / 'checkpoints')


@pytest.mark.parametrize(
  ('error', 'state'),
  [
    (errors.Interrupted('at step 4'), 'stopped'),
    (errors.ConfigError('too much'), 'failed'),
  ],
)
def test_how_a_run_ended(run, error, state):
  with pytest.raises(type(error)), workdir.end_recorded(run):
    raise error
  found = overview.read(run, verify=False)
  assert (found['state'], found['message']) == (state, str(error))
  assert found['time']


def test_a_run_without_an_end_is_running_or_was_killed(run):
  holder = run / 'run.holder'
  text = 'process {} on {}, since 2026-11-28 09:00:00 UTC,'

  def state(process, node=None):
    holder.write_text(text.format(process, node or platform.node()))
    return overview.read(run, verify=False)['state']

  assert state(os.getpid()) == 'running'
  assert state(2**22 + 1) == 'killed'  # above Linux's highest number
  assert state(os.getpid(), 'elsewhere') == 'unknown'
