"""Every benchmark is read from a folder in its published layout."""

import concurrent.futures
import json

import numpy as np
import pytest
from layout_folders import (
  SIZE,
  box,
  coco_json,
  context_json,
  label_map,
  listing,
  own,
  picture,
  runs,
  stored,
  voc,
)
from PIL import Image

from groupvit_jax import benchmarks
from groupvit_jax.benchmarks import (
  BENCHMARKS,
  ade20k,
  coco,
  label_sets,
  open_set,
  pascal,
)
from groupvit_jax.data import sources


def check(examples, expected: dict[str, list[int]]):
  """The labels are stripes of the expected classes."""
  assert isinstance(examples, benchmarks.LabelledSet)
  assert len(examples) == len(expected)
  for i, (name, values) in enumerate(expected.items()):
    example = examples[i]
    assert example.name == examples.name(i) == name
    assert example.image.shape == (*SIZE, 3)
    assert example.image.dtype == np.uint8
    assert example.label.dtype == np.int32
    np.testing.assert_array_equal(example.label, stored(values))
  assert examples.background == (examples.class_names[0] == 'background')


@pytest.mark.parametrize('inside', ['', 'VOCdevkit', 'VOCdevkit/VOC2012'])
def test_voc(tmp_path, inside):
  voc(tmp_path, {'2008_000002': [0, 20, 255], '2007_000033': [1, 0]})
  folder = tmp_path / inside
  examples = open_set('voc21', folder)
  check(examples, {'2008_000002': [0, 20, 255], '2007_000033': [1, 0]})
  assert len(examples.class_names) == 21
  assert examples.class_names[11] == 'table'
  examples = open_set('voc20', folder)
  check(examples, {'2008_000002': [255, 19, 255], '2007_000033': [0, 255]})
  assert len(examples.class_names) == 20 and examples.class_names[7] == 'cat'


def test_context_from_converted_label_maps(tmp_path):
  base = tmp_path / 'VOC2010'
  for name, values in {'2008_1': [0, 1, 59], '2008_2': [2, 2]}.items():
    picture(base / 'JPEGImages' / f'{name}.jpg')
    label_map(base / 'SegmentationClassContext' / f'{name}.png', values)
  listing(base / 'ImageSets/SegmentationContext/val.txt', ['2008_1', '2008_2'])
  examples = open_set('context60', tmp_path)
  check(examples, {'2008_1': [0, 1, 59], '2008_2': [2, 2]})
  assert examples.class_names[59] == 'wood'
  examples = open_set('context59', tmp_path)
  check(examples, {'2008_1': [255, 0, 58], '2008_2': [1, 1]})


def test_context_from_its_json(tmp_path):
  # 2 aeroplane, 458 wood, 258 motorbike; 1 is none of the 59; 0 is none at all.
  truths = {
    '2008_000009': [2, 458, 1],
    '2008_000007': [258, 0],
    '2007_000001': [2],
  }
  context_json(tmp_path / 'VOCdevkit' / 'VOC2010', truths)
  examples = open_set('context60', tmp_path)
  check(examples, {'2008_000007': [34, 0], '2008_000009': [1, 59, 0]})
  assert examples.class_names[34] == 'motorbike'
  examples = open_set('context59', tmp_path)
  check(examples, {'2008_000007': [33, 255], '2008_000009': [0, 58, 255]})
  train = open_set('context59', tmp_path, split='train')
  assert [train.name(i) for i in range(len(train))] == ['2007_000001']


def test_threads_read_what_one_thread_reads(tmp_path):
  values = {f'2008_{i:06d}': [2, 458, i] for i in range(20)}
  context_json(tmp_path, values)
  examples = open_set('context60', tmp_path)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    read = list(pool.map(examples.__getitem__, range(20)))
  for i, example in enumerate(read):
    assert example.name == examples.name(i)
    np.testing.assert_array_equal(example.image, examples[i].image)
    np.testing.assert_array_equal(example.label, examples[i].label)


def test_ids_of_context_are_in_the_order_of_the_names():
  assert len(pascal._IDS) == 59
  assert list(pascal._IDS) == sorted(pascal._IDS)


def test_later_annotations_of_context_lie_on_top(tmp_path):
  context_json(tmp_path, {'2008_000001': [2, 9]})
  path = tmp_path / 'trainval_merged.json'
  data = json.loads(path.read_text())
  whole = dict(data['annos_segmentation'][0])
  whole |= {'segmentation': runs(np.ones(SIZE)), 'category_id': 18}
  data['annos_segmentation'].insert(1, whole)  # over the first alone
  path.write_text(json.dumps(data))
  check(open_set('context60', tmp_path), {'2008_000001': [3, 2]})


def coco_folder(root):
  for i in (1, 2):
    picture(root / 'images/val2017' / f'{i:012d}.jpg', i)
  return root


def test_coco_object_as_the_released_code_converts_it(tmp_path):
  coco_folder(tmp_path)
  truths = tmp_path / 'annotations/val2017'
  label_map(truths / f'{1:012d}_instanceTrainIds.png', [0, 80, 1])
  label_map(truths / f'{2:012d}_instanceTrainIds.png', [0, 0])
  label_map(truths / f'{1:012d}.png', [100, 3])  # the source, left there
  examples = open_set('coco_object', tmp_path)
  check(examples, {f'{1:012d}': [0, 80, 1], f'{2:012d}': [0, 0]})
  assert examples.class_names[80] == 'toothbrush'


@pytest.mark.parametrize('place', ['annotations', 'stuffthingmaps'])
def test_coco_from_the_label_maps_of_coco_stuff(tmp_path, place):
  coco_folder(tmp_path)
  # 0 person, 89 toothbrush, 12 stop sign; 91 banner, 181 wood; 255 unlabelled.
  label_map(tmp_path / place / 'val2017' / f'{1:012d}.png', [0, 89, 12])
  label_map(tmp_path / place / 'val2017' / f'{2:012d}.png', [91, 181, 255])
  objects = open_set('coco_object', tmp_path)
  check(objects, {f'{1:012d}': [1, 80, 12], f'{2:012d}': [0, 0, 0]})
  stuff = open_set('coco_stuff', tmp_path)
  check(stuff, {f'{1:012d}': [0, 79, 11], f'{2:012d}': [80, 170, 255]})
  assert stuff.class_names[80] == 'banner' and len(stuff.class_names) == 171


def test_coco_stuff_as_mmsegmentation_converts_it(tmp_path):
  coco_folder(tmp_path)
  truths = tmp_path / 'annotations/val2017'
  for i, values in ((1, [0, 170]), (2, [255, 3])):
    label_map(truths / f'{i:012d}_labelTrainIds.png', values)
  check(
    open_set('coco_stuff', tmp_path),
    {f'{1:012d}': [0, 170], f'{2:012d}': [255, 3]},
  )


def test_the_ids_of_coco_are_those_of_its_categories():
  """171 of 182, by the two tables that the field uses."""
  table = coco.stuff_rule().table
  assert sorted(set(table.tolist()) - {-1, 255}) == list(range(171))
  assert np.flatnonzero(table == -1)[:11].tolist() == [
    *(11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
  ]
  objects = coco.object_rule().table
  things = (table >= 0) & (table < 80)
  assert objects[things].tolist() == list(range(1, 81))
  assert not objects[(table >= 80) & (table <= 255)].any()


def test_coco_object_from_instances(tmp_path):
  """Polygons, both kinds of run lengths, crowds below, small ones on top."""
  for i in (1, 2):
    picture(tmp_path / 'val2017' / f'{i:012d}.jpg', i)
  right = np.zeros(SIZE, bool)
  right[:, 6:] = True
  counts = [6 * SIZE[0], 6 * SIZE[0]]  # down the columns, the left half out
  small = np.zeros(SIZE, bool)
  small[:2, :3] = True
  annotations = [
    {
      'category_id': 1,
      'segmentation': [box(0, 0, 3, 2)],
      'area': 6,
      'iscrowd': 0,
    },
    {
      'category_id': 90,
      'segmentation': runs(~right),
      'area': 48,
      'iscrowd': 0,
    },
    {
      'category_id': 13,
      'segmentation': {'size': list(SIZE), 'counts': counts},
      'area': 48,
      'iscrowd': 1,
    },
  ]
  for i, annotation in enumerate(annotations):
    annotation |= {'id': i, 'image_id': 1}
  path = tmp_path / 'annotations/instances_val2017.json'
  coco_json(path, (2, 1), annotations)
  examples = open_set('coco_object', tmp_path)
  assert [examples.name(i) for i in range(2)] == [f'{1:012d}', f'{2:012d}']
  expected = np.where(right, 12, np.where(small, 1, 80))
  np.testing.assert_array_equal(examples[0].label, expected)
  assert not examples[1].label.any()  # a picture without objects


@pytest.mark.parametrize('inside', ['', 'ADEChallengeData2016'])
def test_ade20k(tmp_path, inside):
  root = tmp_path / 'ADEChallengeData2016'
  for name, values in {'ADE_val_1': [0, 1, 150], 'ADE_val_2': [8, 8]}.items():
    picture(root / 'images/validation' / f'{name}.jpg')
    label_map(root / 'annotations/validation' / f'{name}.png', values)
  examples = open_set('ade20k', tmp_path / inside)
  check(examples, {'ADE_val_1': [255, 0, 149], 'ADE_val_2': [7, 7]})
  assert examples.class_names[7] == 'bed' and len(examples.class_names) == 150
  assert len(ade20k._THINGS) == len(set(ade20k._THINGS)) == 100


@pytest.mark.parametrize('kind', ['labelIds', 'labelTrainIds'])
def test_cityscapes(tmp_path, kind):
  values = {'labelIds': [7, 33, 4], 'labelTrainIds': [0, 18, 255]}[kind]
  for city, name in (('ulm', 'ulm_000000_000019'), ('bonn', 'bonn_0_1')):
    picture(tmp_path / 'leftImg8bit/val' / city / f'{name}_leftImg8bit.png')
    truths = tmp_path / 'gtFine/val' / city
    label_map(truths / f'{name}_gtFine_{kind}.png', values)
    label_map(truths / f'{name}_gtFine_instanceIds.png', [0])
    label_map(truths / f'{name}_gtFine_color.png', [0])
  examples = open_set('cityscapes', tmp_path)
  check(
    examples,
    {'bonn/bonn_0_1': [0, 18, 255], 'ulm/ulm_000000_000019': [0, 18, 255]},
  )
  assert examples.class_names[18] == 'bicycle'


def test_a_folder_of_ones_own(tmp_path):
  examples = open_set('folder', own(tmp_path))
  check(examples, {'a': [0, 1, 255], 'sub/b': [2, 2]})
  assert examples.class_names == ('cat', 'dog|puppy', 'grass')
  pixels = np.asarray(Image.open(tmp_path / 'images/a.png'))
  np.testing.assert_array_equal(examples[0].image, pixels)


def test_what_is_hidden_in_a_folder_does_not_count(tmp_path):
  own(tmp_path)
  picture(tmp_path / 'images/.ipynb_checkpoints/c.png')
  picture(tmp_path / 'images/sub/._b.png')
  names = [example.name for example in open_set('folder', tmp_path)]
  assert names == ['a', 'sub/b']


def test_splits_of_a_folder(tmp_path):
  own(tmp_path, 'background\ncat\ndog\n')
  assert open_set('folder', tmp_path).background
  only = open_set('folder', tmp_path, split='sub')
  check(only, {'b': [2, 2]})
  listing(tmp_path / 'test.txt', ['sub/b.jpg', 'a'])
  listed = open_set('folder', tmp_path, split='test')
  check(listed, {'sub/b': [2, 2], 'a': [0, 1, 255]})


def test_scenes_are_those_of_training_runs():
  examples = open_set('scenes', limit=3, size=32, seed=4)
  drawn = sources.SceneSource(
    'validation', 3, 32, 4, masks=True, progress=False, workers=1
  )
  assert len(examples) == 3 and not examples.background
  for i, example in enumerate(examples):
    np.testing.assert_array_equal(example.image, drawn.images[i])
    np.testing.assert_array_equal(example.label, drawn.masks[i])
  assert examples.name(2) == 'validation-000002'
  with pytest.raises(IndexError):
    examples[3]


def test_scenes_may_ask_for_things_alone():
  whole, things = (
    open_set(name, limit=4, size=32) for name in ('scenes', 'scenes_things')
  )
  assert things.background and things.class_names[0] == 'background'
  assert things.class_names[1:] == label_sets.LABEL_SETS['scenes_things']
  for one, other in zip(whole, things, strict=True):
    assert one.name == other.name
    np.testing.assert_array_equal(one.image, other.image)
    names = np.array(whole.class_names)[one.label]
    got = np.array(things.class_names)[other.label]
    is_thing = np.isin(names, things.class_names)
    assert is_thing.any() and not is_thing.all()
    np.testing.assert_array_equal(got, np.where(is_thing, names, 'background'))


def test_what_a_benchmark_is():
  assert set(BENCHMARKS) == {
    *('voc21', 'voc20', 'context60', 'context59', 'coco_object', 'coco_stuff'),
    *('ade20k', 'cityscapes', 'pet', 'scenes', 'folder'),
    'scenes_things',
  }
  for name, benchmark in BENCHMARKS.items():
    assert benchmark.name == name and benchmark.where and benchmark.layout
  with_background = {b.name for b in BENCHMARKS.values() if b.background}
  assert with_background == {
    *('voc21', 'context60', 'coco_object', 'pet', 'scenes_things'),
  }
