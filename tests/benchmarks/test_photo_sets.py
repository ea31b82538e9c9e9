"""The public photo sets beside the checkout, through the readers of layouts.

Skipped where they are absent: GROUPVIT_SHARED names another place than
../shared.
"""

import collections
import json
import os
import pathlib

import numpy as np
import pytest

from groupvit_jax import benchmarks

_BESIDE = pathlib.Path(__file__).parents[3] / 'shared'
DATA = pathlib.Path(os.environ.get('GROUPVIT_SHARED', _BESIDE)) / 'data'

pytestmark = pytest.mark.photos


def folder(name: str) -> pathlib.Path:
  path = DATA / name
  if not path.is_dir():
    pytest.skip(f'{path} is not here (GROUPVIT_SHARED names its parent folder)')
  return path


def classes(examples, count=None) -> collections.Counter:
  """Images in which each class occurs, all of them or the first ones."""
  found = collections.Counter()
  for i in range(count or len(examples)):
    example = examples[i]
    assert example.image.shape[:2] == example.label.shape
    labels = set(np.unique(example.label).tolist()) - {255}
    found.update(examples.class_names[label] for label in labels)
  return found


def test_voc2012():
  path = folder('voc2012')
  examples = benchmarks.open_set('voc21', path)
  assert len(examples) == 226
  found = classes(examples)
  # As its README counts them.
  assert (found['dog'], found['horse'], found['cat']) == (46, 45, 68)
  assert found['person'] == 50 and 'train' not in found
  assert len(benchmarks.open_set('voc21', path, split='train')) == 50
  without = benchmarks.open_set('voc20', path)
  assert 'background' not in without.class_names
  both = examples[0].label, without[0].label
  objects = (both[0] > 0) & (both[0] < 255)
  np.testing.assert_array_equal(both[0][objects], both[1][objects] + 1)
  assert (both[1][~objects] == 255).all()


def test_coco_seg():
  path = folder('coco_seg')
  examples = benchmarks.open_set('coco_object', path)
  assert len(examples) == 202
  known = json.loads((path / 'classes.json').read_text())['object']
  known = known.values() if isinstance(known, dict) else known
  names = tuple(n['name'] if isinstance(n, dict) else n for n in known)
  assert examples.class_names == names
  found = classes(examples, 60)
  assert found['background'] == 60 and found['person'] > 10
  train = benchmarks.open_set('coco_object', path, split='train2017')
  assert len(train) == 60


def test_imagenet_samples():
  images = benchmarks.open_labelled_images(folder('imagenet_samples'))
  assert len(images) == 40 and len(images.class_names) == 1000
  named = {image.name: images.class_names[image.label] for image in images}
  assert named['images/n01774384_black_widow.JPEG'] == 'southern black widow'


def test_captions():
  path = folder('flickr8k_224')
  found = benchmarks.open_captions(path, 'val')
  assert len(found) == 150 and len(benchmarks.open_captions(path)) == 1200
  assert found[0].image.shape == (224, 224, 3)
  assert all(len(found.captions(i)) == 5 for i in range(150))
  coco = benchmarks.open_captions(folder('coco_seg'))
  assert len(coco) == 262
  assert sum(len(coco.captions(i)) for i in range(262)) >= 1310
