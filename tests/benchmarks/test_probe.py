"""A probe end to end: features kept, splits, figures, one and eight devices."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import cli, sharding
from groupvit_jax.benchmarks import build, probe, scene_sets
from groupvit_jax.errors import ConfigError
from groupvit_jax.viz import probe_chart

SPEC = probe.ProbeSpec(
  'scene_crops',
  validation='validation',
  limit=90,
  options={'size': 32},
  shots=(1,),
  seeds=1,
)


def tokenizer(texts):
  return np.array([[len(text), hash(text) % 97, 1] for text in texts], np.int32)


ENCODER = build.Encoder(tokenizer, (8, 8), 8, groups=False, clip=True)


@pytest.fixture(scope='module')
def stub():
  """A model that sees colours."""

  def features(variables, images):
    x = images.astype(jnp.float32).reshape(len(images), -1) / 255
    pooled = jnp.concatenate([x.mean(1, keepdims=True), x[:, ::8]], 1)
    return {'projected': pooled @ variables['w'], 'pooled': pooled}

  def text(variables, tokens):
    return jnp.sin(tokens[:, :1] * jnp.arange(1, 6.0)) + 0 * variables['w'][0]

  w = np.random.default_rng(0).normal(size=(25, 5)).astype(np.float32)
  return {'features': features, 'text': text}, {'w': w}


@pytest.fixture(scope='module')
def first(stub, tmp_path_factory):
  fns, variables = stub
  folder = tmp_path_factory.mktemp('probe')
  return folder, probe.run(SPEC, ENCODER, fns, variables, keep=folder)


def test_figures_are_shares_and_every_part_is_there(first):
  _, result = first
  assert result['images'] == dict.fromkeys(('train', 'validation', 'test'), 90)
  assert result['metric'] == 'accuracy'
  assert [len(x) for x in result['few_shot'].values()] == [1]
  figures = [result['zero_shot'], result['probe']]
  figures += sum(result['few_shot'].values(), [])
  assert all(0 <= figure <= 1 for figure in figures)
  # Colours tell some things from others.
  assert result['probe'] > 1 / 12
  assert result['strength'] in result['searched']


def test_features_are_kept_until_the_weights_change(tmp_path):
  path, made = tmp_path / 'features.npz', []

  def make():
    made.append(len(made))
    x = np.full((2, 3), len(made), np.float32)
    return probe.Features(x, x, np.array([0, 1], np.int32))

  first = probe.kept(path, {'weights': 1}, make)
  again = probe.kept(path, {'weights': 1}, make)
  np.testing.assert_array_equal(again.pooled, first.pooled)
  assert len(made) == 1
  other = probe.kept(path, {'weights': 2}, make)
  assert len(made) == 2 and other.pooled[0, 0] == 2


def test_eight_devices_give_the_same_features(stub):
  fns, variables = stub
  examples = scene_sets.SceneCrops(count=11, size=32)
  mesh, found = sharding.make_mesh(), []
  for where, placed in (
    (None, variables),
    (mesh, sharding.replicate(variables, mesh)),
  ):
    found.append(
      probe.extract(
        examples,
        lambda image: image[:8, :8],
        fns['features'],
        placed,
        batch_size=8,
        mesh=where,
      )
    )
  one, eight = found
  assert one.projected.shape == (11, 5)
  np.testing.assert_allclose(one.projected, eight.projected, atol=1e-5)
  np.testing.assert_array_equal(one.labels, eight.labels)


def test_what_cannot_be_probed_is_said(stub):
  fns, variables = stub
  for spec, message in (
    (probe.ProbeSpec('voc2007', '.'), 'one label an image'),
    (probe.ProbeSpec('captions', '.'), 'cannot be probed; choose'),
    (dataclasses.replace(SPEC, shots=(999,)), 'shots need'),
  ):
    with pytest.raises(ConfigError, match=message):
      probe.run(spec, ENCODER, fns, variables)


def test_the_chart_is_written(first, tmp_path):
  _, result = first
  probe_chart.draw(result, tmp_path / 'probe.png')
  assert (tmp_path / 'probe.png').stat().st_size > 5000


def test_the_command_writes_its_figures(evaluation_folders, tmp_path, capsys):
  model = evaluation_folders.model(tmp_path / 'model')
  arguments = ['--model', str(model), '--benchmark', 'scene_crops']
  arguments += ['--limit', '40', '--set', 'data.size=32']
  arguments += ['--shots', 'none', '--features', 'pooled']
  code = cli.main(['probe', *arguments, '--out', str(tmp_path / 'out')])
  shown = capsys.readouterr()
  assert code == 0, shown.err
  assert 'linear probe' in shown.out
  written = json.loads((tmp_path / 'out' / 'probe.json').read_text())
  assert written['few_shot'] == {} and written['features'] == 'pooled'
  assert (tmp_path / 'out' / 'probe.png').exists()
  assert cli.main(['probe', '--model', str(model), '--benchmark', 'dtd']) == 1
  assert '--data DIR' in capsys.readouterr().err
