"""Benchmarks as TFDS keeps them, with the features of its builders."""

import numpy as np
import pytest
from PIL import Image

from groupvit_jax import benchmarks
from groupvit_jax.benchmarks import open_set, tfds_sets
from groupvit_jax.errors import ImageError, SourceError

tfds = pytest.importorskip('tensorflow_datasets')


def prepare(folder, name, features, splits, config=None, version='1.0.0'):
  """Writes a data set as TFDS does, of records with paths of images."""
  tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version=version,
    config=config,
    features=tfds.features.FeaturesDict(features),
    split_datasets={k: list(enumerate(v)) for k, v in splits.items()},
    data_dir=folder,
    file_format='array_record',
    disable_shuffling=True,
  )
  return folder


@pytest.fixture
def png(disk):
  """Writes an image, or a label map of values; its path."""

  def png(name, values=None, **options):
    if values is None:
      disk.image(f'files/{name}.png', **options)
    else:
      disk.labels(f'files/{name}.png', values, **options)
    return str(disk.root / f'files/{name}.png')

  return png


def test_cityscapes(tmp_path, disk, png):
  features = {
    'image_id': tfds.features.Text(),
    'image_left': tfds.features.Image(encoding_format='png'),
    'segmentation_label': tfds.features.Image(
      shape=(None, None, 1), encoding_format='png', use_colormap=True
    ),
  }
  records = [
    {
      'image_id': f'ulm_{i}',
      'image_left': png(f'p{i}', seed=i),
      'segmentation_label': png(f't{i}', values, palette=bool(i)),
    }
    for i, values in enumerate(([7, 33, 4], [26, 26, 0]))
  ]
  data_dir = prepare(
    tmp_path / 'tfds',
    'cityscapes',
    features,
    {'validation': records},
    config='semantic_segmentation',
  )
  place = 'cityscapes/semantic_segmentation/1.0.0'
  for folder in (data_dir, data_dir / 'cityscapes', data_dir / place):
    examples = open_set('cityscapes', folder)
    assert isinstance(examples, benchmarks.LabelledSet)
    assert len(examples) == 2 and examples.name(1) == 'validation-000001'
    np.testing.assert_array_equal(examples[0].label, disk.stripes([0, 18, 255]))
    np.testing.assert_array_equal(
      examples[1].label, disk.stripes([13, 13, 255])
    )
    assert examples[1].image.shape == (*disk.size, 3)
  with pytest.raises(SourceError, match=r"as 'train' \(its splits: validation"):
    open_set('cityscapes', data_dir, split='train')


def test_pets(tmp_path, disk, png):
  features = {
    'image': tfds.features.Image(encoding_format='png'),
    'species': tfds.features.ClassLabel(names=['Cat', 'Dog']),
    'segmentation_mask': tfds.features.Image(
      shape=(None, None, 1), encoding_format='png', use_colormap=True
    ),
  }
  trimaps = (('Cat', [1, 2, 3]), ('Dog', [3, 1]), ('Dog', [0, 1]))
  records = [
    {
      'image': png(f'p{i}', seed=i),
      'species': species,
      'segmentation_mask': png(f't{i}', values),
    }
    for i, (species, values) in enumerate(trimaps)
  ]
  data_dir = prepare(
    tmp_path, 'oxford_iiit_pet', features, {'test': records}, version='4.0.0'
  )
  examples = open_set('pet', data_dir)
  assert examples.class_names == ('background', 'cat', 'dog')
  assert examples.background
  np.testing.assert_array_equal(examples[0].label, disk.stripes([1, 0, 255]))
  np.testing.assert_array_equal(examples[1].label, disk.stripes([255, 2]))
  with pytest.raises(
    ImageError, match='label map of .* record 2 has labels out'
  ):
    examples[2]


@pytest.mark.parametrize('things', [False, True])
def test_ade20k(tmp_path, disk, png, things, caplog):
  """Labels of the scene challenge, or TFDS 1.0.0's of the instances."""
  values = disk.stripes([0, 1, 100])
  if things:  # red is the class among the things, green the instance
    values = np.stack([values, values * 2, np.zeros_like(values)], -1)
  path = tmp_path / 'labels.png'
  Image.fromarray(values).save(path)
  features = {
    'image': tfds.features.Image(encoding_format='png'),
    'annotation': tfds.features.Image(encoding_format='png'),
  }
  record = {
    'image': png('p', seed=0),
    'annotation': str(path),
  }
  data_dir = prepare(tmp_path, 'scene_parse150', features, {'test': [record]})
  (example,) = open_set('ade20k', data_dir)
  # 8 is the bed, the first of the things; 150 is the flag, the last.
  expected = [255, 7, 149] if things else [255, 0, 99]
  np.testing.assert_array_equal(example.label, disk.stripes(expected))
  assert ('labels of the instance challenge' in caplog.text) == things


def test_the_newest_version_is_taken(tmp_path):
  for version in ('1.9.0', '1.10.0', 'incomplete.1'):
    folder = tmp_path / 'cityscapes' / version
    folder.mkdir(parents=True)
    if 'incomplete' not in version:
      (folder / 'dataset_info.json').write_text('{}')
  found = tfds_sets.find(tmp_path, 'cityscapes')
  assert found == tmp_path / 'cityscapes' / '1.10.0'
  assert tfds_sets.find(tmp_path, 'oxford_iiit_pet') is None
  assert tfds_sets.find(tmp_path / 'cityscapes', 'oxford_iiit_pet') is None


def test_a_data_set_of_other_features(tmp_path, png):
  features = {'image': tfds.features.Image(encoding_format='png')}
  records = [{'image': png('p', seed=0)}]
  prepare(tmp_path, 'oxford_iiit_pet', features, {'test': records})
  with pytest.raises(SourceError, match="has no feature 'segmentation_mask'"):
    open_set('pet', tmp_path)
