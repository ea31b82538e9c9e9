"""Every benchmark is read from a folder in its published layout."""

import concurrent.futures

import numpy as np
import pytest
from PIL import Image

from groupvit_jax import benchmarks, scenes
from groupvit_jax.benchmarks import BENCHMARKS, codings, label_sets, open_set

IDS = (f'{1:012d}', f'{2:012d}')


@pytest.fixture
def check(disk):
  """Asserts that labels are stripes of the expected classes."""

  def check(examples, expected: dict[str, list[int]]):
    assert isinstance(examples, benchmarks.LabelledSet)
    assert len(examples) == len(expected)
    for i, (name, values) in enumerate(expected.items()):
      example = examples[i]
      assert example.name == examples.name(i) == name
      assert example.image.shape == (*disk.size, 3)
      assert example.image.dtype == np.uint8
      assert example.label.dtype == np.int32
      np.testing.assert_array_equal(example.label, disk.stripes(values))
    assert examples.background == (examples.class_names[0] == 'background')

  return check


@pytest.mark.parametrize('inside', ['', 'VOCdevkit', 'VOCdevkit/VOC2012'])
def test_voc(disk, check, inside):
  disk.voc({'2008_000002': [0, 20, 255], '2007_000033': [1, 0]})
  examples = open_set('voc21', disk.root / inside)
  check(examples, {'2008_000002': [0, 20, 255], '2007_000033': [1, 0]})
  assert len(examples.class_names) == 21
  assert examples.class_names[11] == 'table'
  examples = open_set('voc20', disk.root / inside)
  check(examples, {'2008_000002': [255, 19, 255], '2007_000033': [0, 255]})
  assert len(examples.class_names) == 20 and examples.class_names[7] == 'cat'


def test_context_from_converted_label_maps(disk, check):
  for name, values in {'2008_1': [0, 1, 59], '2008_2': [2, 2]}.items():
    disk.image(f'VOC2010/JPEGImages/{name}.jpg')
    disk.labels(f'VOC2010/SegmentationClassContext/{name}.png', values)
  listed = 'VOC2010/ImageSets/SegmentationContext/val.txt'
  disk.lines(listed, ['2008_1', '2008_2'])
  examples = open_set('context60', disk.root)
  check(examples, {'2008_1': [0, 1, 59], '2008_2': [2, 2]})
  assert examples.class_names[59] == 'wood'
  examples = open_set('context59', disk.root)
  check(examples, {'2008_1': [255, 0, 58], '2008_2': [1, 1]})


def test_context_from_its_json(disk, check, names):
  # 2 aeroplane, 458 wood, 258 motorbike; 1 is none of the 59; 0 is none at all.
  labels_of = {'2008_000009': [2, 458, 1], '2008_000007': [258, 0]}
  disk.context(labels_of | {'2007_000001': [2]}, 'VOCdevkit/VOC2010')
  examples = open_set('context60', disk.root)
  check(examples, {'2008_000007': [34, 0], '2008_000009': [1, 59, 0]})
  assert examples.class_names[34] == 'motorbike'
  examples = open_set('context59', disk.root)
  check(examples, {'2008_000007': [33, 255], '2008_000009': [0, 58, 255]})
  train = open_set('context60', disk.root, split='train')
  assert names(train) == ['2007_000001']


def test_threads_read_what_one_thread_reads(disk):
  disk.context({f'2008_{i:06d}': [2, 458, i] for i in range(20)})
  examples = open_set('context60', disk.root)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    read = list(pool.map(examples.__getitem__, range(20)))
  for i, example in enumerate(read):
    assert example.name == examples.name(i)
    np.testing.assert_array_equal(example.image, examples[i].image)
    np.testing.assert_array_equal(example.label, examples[i].label)


def test_later_annotations_of_context_lie_on_top(disk, check):
  data = disk.context({'2008_000001': [2, 9]})
  whole = dict(data['annos_segmentation'][0])
  whole |= {'segmentation': disk.runs(np.ones(disk.size)), 'category_id': 18}
  data['annos_segmentation'].insert(1, whole)  # over the first alone
  disk.json('trainval_merged.json', data)
  check(open_set('context60', disk.root), {'2008_000001': [3, 2]})


@pytest.fixture
def coco_images(disk):
  for i, name in enumerate(IDS):
    disk.image(f'images/val2017/{name}.jpg', i)


def labelled(disk, place, ending, *values):
  for name, each in zip(IDS, values, strict=False):
    disk.labels(f'{place}/val2017/{name}{ending}.png', each)


def test_coco_object_as_the_released_code_converts_it(disk, check, coco_images):
  labelled(disk, 'annotations', '_instanceTrainIds', [0, 80, 1], [0, 0])
  labelled(disk, 'annotations', '', [100, 3])  # the source, left there
  examples = open_set('coco_object', disk.root)
  check(examples, {IDS[0]: [0, 80, 1], IDS[1]: [0, 0]})
  assert examples.class_names[80] == 'toothbrush'


@pytest.mark.parametrize('place', ['annotations', 'stuffthingmaps'])
def test_coco_from_the_label_maps_of_coco_stuff(
  disk, check, coco_images, place
):
  # 0 person, 89 toothbrush, 12 stop sign; 91 banner, 181 wood; 255 unlabelled.
  labelled(disk, place, '', [0, 89, 12], [91, 181, 255])
  objects = open_set('coco_object', disk.root)
  check(objects, {IDS[0]: [1, 80, 12], IDS[1]: [0, 0, 0]})
  stuff = open_set('coco_stuff', disk.root)
  check(stuff, {IDS[0]: [0, 79, 11], IDS[1]: [80, 170, 255]})
  assert stuff.class_names[80] == 'banner' and len(stuff.class_names) == 171


def test_coco_stuff_as_mmsegmentation_converts_it(disk, check, coco_images):
  labelled(disk, 'annotations', '_labelTrainIds', [0, 170], [255, 3])
  examples = open_set('coco_stuff', disk.root)
  check(examples, {IDS[0]: [0, 170], IDS[1]: [255, 3]})


def test_ids_are_those_of_the_published_tables():
  """COCO's 171 of 182, by two tables; Context's and ADE20K's in order."""
  table = codings.coco_stuff_ids().table
  assert sorted(set(table.tolist()) - {-1, 255}) == list(range(171))
  assert np.flatnonzero(table == -1)[:11].tolist() == [
    *(11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
  ]
  objects = codings.coco_object_ids().table
  things = (table >= 0) & (table < 80)
  assert objects[things].tolist() == list(range(1, 81))
  assert not objects[(table >= 80) & (table <= 255)].any()
  context = codings.context_ids(background=True).table
  assert len(context) == 460
  assert context[context > 0].tolist() == list(range(1, 60))
  assert len(set(codings.ADE20K_THINGS)) == len(codings.ADE20K_THINGS) == 100


def test_coco_object_from_instances(disk, names):
  """Polygons, both kinds of run lengths, crowds below, small ones on top."""
  for name in IDS:
    disk.image(f'val2017/{name}.jpg')
  right, small = np.zeros((2, *disk.size), bool)
  right[:, 6:] = True
  small[:2, :3] = True
  half = 6 * disk.size[0]  # down the columns, the left half out
  box = [0, 0, 3, 0, 3, 2, 0, 2]
  kinds = [
    (1, [box], 6, 0),
    (90, disk.runs(~right), 48, 0),
    (13, {'size': disk.size, 'counts': [half, half]}, 48, 1),
  ]
  keys = ('category_id', 'segmentation', 'area', 'iscrowd')
  annotations = [
    dict(zip(keys, kind, strict=True)) | {'id': i, 'image_id': 1}
    for i, kind in enumerate(kinds)
  ]
  disk.coco((2, 1), annotations)
  examples = open_set('coco_object', disk.root)
  assert names(examples) == list(IDS)
  expected = np.where(right, 12, np.where(small, 1, 80))
  np.testing.assert_array_equal(examples[0].label, expected)
  assert not examples[1].label.any()  # an image without objects


@pytest.mark.parametrize('inside', ['', 'ADEChallengeData2016'])
def test_ade20k(disk, check, inside):
  root = 'ADEChallengeData2016'
  for name, values in {'ADE_val_1': [0, 1, 150], 'ADE_val_2': [8, 8]}.items():
    disk.image(f'{root}/images/validation/{name}.jpg')
    disk.labels(f'{root}/annotations/validation/{name}.png', values)
  examples = open_set('ade20k', disk.root / inside, split='val')
  check(examples, {'ADE_val_1': [255, 0, 149], 'ADE_val_2': [7, 7]})
  assert examples.class_names[7] == 'bed' and len(examples.class_names) == 150


@pytest.mark.parametrize('kind', ['labelIds', 'labelTrainIds'])
def test_cityscapes(disk, check, kind):
  values = {'labelIds': [7, 33, 4], 'labelTrainIds': [0, 18, 255]}[kind]
  for city, name in (('ulm', 'ulm_000000_000019'), ('bonn', 'bonn_0_1')):
    disk.image(f'leftImg8bit/val/{city}/{name}_leftImg8bit.png')
    disk.labels(f'gtFine/val/{city}/{name}_gtFine_{kind}.png', values)
    disk.labels(f'gtFine/val/{city}/{name}_gtFine_color.png', [0])
  examples = open_set('cityscapes', disk.root)
  expected = [0, 18, 255]
  check(
    examples, {'bonn/bonn_0_1': expected, 'ulm/ulm_000000_000019': expected}
  )
  assert examples.class_names[18] == 'bicycle'


def test_a_folder_of_ones_own(disk, check, names):
  disk.own()
  examples = open_set('folder', disk.root)
  check(examples, {'a': [0, 1, 255], 'sub/b': [2, 2]})
  assert examples.class_names == ('cat', 'dog|puppy', 'grass')
  pixels = np.asarray(Image.open(disk.root / 'images/a.png'))
  np.testing.assert_array_equal(examples[0].image, pixels)
  # Hidden files do not count.
  disk.image('images/.ipynb_checkpoints/c.png')
  disk.image('images/sub/._b.png')
  assert names(open_set('folder', disk.root)) == ['a', 'sub/b']


def test_splits_of_a_folder(disk, check):
  disk.own('background\ncat\ndog\n')
  assert open_set('folder', disk.root).background
  only = open_set('folder', disk.root, split='sub')
  check(only, {'b': [2, 2]})
  disk.lines('test.txt', ['sub/b.jpg', 'a'])
  listed = open_set('folder', disk.root, split='test')
  check(listed, {'sub/b': [2, 2], 'a': [0, 1, 255]})


def test_scenes_are_those_of_training_runs():
  examples = open_set('scenes', limit=3, size=32, seed=4)
  drawn = scenes.generate_many('validation', 3, 32, 4)
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


def test_every_benchmark_is_described():
  assert set(BENCHMARKS) == set(label_sets.SEGMENTATION)
  for name, benchmark in BENCHMARKS.items():
    assert (name in label_sets.SYNTHETIC) == (not benchmark.readers)
    assert benchmark.title in benchmark.help or not benchmark.readers
