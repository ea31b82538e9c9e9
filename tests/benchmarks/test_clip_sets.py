"""CLIP's sets: their tables, and readers of folders, lists, TFDS and VOC."""

import json

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.benchmarks import clip_sets, label_sets
from groupvit_jax.errors import SourceError
from groupvit_jax.evaluation import image_metrics
from groupvit_jax.text import prompts

# Classes and templates of openai/CLIP data/prompts.md.
COUNTS = {
  'birdsnap': (500, 1),
  'cifar10': (10, 18),
  'cifar100': (100, 18),
  'clevr_counts': (8, 1),
  'caltech101': (102, 34),
  'country211': (211, 5),
  'dtd': (47, 8),
  'eurosat': (10, 3),
  'fgvc_aircraft': (100, 2),
  'fer2013': (7, 6),
  'flowers102': (102, 1),
  'food101': (101, 1),
  'gtsrb': (43, 3),
  'hateful_memes': (2, 1),
  'kitti': (4, 1),
  'kinetics700': (700, 28),
  'mnist': (10, 1),
  'oxford_pets': (37, 1),
  'voc2007': (20, 1),
  'pcam': (2, 1),
  'resisc45': (45, 18),
  'sst2': (2, 1),
  'stl10': (10, 2),
  'sun397': (397, 2),
  'stanford_cars': (196, 8),
  'ucf101': (101, 48),
}


def write_image(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
  Image.fromarray(pixels).save(path)


def test_tables_are_whole():
  shifts = dict.fromkeys(label_sets.IMAGENET_SHIFTS, (1000, 80))
  wanted = COUNTS | shifts
  assert label_sets.CLIP_METRICS.keys() == wanted.keys()
  for name, (classes, templates) in wanted.items():
    found = clip_sets.find(name)
    assert len(found.class_names) == classes, name
    assert len(found.templates) == templates, name
    assert all(t.count('{}') == 1 for t in found.templates), name
    assert found.metric in image_metrics.METRICS
    if name not in label_sets.IMAGENET_SHIFTS:  # ImageNet has two names twice
      prompts.check_distinct(found.class_names)


def test_folders_by_name_by_number_and_in_order(tmp_path):
  for i, name in enumerate(('automobile', 'Airplane', 'dog')):
    write_image(tmp_path / 'names' / 'test' / name / 'a.png', i)
    write_image(tmp_path / 'numbers' / f'{(1, 0, 5)[i]:02d}' / 'a.png', i)
  for folder, split in (('names', 'test'), ('numbers', None)):
    found = clip_sets.open_set('cifar10', tmp_path / folder, split)
    assert sorted(found[i].label for i in range(3)) == [0, 1, 5]
    assert found.class_names[1] == 'automobile'
  for name in ('neg', 'pos'):
    write_image(tmp_path / 'sst' / name / 'a.png')
  with pytest.raises(SourceError, match='data.order=sorted'):
    clip_sets.open_set('sst2', tmp_path / 'sst')
  found = clip_sets.open_set('sst2', tmp_path / 'sst', order='sorted')
  assert [found[i].label for i in range(2)] == [0, 1]
  with pytest.raises(SourceError, match='2 folders, and cifar10 has 10'):
    clip_sets.open_set('cifar10', tmp_path / 'sst', order='sorted')


def test_eurosat_is_known_by_its_own_names(tmp_path):
  for name in ('AnnualCrop', 'SeaLake'):
    write_image(tmp_path / name / 'a.png')
  found = clip_sets.open_set('eurosat', tmp_path)
  called = [found.class_names[found[i].label] for i in range(2)]
  assert called == ['annual crop land', 'lake or sea']


def test_lists_name_or_number_their_classes(tmp_path):
  write_image(tmp_path / 'a.png')
  line = {'image': 'a.png', 'label': 1}
  (tmp_path / 'labels.jsonl').write_text(json.dumps(line) + '\n')
  found = clip_sets.open_set('hateful_memes', tmp_path)
  assert found.class_names[found[0].label] == 'hatespeech meme'


def test_variants_of_imagenet(tmp_path):
  for name in ('n01443537', 'n01440764'):
    write_image(tmp_path / 'r' / name / 'a.png')
  found = clip_sets.open_set('imagenet_r', tmp_path / 'r')
  # Predictions are among the classes that occur.
  assert found.class_names == ('tench', 'goldfish')
  assert sorted(found[i].label for i in range(2)) == [0, 1]
  # Of the whole set, also where few images are taken.
  few = clip_sets.open_set('imagenet_r', tmp_path / 'r', limit=1)
  assert len(few) == 1 and few.class_names == found.class_names
  found = clip_sets.open_set('imagenet_sketch', tmp_path / 'r')
  assert len(found.class_names) == 1000
  for name in ('0', '10', '2'):
    write_image(tmp_path / 'v2' / name / 'a.png')
  found = clip_sets.open_set('imagenet_v2', tmp_path / 'v2')
  assert sorted(found[i].label for i in range(3)) == [0, 2, 10]


def test_objectnet_as_downloaded(tmp_path):
  for name in ('chair', 'helmet', 'plate'):
    write_image(tmp_path / 'images' / name / 'a.png')
  mappings = {
    'folder_to_objectnet_label': {
      'chair': 'Chair',
      'helmet': 'Bike helmet',
      'plate': 'Plate',
    },
    'objectnet_to_imagenet_1k': {'Chair': 'folding chair', 'Plate': 'plate'},
  }
  (tmp_path / 'mappings').mkdir()
  for name, content in mappings.items():
    path = tmp_path / 'mappings' / f'{name}.json'
    path.write_text(json.dumps(content))
  found = clip_sets.open_set('objectnet', tmp_path)
  assert found.class_names == ('Chair', 'Plate')
  assert [found[i].label for i in range(len(found))] == [0, 1]


def test_voc_2007_has_several_labels(tmp_path):
  main = tmp_path / 'ImageSets' / 'Main'
  main.mkdir(parents=True)
  names = clip_sets.find('voc2007').class_names
  for name in names:
    values = {'dog': (1, 0), 'person': (1, 1)}.get(name, (-1, -1))
    rows = zip(('000001', '000004'), values, strict=True)
    text = ''.join(f'{image} {value:2d}\n' for image, value in rows)
    (main / f'{name}_test.txt').write_text(text)
  write_image(tmp_path / 'JPEGImages' / '000001.jpg')
  found = clip_sets.open_set('voc2007', tmp_path)
  assert found[0].label[names.index('dog')] == 1
  labels = np.stack([found.encoded(i)[1] for i in range(2)])
  assert labels[1, names.index('dog')] == 0
  assert labels.sum(1).tolist() == [2 - 18, 1 - 18]
  with pytest.raises(SourceError, match='aeroplane_val.txt'):
    clip_sets.open_set('voc2007', tmp_path, 'val')
