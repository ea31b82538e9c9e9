"""A probe end to end: features kept, splits, figures, one and eight devices."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from groupvit_jax import cli, sharding
from groupvit_jax.benchmarks import build, clip_sets, probe, scene_sets
from groupvit_jax.errors import ConfigError
from groupvit_jax.evaluation import evaluator, image_level


def tokenizer(texts):
  return np.array([[len(text), 1] for text in texts], np.int32)


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


class Counted(scene_sets.SceneCrops):
  """Crops that know how often they were read."""

  reads = 0

  def __getitem__(self, index):
    self.reads += 1
    return super().__getitem__(index)


def test_features_are_kept_and_the_same_on_eight_devices(stub, tmp_path):
  fns, variables = stub
  mesh, found = sharding.make_mesh(), []
  for where, placed, path in (
    (None, variables, tmp_path / 'one'),
    (mesh, sharding.replicate(variables, mesh), None),
    (None, variables, tmp_path / 'one'),
  ):
    examples = Counted(count=11, size=32)
    extractor = image_level.FeatureExtractor(
      examples,
      lambda image: image[:8, :8],
      {},
      evaluator.RunOptions(batch_size=2, mesh=where, resume_path=path),
    )
    found.append((extractor.evaluate(fns, placed), examples.reads))
  (one, _), (eight, _), (again, reads) = found
  assert one.projected.shape == (11, 5)
  np.testing.assert_allclose(one.projected, eight.projected, atol=1e-5)
  np.testing.assert_array_equal(one.labels, eight.labels)
  np.testing.assert_array_equal(one.pooled, again.pooled)
  assert reads == 1  # whose size tells how wide the features are


def test_several_labels_an_image(stub, tmp_path, monkeypatch):
  """Of VOC 2007: images of one colour for each class."""
  names = clip_sets.find('voc2007').class_names
  (tmp_path / 'JPEGImages').mkdir()
  (tmp_path / 'ImageSets' / 'Main').mkdir(parents=True)
  for i, name in enumerate(names):
    for split in ('train', 'val', 'test'):
      rows = [f'{split}{j} {1 if j == i else -1}\n' for j in range(20)]
      path = tmp_path / 'ImageSets' / 'Main' / f'{name}_{split}.txt'
      path.write_text(''.join(rows))
      colour = [40 * (i % 6), 40 * (i // 6), 255 - 12 * i]
      Image.fromarray(np.full((9, 12, 3), colour, np.uint8)).save(
        tmp_path / 'JPEGImages' / f'{split}{i}.jpg'
      )
  fns, variables = stub
  spec = probe.ProbeSpec(
    'voc2007', tmp_path, validation='val', features='pooled', shots=(1,)
  )
  result = probe.run(spec, ENCODER, fns, variables, keep=tmp_path / 'out')
  assert result['metric'] == 'map_11_point'
  assert result['probe'] > 0.5 > result['zero_shot']
  # One image of each class are all that there are.
  assert len(set(result['few_shot'][1])) == 1
  # Features of other weights are replaced; no second search.
  monkeypatch.setattr(probe._Solver, 'solve', lambda *unused: {})
  other = probe.run(
    spec, ENCODER, fns, {'w': -variables['w']}, keep=tmp_path / 'out'
  )
  assert other['zero_shot'] != result['zero_shot']


def test_what_cannot_be_probed_is_said(stub):
  fns, variables = stub
  for spec, message in (
    (probe.ProbeSpec('imagenet_v2', '.'), 'no training split'),
    (probe.ProbeSpec('captions', '.'), 'cannot be probed; choose'),
  ):
    with pytest.raises(ConfigError, match=message):
      probe.run(spec, ENCODER, fns, variables)


def test_the_command_writes_its_figures(evaluation_folders, tmp_path, capsys):
  model = evaluation_folders.model(tmp_path / 'model')
  arguments = ['--model', str(model), '--benchmark', 'scene_crops']
  arguments += ['--limit', '24', '--set', 'data.size=32']
  arguments += ['--shots', '1', '--seeds', '2', '--out', str(tmp_path / 'out')]
  code = cli.main(['probe', *arguments])
  shown = capsys.readouterr()
  assert code == 0, shown.err
  assert 'linear probe' in shown.out
  result = json.loads((tmp_path / 'out' / 'probe.json').read_text())
  assert result['images'] == dict.fromkeys(('train', 'validation', 'test'), 24)
  assert (result['metric'], result['features']) == ('accuracy', 'projected')
  figures = [result['zero_shot'], result['probe'], *result['few_shot']['1']]
  assert len(figures) == 4 and all(0 <= figure <= 1 for figure in figures)
  assert str(result['strength']) in result['searched']
  assert (tmp_path / 'out' / 'probe.png').stat().st_size > 5000
  assert cli.main(['probe', '--model', str(model), '--benchmark', 'dtd']) == 1
  assert '--data DIR' in capsys.readouterr().err
