"""Images with captions, from each kind of list; what is wrong with them."""

import pytest

from groupvit_jax.benchmarks import open_captions
from groupvit_jax.errors import ImageError, SourceError

LIST = 'captions.jsonl'
OWN = (
  {'image': 'images/val/a.jpg', 'captions': ['one', 'two']},
  {'image': 'images/train/b.jpg', 'captions': ['three']},
)


@pytest.fixture
def own(disk):
  """A captions.jsonl with its images."""
  disk.lines(LIST, OWN)
  for record in OWN:
    disk.image(record['image'])


def test_a_list_of_ones_own(disk, own, names):
  found = open_captions(disk.root)
  assert names(found) == ['images/val/a.jpg', 'images/train/b.jpg']
  assert found.captions(0) == found[0].captions == ('one', 'two')
  assert found[1].image.shape == (*disk.size, 3)
  assert names(open_captions(disk.root, limit=1)) == ['images/val/a.jpg']
  with pytest.raises(ValueError, match='limit must be at least 1'):
    open_captions(disk.root, limit=0)


@pytest.mark.parametrize('entry', ['b.jpg', 'b', 'images/train/b.jpg'])
def test_splits_of_it(disk, own, names, entry):
  assert names(open_captions(disk.root, 'val')) == ['images/val/a.jpg']
  disk.lines('val.txt', [entry])
  assert names(open_captions(disk.root, 'val')) == ['images/train/b.jpg']
  disk.lines('test.txt', ['z.jpg'])
  with pytest.raises(SourceError, match='none of the images that test.txt'):
    open_captions(disk.root, 'test')
  with pytest.raises(SourceError, match='no dev.txt, and none of its images'):
    open_captions(disk.root, 'dev')


@pytest.mark.parametrize('place', ['images/val2017', 'val2017'])
def test_coco(disk, names, place):
  for i in (7, 9):
    disk.image(f'{place}/{i}.jpg', i)
  texts = [(9, 'a'), (7, 'b'), (9, 'c')]
  content = {
    'images': [{'id': i, 'file_name': f'{i}.jpg'} for i in (9, 7)],
    'annotations': [{'image_id': i, 'caption': text} for i, text in texts],
  }
  path = 'annotations/captions_val2017.json'
  disk.json(path, content)
  found = open_captions(disk.root)
  assert names(found) == ['7.jpg', '9.jpg']
  assert found.captions(1) == ('a', 'c') and found[0].captions == ('b',)
  content['annotations'].pop(1)
  disk.json(path, content)
  with pytest.raises(SourceError, match="'7.jpg' has no caption, or an empty"):
    open_captions(disk.root)


def test_karpathys_splits(disk, names):
  images = [
    {
      'filepath': 'val2014',
      'filename': f'{split}.jpg',
      'split': split,
      'sentences': [{'raw': 'A dog.'}, {'raw': split}],
    }
    for split in ('test', 'train')
  ]
  disk.json('dataset_coco.json', {'images': images})
  disk.image('images/val2014/test.jpg')
  found = open_captions(disk.root)
  assert names(found) == ['val2014/test.jpg']
  assert found[0].captions == ('A dog.', 'test')
  assert names(open_captions(disk.root, 'train')) == ['val2014/train.jpg']
  with pytest.raises(SourceError, match="no image of the split 'val'"):
    open_captions(disk.root, 'val')
  images[0]['filepath'] = '../..'
  disk.json('dataset_coco.json', {'images': images})
  with pytest.raises(SourceError, match='does not lie in the folder'):
    open_captions(disk.root)


@pytest.mark.parametrize(
  'line', ['{', '{"image": "a.jpg"}', '{"image": "a", "captions": "b"}', '3']
)
def test_broken_lines_have_numbers_as_an_editor_counts(disk, line):
  disk.lines(LIST, ['', '', *OWN, '', line])
  with pytest.raises(SourceError, match=f'{LIST}, line 6, needs "image"'):
    open_captions(disk.root)


@pytest.mark.parametrize('name', ['/x/val/a.jpg', '../../val/a.jpg'])
def test_captions_of_images_elsewhere(disk, own, name):
  record = {'image': str(disk.root / 'images/val/a.jpg'), 'captions': ['one']}
  disk.lines(LIST, [record])
  assert len(open_captions(disk.root, 'val')) == 1
  disk.lines(LIST, [record | {'image': name}])
  for split in (None, 'val'):
    with pytest.raises(
      SourceError, match=f"line 1: '{name}' does not lie in the folder"
    ):
      open_captions(disk.root, split)


def test_what_holds_no_captions(disk):
  with pytest.raises(
    SourceError, match='no captions.jsonl, no annotations/cap'
  ):
    open_captions(disk.root)
  disk.lines(LIST, [''])
  with pytest.raises(SourceError, match='captions.jsonl names no image'):
    open_captions(disk.root)
  disk.lines(LIST, [{'image': 'a.jpg', 'captions': [c]} for c in 'ab'])
  with pytest.raises(SourceError, match="'a.jpg' stands twice"):
    open_captions(disk.root)
  disk.path(LIST).unlink()
  disk.json('dataset.json', {'images': [{'split': 'test'}]})
  with pytest.raises(SourceError, match='dataset.json cannot be read as cap'):
    open_captions(disk.root)


def test_one_absent_image_stops_no_other(disk, own):
  (disk.root / 'images/val/a.jpg').unlink()
  found = open_captions(disk.root)
  assert found[1].captions == ('three',)
  with pytest.raises(ImageError, match=r'val/a\.jpg: there is no such file'):
    found[0]
