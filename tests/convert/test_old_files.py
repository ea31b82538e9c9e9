"""Files written by the version of 2026-11 (commit 4fde00e) still work."""

import json
import pathlib
import tarfile

import numpy as np
import pytest

import groupvit_jax as gv

ARCHIVE = pathlib.Path(__file__).parents[1] / 'testdata' / 'old_files.tar.xz'


@pytest.fixture(scope='module')
def old_files(tmp_path_factory):
  """A run of four steps, its model folder, tokenizer and outputs."""
  folder = tmp_path_factory.mktemp('old_files')
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(folder)
  # The run names its tokenizer by an absolute path.
  path = folder / 'run' / 'config.json'
  config = json.loads(path.read_text())
  config['data']['tokenizer'] = str(folder / 'tok')
  path.write_text(json.dumps(config))
  return folder


@pytest.mark.parametrize('source', ['model', 'run'])
def test_an_old_model_answers_as_it_did(source, old_files):
  expected = np.load(old_files / 'outputs.npz')
  model = gv.load(old_files / source)
  np.testing.assert_allclose(
    model.encode_text(['a fish on grass']), expected['text'], atol=1e-5
  )
  np.testing.assert_allclose(
    model.encode_image(expected['image']),
    expected['image_embedding'],
    atol=1e-5,
  )
  labels = model.segment(expected['image'], ['fish', 'grass', 'water']).labels
  assert (labels == expected['labels']).mean() > 0.999
