"""A run's workdir is loaded from its newest whole checkpoint."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs.gvit_s import get_config
from groupvit_jax import convert
from groupvit_jax.convert import architecture, tensors
from groupvit_jax.errors import ModelError
from groupvit_jax.training import checkpoint, task
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import workdir as workdir_lib

ARG = 'demo,size=16,patch=8,width=8,tokens=2x0,groups=2x0'


@pytest.fixture(scope='module')
def config():
  config = get_config(ARG)
  config.text.width = 8
  config.joint.projector_width = 6  # so that there are batch statistics
  return config


def random_variables(config, vocab_size, seed):
  described = task.architecture(config, vocab_size)
  rng = np.random.default_rng(seed)
  shapes = architecture.expected_shapes(described)
  flat = {
    path: rng.normal(size=shape).astype(np.float32)
    for path, shape in shapes.items()
  }
  return tensors.nest(flat)


@pytest.fixture(scope='module')
def saved(config, tmp_path_factory):
  """A workdir with checkpoints of steps 5 and 10, and their variables."""
  workdir = tmp_path_factory.mktemp('runs') / 'demo'
  workdir_lib.record_config(workdir_lib.check(workdir, config), config)
  checkpoints = checkpoint.Checkpoints(workdir)
  variables = {}
  for step in (5, 10):
    variables[step] = random_variables(config, 49408, step)
    state = state_lib.TrainState(
      step=np.int32(step),
      params=variables[step]['params'],
      batch_stats=variables[step]['batch_stats'],
      opt_state={'mu': variables[step]['params']},
      rng=jax.random.key(0),
    )
    checkpoints.save(step, jax.tree.map(jax.numpy.asarray, state), {'at': step})
  checkpoints.close()
  return workdir, variables


@pytest.fixture
def workdir(saved, tmp_path):
  return shutil.copytree(saved[0], tmp_path / 'demo')


def assert_same(ours, theirs):
  ours, theirs = tensors.flatten(ours), tensors.flatten(theirs)
  assert ours.keys() == theirs.keys()
  for path, x in theirs.items():
    assert type(ours[path]) is np.ndarray
    np.testing.assert_array_equal(ours[path], x, err_msg=path)


def test_the_newest_checkpoint_is_loaded(workdir, saved, config):
  summary = {'steps': 10, 'miou': 31.5, 'seed': 0, 'oracle_miou': None}
  (workdir / 'summary.json').write_text(json.dumps(summary))
  converted = convert.load_source(workdir)
  assert_same(converted.variables, saved[1][10])
  assert converted.architecture == task.architecture(config, 49408)
  assert converted.tokenizer == 'clip'
  assert converted.preprocessing['short_side'] == 16
  # The steps of `demo`: no gate, and groups remade from tokens.
  own = converted.preprocessing
  assert own['top_k'] is None and own['regroup'] == 'kmeans'
  assert not own['one_hot'] and own['mix_logits']
  assert converted.metadata['metrics'] == {'miou': 31.5}
  shown = convert.describe(converted)
  assert 'step 10' in shown and 'miou 31.5 (on scenes, 400 images)' in shown
  assert 'scenes, 30,000 synthetic images' in shown and 'mushroom' in shown
  assert 'tree leaves' in converted.metadata['words']


def test_a_run_becomes_a_model_folder(workdir, saved, tmp_path):
  message = convert.convert(workdir, tmp_path / 'model')
  assert 'trained by groupvit_jax' in message
  again = convert.load_source(tmp_path / 'model')
  assert_same(again.variables, saved[1][10])
  assert {'data', 'words', 'benchmark', 'classes'} < again.metadata.keys()
  card = (tmp_path / 'model' / 'README.md').read_text()
  assert "['leaf', 'mushroom', 'starfish']" in card
  # `demo` is the tied form, for which their class has no place.
  with pytest.raises(ModelError, match='group_residual=False'):
    convert.convert(workdir, tmp_path / 'hf', to='huggingface')


def test_metrics_of_another_step_are_not_claimed(workdir):
  for text in ('{"steps": 20, "miou": 31.5}', '[10]'):
    (workdir / 'summary.json').write_text(text)
    assert convert.load_source(workdir).metadata['metrics'] == {}


@pytest.mark.parametrize('broken', ['unlisted', 'cut', 'emptied', 'altered'])
def test_a_broken_checkpoint_is_passed_over(workdir, saved, caplog, broken):
  state = workdir / 'checkpoints' / '10' / 'state'
  if broken == 'unlisted':
    (state / 'manifest.ocdbt').unlink()
  elif broken == 'emptied':
    shutil.rmtree(state)
    state.mkdir()
  elif broken == 'altered':
    path = workdir / 'checkpoint_digests' / '10.json'
    path.write_text(path.read_text().replace(': "', ': "0'))
  else:
    for path in state.rglob('d/*'):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  converted = convert.load_source(workdir)
  assert converted.metadata['step'] == 5
  assert_same(converted.variables, saved[1][5])
  assert 'step 10 is damaged' in caplog.text


def test_no_checkpoint_is_told(workdir):
  for step in ('5', '10'):
    shutil.rmtree(workdir / 'checkpoints' / step)
  with pytest.raises(ModelError, match='none is whole yet'):
    convert.load_source(workdir)


def test_an_unknown_config_is_told(workdir):
  config = json.loads((workdir / 'config.json').read_text())
  del config['joint']
  (workdir / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ModelError, match="lacks 'joint'"):
    convert.load_source(workdir)


def test_a_lost_tokenizer_is_told(workdir):
  config = json.loads((workdir / 'config.json').read_text())
  config['data']['tokenizer'] = '/gone/tokenizer.model'
  (workdir / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ModelError, match='tokenizer of the run is gone'):
    convert.load_source(workdir)


def test_config_json_is_the_one_that_runs_write(workdir, config):
  assert (workdir / 'config.json').read_text() == config_lib.to_json(config)
