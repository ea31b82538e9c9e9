"""What is read, by what is installed and what can be written."""

import logging
import pathlib
import runpy
import sys

import clu
import pytest

from groupvit_jax import errors
from groupvit_jax.data import sources
from groupvit_jax.training import inputs
from groupvit_jax.training import logging as logging_lib

ROOT = pathlib.Path(__file__).parents[2]


def config(*options):
  get_config = runpy.run_path(str(ROOT / 'configs' / 'gvit_s.py'))['get_config']
  return get_config(','.join(['demo,size=16,examples=6', *options]))


@pytest.mark.parametrize('absent', inputs.ON_DISK_NEEDS)
def test_scenes_are_drawn_into_memory_if_any_package_is_absent(
  tmp_path, monkeypatch, caplog, absent
):
  caplog.set_level(logging.INFO, 'absl')
  others = tuple(n for n in inputs.ON_DISK_NEEDS if n != absent)
  needs = (*others, f'no_{absent}')
  monkeypatch.setattr(inputs, 'ON_DISK_NEEDS', needs)
  source = inputs._train_source(config(f'data.cache={tmp_path}/cache'))
  assert isinstance(source, sources.SceneSource) and source.masks is None
  assert f'no_{absent}' in caplog.text and 'groupvit_jax[train]' in caplog.text
  assert not (tmp_path / 'cache').exists()


def test_scenes_are_kept_on_disk_if_nothing_is_absent(tmp_path, caplog):
  for name in inputs.ON_DISK_NEEDS:
    pytest.importorskip(name)
  caplog.set_level(logging.INFO, 'absl')
  source = inputs._train_source(config(f'data.cache={tmp_path}/cache'))
  assert isinstance(source, sources.InMemory)
  assert list((tmp_path / 'cache' / 'scenes').glob('captions_16_n6_s0'))
  assert 'into memory' not in caplog.text


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
  for name in inputs.ON_DISK_NEEDS:
    pytest.importorskip(name)
  (tmp_path / 'file').touch()
  with pytest.raises(
    errors.SourceError, match='cannot keep scenes in .*file/cache.*data.cache'
  ):
    inputs._train_source(config(f'data.cache={tmp_path}/file/cache'))


def test_the_log_names_what_tensorboard_lacks(tmp_path, monkeypatch, caplog):
  caplog.set_level(logging.INFO, 'absl')
  for name in [n for n in sys.modules if n.startswith('clu.')]:
    monkeypatch.delitem(sys.modules, name)
  for name in ('metric_writers', 'periodic_actions'):
    monkeypatch.delattr(clu, name, raising=False)
  monkeypatch.setitem(sys.modules, 'tensorflow', None)  # import fails
  log = logging_lib.RunLog(tmp_path, resumed_at=0, num_steps=1, active=True)
  log.scalars(1, {'loss': 2.0})
  log.close()
  assert 'what is missing: tensorflow' in caplog.text
  assert logging_lib.read_rows(tmp_path / 'metrics.jsonl') == [
    {'step': 1, 'loss': 2.0}
  ]
