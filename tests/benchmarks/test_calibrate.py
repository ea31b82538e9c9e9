"""Thresholds that `groupvit evaluate --calibrate` learns without masks."""

import json

import jax
import numpy as np
import pytest

import groupvit_jax as gv
from groupvit_jax import cli, errors
from groupvit_jax.benchmarks import build, calibrate
from groupvit_jax.data import images
from groupvit_jax.evaluation import calibration, regions, zero_shot
from groupvit_jax.evaluation.evaluator import RunOptions
from groupvit_jax.text import prompts

SIDE = 16
NAMES = ('dog|puppy', 'grass', 'sky', 'sea')


@pytest.fixture(scope='module')
def places(evaluation_folders, tmp_path_factory):
  root = tmp_path_factory.mktemp('calibrated')
  places = {
    'model': evaluation_folders.model(root / 'model'),
    'photos': evaluation_folders.segmented(root / 'photos'),
    'captions': evaluation_folders.captioned(root / 'captions', 6),
  }
  places['images'] = places['captions'] / 'images'
  return places


@pytest.fixture(scope='module')
def model(places):
  return gv.load(places['model'])


def spec(places, **fields):
  return build.BenchmarkSpec(
    benchmark='folder',
    folder=places['photos'],
    overrides=build.at_size(SIDE) | fields.pop('overrides', {}),
    **fields,
  )


def calibrated(model, spec, folder, **options):
  return calibrate.calibrate(
    spec,
    model.as_encoder(),
    model.predict_fns,
    model.variables,
    folder,
    **options,
  )


def values(evaluation_folders, places, model):
  """Every class's best cosine in each image, all images at once."""
  photos = evaluation_folders.read_images(places['images'])
  batch = np.stack([images.crop(p, (SIDE, SIDE), clip=True) for p in photos])
  tokens = zero_shot.tokenize_classes(model.tokenizer, NAMES, prompts.SIMPLE)
  fns, variables = model.predict_fns, model.variables
  text = zero_shot.embed_tokens(fns['text'], variables, tokens)
  encoded = regions.encode_batch(fns['regions'], variables, batch)
  return np.asarray(calibration.best_cosines(encoded, text))


def test_thresholds_are_those_of_the_captions(
  evaluation_folders, places, model
):
  found = calibrated(
    model, spec(places), places['captions'], options=RunOptions(batch_size=4)
  )
  rows = map(
    json.loads, (places['captions'] / 'captions.jsonl').read_text().splitlines()
  )
  named = calibration.mentions([row['captions'] for row in rows], NAMES)
  assert named.any(0).tolist() == [True, False, False, True]  # dog, sea
  wanted = calibration.from_captions(
    values(evaluation_folders, places, model), named
  )
  np.testing.assert_allclose(
    found.overrides['class_thresholds'], wanted, atol=1e-5
  )
  assert found.calibration == {
    'data': str(places['captions']),
    'images': 6,
  }
  assert found.overrides['short_side'] == SIDE  # what was asked for stays


def test_the_command_measures_with_them(places, model, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda *_: 1)
  out = tmp_path / 'out.json'
  argv = ['evaluate', '--model', places['model'], '--benchmark', 'folder']
  argv += ['--data', places['photos'], '--size', SIDE, '--out', out]
  assert (
    cli.main([*map(str, argv), '--calibrate', str(places['captions'])]) == 0
  )
  report = json.loads(out.read_text())
  changed = calibrated(model, spec(places), places['captions'])
  told = report['settings']['protocol']
  assert 'class_thresholds' in told['changed']
  np.testing.assert_allclose(
    told['segment']['class_thresholds'],
    changed.overrides['class_thresholds'],
    atol=1e-5,
  )
  assert report['settings']['calibration'] == dict(changed.calibration)
  result = build.make(changed, model.as_encoder()).evaluator.evaluate(
    model.predict_fns, model.variables
  )
  matrix = np.asarray(report['confusion_matrix'])
  np.testing.assert_array_equal(matrix, result.confusion_matrix)
  # Neither everything nor nothing is background: the thresholds decide.
  assert 0 < matrix[:, 0].sum() < matrix.sum()


@pytest.mark.parametrize(
  ('fields', 'folder', 'reason'),
  [
    ({'overrides': {'background_threshold': 0.5}}, 'captions', 'leave backgro'),
    ({'regions': 'kmeans'}, 'captions', 'groups of their own'),
    ({'class_names': ('background', *'wxyz')}, 'captions', 'No caption names'),
    ({}, 'nowhere', 'nowhere'),
    ({}, 'images', 'captions'),
  ],
)
def test_what_cannot_be_calibrated(places, model, fields, folder, reason):
  with pytest.raises(errors.UserError, match=reason):
    calibrated(model, spec(places, **fields), places.get(folder, folder))


def test_there_must_be_a_background(places, model):
  changed = build.BenchmarkSpec('scenes', options={'count': 2, 'size': SIDE})
  with pytest.raises(errors.ConfigError, match='scenes has no background'):
    calibrated(model, changed, places['captions'])
