"""Images with a class each: folders, lists and shards; what is wrong."""

import json

import numpy as np
import pytest

from groupvit_jax import benchmarks
from groupvit_jax.benchmarks import open_labelled_images
from groupvit_jax.errors import ImageError, SourceError
from groupvit_jax.text import prompts
from tests.fixtures.samples import encode, plain, write_tar


def test_imagenet_is_clips():
  ids, names = benchmarks.IMAGENET_IDS, benchmarks.IMAGENET_CLASSES
  assert len(ids) == len(names) == len(set(ids)) == 1000
  assert list(ids) == sorted(ids)
  places = {
    0: ('n01440764', 'tench'),
    134: ('n02012849', 'crane bird'),
    208: ('n02099712', 'Labrador Retriever'),
    517: ('n03126707', 'construction crane'),
    657: ('n03773504', 'missile'),
    744: ('n04008634', 'missile'),
    836: ('n04355933', 'sunglasses'),
    837: ('n04356056', 'sunglasses'),
    999: ('n15075141', 'toilet paper'),
  }
  assert {i: (ids[i], names[i]) for i in places} == places
  assert len(prompts.FULL) == 80 and len(prompts.SUBSET) == 7


def test_folders_of_imagenet(disk, tmp_path):
  pixels = disk.image('val/n15075141/x.png', 1)
  disk.image('val/n01440764/y.JPEG', 2)
  (tmp_path / 'val/n01440764/.hidden.jpg').write_bytes(b'')
  images = open_labelled_images(tmp_path, 'val')
  assert images.class_names == benchmarks.IMAGENET_CLASSES
  assert [image.label for image in images] == [0, 999]
  assert images.name(1) == images[1].name == 'n15075141/x.png'
  np.testing.assert_array_equal(images[1].image, pixels)
  assert len(open_labelled_images(tmp_path / 'val', limit=1)) == 1


def test_folders_of_names(disk, tmp_path):
  for name in ('red_panda', 'Cat', 'dog'):
    disk.image(f'{name}/sub/x.jpg')
  disk.image('.ipynb_checkpoints/x.jpg')
  disk.image('dog/.ipynb_checkpoints/x.jpg')
  images = open_labelled_images(tmp_path)
  assert images.class_names == ('Cat', 'dog', 'red panda')
  assert [image.label for image in images] == [0, 1, 2]
  names = ('a', 'dog', 'Red Panda', 'cat')
  images = open_labelled_images(tmp_path, class_names=names)
  assert images.class_names == names
  assert [image.label for image in images] == [3, 1, 2]
  with pytest.raises(SourceError, match="label 'red_panda', which is none of"):
    open_labelled_images(tmp_path, class_names=('cat', 'dog'))


@pytest.mark.parametrize(
  ('records', 'labels', 'classes'),
  [
    ([{'wnid': 'n01440764', 'name': 'x'}, {'wnid': 'n01443537'}], [0, 1], 1000),
    ([{'name': 'b'}, {'name': 'a'}], [1, 0], 2),
    ([{'label': 7}, {'label': 0}], [7, 0], 1000),
  ],
)
def test_lists_of_labels(disk, tmp_path, records, labels, classes):
  lines = []
  for i, record in enumerate(records):
    disk.image(f'images/{i}.jpg', i)
    lines.append(json.dumps({'image': f'images/{i}.jpg'} | record))
  (tmp_path / 'labels.jsonl').write_text('\n'.join(lines))
  images = open_labelled_images(tmp_path)
  assert [image.label for image in images] == labels
  assert len(images.class_names) == classes


def shard(path, labels):
  members = []
  for i, label in enumerate(labels):
    members.append((f'{i:04d}.cls', label))
    members.append((f'{i:04d}.jpg', encode(plain(10 * i))))
  return write_tar(path, members)


def test_shards(tmp_path, caplog):
  shard(tmp_path / 'val-000000.tar', [b'3', b'999\n'])
  write_tar(
    tmp_path / 'val-000001.tar',
    [('a.jpg', encode(plain(1))), ('b.cls', b'1'), *_pair('c', b'0')],
  )
  sources = (
    str(tmp_path / 'val-{000000..000001}.tar'),
    tmp_path,
    [tmp_path / 'val-000000.tar', tmp_path / 'val-000001.tar'],
  )
  for source in sources:  # the second time from the index of the first
    images = open_labelled_images(source)
    assert images.class_names == benchmarks.IMAGENET_CLASSES
    assert [image.label for image in images] == [3, 999, 0]
    assert images[1].image[0, 0, 0] == 10
    assert images.name(2).endswith('val-000001.tar#0')
  assert '2 samples lack an image or a cls' in caplog.text
  assert len(open_labelled_images(tmp_path, limit=2)) == 2


def _pair(key, label):
  return [(f'{key}.png', encode(plain(7), 'PNG')), (f'{key}.cls', label)]


def test_labels_of_shards_that_name_no_class(tmp_path):
  path = shard(tmp_path / 'a.tar', [b'0', b'2', b'cat', b'-1'])
  images = open_labelled_images(path, class_names=['x', 'y'])
  assert images[0].label == 0
  with pytest.raises(
    ImageError, match='a.tar#1: its cls is 2, and there are 2'
  ):
    images[1]
  for i in (2, 3):
    with pytest.raises(ImageError, match=f'a.tar#{i}: its cls is no number'):
      images[i]


def test_what_holds_no_labelled_image(tmp_path):
  with pytest.raises(SourceError, match='none: there is no such folder'):
    open_labelled_images(tmp_path / 'none')
  with pytest.raises(SourceError, match='no images in folders named after'):
    open_labelled_images(tmp_path)
  with pytest.raises(
    SourceError, match=r'/0\.tar and 3 more of .*\{0\.\.3\}\.tar: there is no'
  ):
    open_labelled_images(str(tmp_path / '{0..3}.tar'))
  with pytest.raises(SourceError, match='memory://x.tar: .* fetch them first'):
    open_labelled_images('memory://x.tar')
  with pytest.raises(SourceError, match=r'/x\.tar: there is no such shard'):
    open_labelled_images(tmp_path / 'x.tar')
  with pytest.raises(SourceError, match="Shards have no split 'val'"):
    open_labelled_images(str(tmp_path / '*.tar'), 'val')
  write_tar(tmp_path / 'a.tar', [('a.jpg', encode(plain(1))), ('a.txt', b'x')])
  with pytest.raises(SourceError, match='no sample has an image .* and a cls'):
    open_labelled_images(tmp_path)
  (tmp_path / 'b.tar').write_bytes(b'<html>' + b'no such file' * 100)
  with pytest.raises(SourceError, match='not an uncompressed tar'):
    open_labelled_images(tmp_path / 'b.tar')


@pytest.mark.parametrize(
  ('line', 'reason'),
  [
    ('{', 'needs "image" and one of .* as JSON'),
    ('{"image": "a.jpg"}', 'none of the three'),
    ('{"label": 3}', 'missing required field `image`'),
    ('3', 'Expected `object`, got `int`'),
    ('{"image": "a.jpg", "label": true}', 'Expected `int`, got `bool`'),
    ('{"image": "a.jpg", "name": null}', 'Expected `str`, got `null`'),
    ('{"image": "a.jpg", "wnid": "n0144"}', "'n0144' is no WordNet id"),
    ('{"image": "a.jpg", "name": "cat"}', 'by name, and that of line 3 by la'),
    ('{"image": "../../x", "label": 1}', "'../../x' does not lie in the fol"),
  ],
)
def test_broken_lists_of_labels(disk, line, reason):
  """Line numbers are those of an editor."""
  first = {'image': 'a.jpg', 'label': 0}
  disk.lines('labels.jsonl', ['', ' ', first, '', line])
  with pytest.raises(SourceError, match=f'labels.jsonl, line 5.*{reason}'):
    open_labelled_images(disk.root)


def test_ids_and_names_do_not_go_together(disk, tmp_path):
  disk.image('n01632777/x.jpg')
  disk.image('cat/x.jpg')
  with pytest.raises(SourceError, match="'n01632777' is a WordNet id and"):
    open_labelled_images(tmp_path)


@pytest.mark.parametrize('folders', [('Dog', 'cat', 'dog'), ('a|b', 'b|c')])
def test_folders_of_one_name(disk, tmp_path, folders):
  for name in folders:
    disk.image(f'{name}/x.jpg')
  with pytest.raises(SourceError, match=r': class name .* stands twice'):
    open_labelled_images(tmp_path)


def test_class_names_that_stand_twice(tmp_path):
  path = shard(tmp_path / 'a.tar', [b'0', b'1'])
  for names in (('dog', 'Dog'), ('red_panda', 'red panda|bear')):
    with pytest.raises(ValueError, match='stands twice'):
      open_labelled_images(path, class_names=names)
  published = benchmarks.IMAGENET_CLASSES
  images = open_labelled_images(path, class_names=list(published))
  assert images.class_names == published


def test_ids_of_imagenet_need_all_its_names(disk, tmp_path):
  disk.image('n01440764/x.png')
  with pytest.raises(
    SourceError, match='2 class names were given, but WordNet ids mean'
  ):
    open_labelled_images(tmp_path, class_names=('tench', 'goldfish'))
  names = tuple(f'class {i}' for i in range(1000))
  assert open_labelled_images(tmp_path, class_names=names).class_names == names


def test_linked_folders_are_followed(disk, tmp_path):
  disk.image('elsewhere/x.jpg')
  (tmp_path / 'set/cat').mkdir(parents=True)
  (tmp_path / 'set/cat/more').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'set/dog').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'set/cat/again').symlink_to(tmp_path / 'set')
  images = open_labelled_images(tmp_path / 'set')
  assert [images.name(i) for i in range(len(images))] == [
    'cat/more/x.jpg',
    'dog/x.jpg',
  ]


def test_one_broken_image_stops_no_other(disk, tmp_path):
  disk.image('cat/a.jpg')
  (tmp_path / 'cat/b.jpg').write_bytes(b'none')
  images = open_labelled_images(tmp_path)
  assert images[0].label == 0
  with pytest.raises(ImageError, match=r'cat/b\.jpg is not an image'):
    images[1]
