"""Pictures with captions, from each kind of list; what is wrong with them."""

import json

import pytest
from layout_folders import SIZE, listing, picture

from groupvit_jax.benchmarks import open_captions
from groupvit_jax.errors import ImageError, SourceError


def own(root, records=None):
  records = records or [
    {'image': 'images/val/a.jpg', 'captions': ['one', 'two']},
    {'image': 'images/train/b.jpg', 'captions': ['three']},
  ]
  lines = [json.dumps(record) for record in records]
  (root / 'captions.jsonl').write_text('\n'.join(lines) + '\n')
  for record in records:
    picture(root / record['image'])
  return root


def names(found):
  return [found.name(i) for i in range(len(found))]


def test_a_list_of_ones_own(tmp_path):
  found = open_captions(own(tmp_path))
  assert names(found) == ['images/val/a.jpg', 'images/train/b.jpg']
  assert found.captions(0) == found[0].captions == ('one', 'two')
  assert found[1].image.shape == (*SIZE, 3)
  assert names(open_captions(tmp_path, limit=1)) == ['images/val/a.jpg']


@pytest.mark.parametrize('entry', ['b.jpg', 'b', 'images/train/b.jpg'])
def test_splits_of_it(tmp_path, entry):
  own(tmp_path)
  assert names(open_captions(tmp_path, 'val')) == ['images/val/a.jpg']
  listing(tmp_path / 'val.txt', [entry])
  assert names(open_captions(tmp_path, 'val')) == ['images/train/b.jpg']
  listing(tmp_path / 'test.txt', ['z.jpg'])
  with pytest.raises(SourceError, match='none of the pictures that test.txt'):
    open_captions(tmp_path, 'test')
  with pytest.raises(SourceError, match='no dev.txt, and none of its pictures'):
    open_captions(tmp_path, 'dev')


@pytest.mark.parametrize('place', ['images/val2017', 'val2017'])
def test_coco(tmp_path, place):
  for i in (7, 9):
    picture(tmp_path / place / f'{i}.jpg', i)
  content = {
    'images': [{'id': i, 'file_name': f'{i}.jpg'} for i in (9, 7)],
    'annotations': [
      {'image_id': i, 'caption': text}
      for i, text in ((9, 'a'), (7, 'b'), (9, 'c'))
    ],
  }
  (tmp_path / 'annotations').mkdir()
  path = tmp_path / 'annotations/captions_val2017.json'
  path.write_text(json.dumps(content))
  found = open_captions(tmp_path)
  assert names(found) == ['7.jpg', '9.jpg']
  assert found.captions(1) == ('a', 'c') and found[0].captions == ('b',)
  content['annotations'].pop(1)
  path.write_text(json.dumps(content))
  with pytest.raises(SourceError, match="'7.jpg' has no caption, or an empty"):
    open_captions(tmp_path)


def test_karpathys_splits(tmp_path):
  images = [
    {
      'filepath': 'val2014',
      'filename': f'{split}.jpg',
      'split': split,
      'sentences': [{'raw': 'A dog.'}, {'raw': split}],
    }
    for split in ('test', 'train')
  ]
  (tmp_path / 'dataset_coco.json').write_text(json.dumps({'images': images}))
  picture(tmp_path / 'images/val2014/test.jpg')
  found = open_captions(tmp_path)
  assert names(found) == ['val2014/test.jpg']
  assert found[0].captions == ('A dog.', 'test')
  assert names(open_captions(tmp_path, 'train')) == ['val2014/train.jpg']
  with pytest.raises(SourceError, match="no picture of the split 'val'"):
    open_captions(tmp_path, 'val')


@pytest.mark.parametrize(
  'line', ['{', '{"image": "a.jpg"}', '{"image": "a", "captions": "b"}', '3']
)
def test_broken_lines(tmp_path, line):
  path = own(tmp_path) / 'captions.jsonl'
  path.write_text(path.read_text() + line)
  with pytest.raises(
    SourceError, match='captions.jsonl, line 3, needs "image"'
  ):
    open_captions(tmp_path)


def test_lines_of_captions_as_an_editor_counts(tmp_path):
  path = own(tmp_path) / 'captions.jsonl'
  path.write_text('\n\n' + path.read_text() + '\n{')
  with pytest.raises(SourceError, match=r'captions.jsonl, line 6, needs'):
    open_captions(tmp_path)


def test_captions_of_pictures_elsewhere(tmp_path):
  own(tmp_path)
  inside = str(tmp_path / 'images/val/a.jpg')
  record = {'image': inside, 'captions': ['one']}
  path = tmp_path / 'captions.jsonl'
  path.write_text(json.dumps(record))
  assert len(open_captions(tmp_path, 'val')) == 1
  path.write_text(json.dumps(record | {'image': '/x/val/a.jpg'}))
  for split in (None, 'val'):
    with pytest.raises(
      SourceError, match=r"line 1, .*'/x/val/a.jpg' does not lie in the folder"
    ):
      open_captions(tmp_path, split)


def test_what_holds_no_captions(tmp_path):
  with pytest.raises(
    SourceError, match='no captions.jsonl, no annotations/cap'
  ):
    open_captions(tmp_path)
  (tmp_path / 'captions.jsonl').write_text('\n')
  with pytest.raises(SourceError, match='captions.jsonl names no picture'):
    open_captions(tmp_path)
  own(tmp_path, [{'image': 'a.jpg', 'captions': [c]} for c in 'ab'])
  with pytest.raises(SourceError, match="'a.jpg' stands twice"):
    open_captions(tmp_path)
  (tmp_path / 'captions.jsonl').unlink()
  (tmp_path / 'dataset.json').write_text('{"images": [{"split": "test"}]}')
  with pytest.raises(SourceError, match='dataset.json cannot be read as cap'):
    open_captions(tmp_path)
  with pytest.raises(ValueError, match='limit must be at least 1'):
    open_captions(tmp_path, limit=0)


def test_one_absent_picture_stops_no_other(tmp_path):
  (own(tmp_path) / 'images/val/a.jpg').unlink()
  found = open_captions(tmp_path)
  assert found[1].captions == ('three',)
  with pytest.raises(ImageError, match=r'val/a\.jpg: there is no such file'):
    found[0]
