"""Metrics of a run, and where they go."""

import sys
import types

import pytest

from groupvit_jax import errors
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import logging as logging_lib


@pytest.fixture
def wandb(monkeypatch):
  """A stand-in for the package; `runs` holds what was passed to it."""
  module = types.ModuleType('wandb')
  module.runs = []

  def init(**options):
    if options['project'] == 'forbidden':
      raise RuntimeError('no key')
    rows = []
    module.runs.append((options, rows))
    return types.SimpleNamespace(
      log=lambda values, step: rows.append((step, values)),
      finish=lambda: rows.append('end'),
    )

  module.init = init
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return module


def test_rows_go_to_weights_and_biases_and_resume_there(wandb, tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 3}')

  def write(step, resumed_at, project='mine'):
    log = logging_lib.RunLog(
      tmp_path,
      resumed_at=resumed_at,
      num_steps=9,
      active=True,
      project=project,
    )
    log.scalars(step, {'train/loss': 2.0})
    log.close()

  write(1, -1)
  write(2, 1)
  (first, rows), (second, _) = wandb.runs
  assert first['project'] == 'mine' and first['config'] == {'seed': 3}
  assert first['id'] == second['id'] and first['dir'] == str(tmp_path)
  assert rows == [(1, {'train/loss': 2.0}), 'end']
  with pytest.raises(errors.ConfigError, match='WANDB_MODE=offline'):
    write(3, 2, 'forbidden')


def test_its_absence_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(errors.ConfigError, match=r'groupvit_jax\[wandb\]'):
    config_lib.check_packages({'run.wandb': 'mine'})
