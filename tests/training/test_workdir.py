"""Workdirs: whose they are, who trains there, and on what data."""

import logging

import ml_collections
import pytest

from groupvit_jax import errors
from groupvit_jax.training import workdir as workdir_lib

CONFIG = ml_collections.ConfigDict({'seed': 0, 'run': {'keep': 2}})


def begin(path, config=CONFIG):
  workdir = workdir_lib.check(path, config)
  workdir_lib.record_config(workdir, config)
  return workdir


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  with pytest.raises(errors.StorageError, match='choose another with --workd'):
    begin(tmp_path / 'file' / 'run')


def test_a_workdir_is_used_again_with_the_same_config(tmp_path):
  first = begin(tmp_path / 'a' / 'b')
  assert begin(tmp_path / 'a' / 'b') == first
  assert first.is_absolute()


def test_a_workdir_without_a_whole_checkpoint_may_change_its_config(tmp_path):
  begin(tmp_path)
  other = CONFIG.copy_and_resolve_references()
  other.seed = 1
  # Killed within its first save.
  (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').mkdir(parents=True)
  begin(tmp_path, other)
  (tmp_path / 'checkpoints' / '2').mkdir()
  with pytest.raises(errors.WorkdirError, match='seed: 1 -> 0'):
    begin(tmp_path)


def test_a_garbled_config_json_is_an_error_with_a_way_out(tmp_path):
  (tmp_path / 'config.json').write_text('{half')
  (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
  with pytest.raises(errors.WorkdirError, match='not readable as a config'):
    begin(tmp_path)


STORED = {'source': 'shards', 'samples': 96, 'shards': 2, 'index': 'ab12'}
FOUND = STORED | {'samples': 46, 'shards': 1}


def test_other_data_are_refused_with_the_difference(tmp_path):
  workdir_lib.check_data(tmp_path, STORED, dict(STORED), accept=False)
  with pytest.raises(
    errors.WorkdirError, match=r'samples: 96 -> 46\n  shards: 2 -> 1\n.*accept'
  ) as error:
    workdir_lib.check_data(tmp_path, STORED, FOUND, accept=False)
  assert 'index' not in str(error.value)


@pytest.mark.parametrize(
  ('stored', 'accept', 'message'),
  [
    (STORED, True, 'samples: 96 -> 46'),
    (None, False, 'no record of the'),
  ],
)
def test_data_that_are_accepted_are_a_note(
  tmp_path, caplog, stored, accept, message
):
  caplog.set_level(logging.INFO, 'absl')
  workdir_lib.check_data(tmp_path, stored, FOUND, accept)
  assert message in caplog.text


def test_data_fields_may_change_where_other_data_are_accepted(tmp_path):
  config = CONFIG.copy_and_resolve_references()
  config.data = {'shards': ('a.tar',)}
  begin(tmp_path, config)
  (tmp_path / 'checkpoints' / '2').mkdir(parents=True)
  config.data.shards = ('b.tar',)
  with pytest.raises(errors.WorkdirError, match='data.shards'):
    begin(tmp_path, config)
  config.run.accept_other_data = True
  begin(tmp_path, config)
