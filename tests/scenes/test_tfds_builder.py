"""The TFDS builder: what is on disk, and that training data hold no masks."""

import json
import pathlib

import numpy as np
import pytest

from groupvit_jax import scenes
from groupvit_jax.scenes import tfds_builder

pytest.importorskip('tensorflow_datasets')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp('tfds')


def test_training_data_on_disk_hold_no_mask(data_dir):
  builder = tfds_builder.prepared('captions', 32, 12, 5, data_dir=data_dir)
  source = builder.as_data_source('train')
  assert len(source) == 12
  assert set(source[0]) == {'image', 'captions'}
  folder = data_dir / 'scenes' / 'captions_32_n12_s5' / '2.1.0'
  assert {path.suffix for path in folder.iterdir()} >= {'.json'}
  described = (folder / 'features.json').read_text()
  assert 'mask' not in described and 'label' not in described.lower()
  records = [p for p in folder.iterdir() if 'array_record' in p.name]
  assert records
  for path in records:
    # Field names stand in the records as they are.
    data = path.read_bytes()
    assert b'mask' not in data
  splits = json.loads((folder / 'dataset_info.json').read_text())['splits']
  assert [split['name'] for split in splits] == ['train']


def test_what_is_read_back_is_what_was_generated(data_dir):
  builder = tfds_builder.prepared('masks', 32, 10, 5, data_dir=data_dir)
  source = builder.as_data_source('validation')
  made = scenes.generate_many('validation', 10, 32, 5, workers=1)
  assert len(source) == 10
  for i in range(10):
    example = source[i]
    np.testing.assert_array_equal(example['image'], made.images[i])
    np.testing.assert_array_equal(example['mask'][..., 0], made.masks[i])
    read = tuple(text.decode() for text in example['captions'])
    assert read == made.captions[i]


def test_prepared_data_are_not_generated_again(data_dir, monkeypatch):
  arguments = ('captions', 32, 6, 0)
  tfds_builder.prepared(*arguments, data_dir=data_dir)

  def refuse(*unused_args, **unused_kwargs):
    raise AssertionError('generated again')

  monkeypatch.setattr(scenes, 'generate_chunks', refuse)
  builder = tfds_builder.prepared(*arguments, data_dir=data_dir)
  assert len(builder.as_data_source('train')) == 6
  with pytest.raises(AssertionError, match='generated again'):
    tfds_builder.prepared('captions', 32, 6, 1, data_dir=data_dir)


def test_configs_are_named_by_what_they_hold(data_dir):
  assert tfds_builder.config('captions', 64, 20_000, 0).name == 'captions_64'
  assert tfds_builder.config('masks', 48, 9, 2).name == 'masks_48_n9_s2'
  with pytest.raises(ValueError, match='holds captions only'):
    tfds_builder.config('everything', 64, 9, 0)
  config = tfds_builder.config('masks', 64, 1000, 0)
  builder = tfds_builder.classes()[1](config=config, data_dir=str(data_dir))
  assert builder.name == 'scenes'
  assert builder.info.file_format.value == 'array_record'
  assert builder.info.features['mask'].names == list(scenes.CLASS_NAMES)
