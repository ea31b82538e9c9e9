"""What is wrong with a data set is named, with what to do; the rest is read."""

import struct
import zlib

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
  stored,
  voc,
)
from PIL import Image

from groupvit_jax.benchmarks import First, open_set
from groupvit_jax.benchmarks import base as base_lib
from groupvit_jax.errors import ImageError, SourceError


@pytest.fixture
def base(tmp_path):
  voc(tmp_path, {'a': [0, 1], 'b': [2, 255]})
  return tmp_path / 'VOCdevkit/VOC2012'


def second_is_read(folder):
  """The good picture of a set whose first one is bad."""
  np.testing.assert_array_equal(
    open_set('voc21', folder)[1].label, stored([2, 255])
  )


def test_truth_without_picture_and_picture_without_truth(base):
  (base / 'SegmentationClass/a.png').unlink()
  with pytest.raises(ImageError, match=r'a\.png: there is no such file, so'):
    open_set('voc21', base)[0]
  second_is_read(base)
  label_map(base / 'SegmentationClass/a.png', [0])
  (base / 'JPEGImages/a.jpg').unlink()
  with pytest.raises(
    ImageError,
    match=r'a\.jpg: there is no such file, but .*a\.png is its truth',
  ):
    open_set('voc21', base)[0]
  second_is_read(base)


def test_missing_partners_of_unlisted_sets(tmp_path):
  own(tmp_path)
  picture(tmp_path / 'images/lonely.jpg')
  label_map(tmp_path / 'masks/widowed.png', [0])
  examples = open_set('folder', tmp_path)
  names = [examples.name(i) for i in range(len(examples))]
  assert names == ['a', 'lonely', 'sub/b', 'widowed']
  with pytest.raises(ImageError, match='masks/lonely.png: there is no such'):
    examples[1]
  with pytest.raises(ImageError, match='images/widowed.jpg: there is no such'):
    examples[3]
  assert examples[2].name == 'sub/b'


def test_truth_of_another_size(base):
  label_map(base / 'SegmentationClass/a.png', [0, 1], size=(8, 13))
  with pytest.raises(ImageError) as error:
    open_set('voc21', base)[0]
  said = str(error.value)
  assert said.startswith(str(base / 'SegmentationClass/a.png'))
  assert 'is 13 x 8 pixels and its picture 12 x 8' in said
  second_is_read(base)


@pytest.mark.parametrize(
  ('name', 'values', 'said'),
  [
    ('voc21', [21, 3, 254], '21, 254, where 0 to 20 and 255 may occur'),
    ('voc20', [21, 3, 0], 'out of range: 21, where 0 to 20 and 255'),
    ('voc21', list(range(100, 110)), '100, 101, 102, 103, 104 and 5 more'),
  ],
)
def test_labels_out_of_range(base, name, values, said):
  label_map(base / 'SegmentationClass/a.png', values)
  with pytest.raises(ImageError, match=r'a\.png has labels out of range') as e:
    open_set(name, base)[0]
  assert said in str(e.value)
  second_is_read(base)


def test_gaps_in_the_ids_of_coco_and_cityscapes(tmp_path):
  picture(tmp_path / 'images/val2017/1.jpg')
  label_map(tmp_path / 'annotations/val2017/1.png', [0, 11])
  for name in ('coco_stuff', 'coco_object'):
    with pytest.raises(ImageError, match=r'1\.png has labels out of range: 11'):
      open_set(name, tmp_path)[0]
  picture(tmp_path / 'leftImg8bit/val/ulm/u_leftImg8bit.png')
  label_map(tmp_path / 'gtFine/val/ulm/u_gtFine_labelIds.png', [34])
  with pytest.raises(ImageError, match='range: 34, where label ids 0 to 33'):
    open_set('cityscapes', tmp_path)[0]


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'', 'cannot be read as a label map'),
    (b'\x89PNG\r\n\x1a\n' + bytes(50), 'cannot be read as a label map'),
    (None, 'cannot be read as a label map'),
  ],
)
def test_unreadable_truth(base, content, said):
  path = base / 'SegmentationClass/a.png'
  if content is None:  # cut within its pixels
    picture(path, 3)
    content = path.read_bytes()[:-40]
  path.write_bytes(content)
  with pytest.raises(ImageError, match=said) as error:
    open_set('voc21', base)[0]
  assert str(error.value).startswith(str(path))
  second_is_read(base)


def test_unreadable_picture(base):
  path = base / 'JPEGImages/a.jpg'
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(ImageError, match=r'a\.jpg is a broken'):
    open_set('voc21', base)[0]
  second_is_read(base)


@pytest.mark.parametrize(
  ('form', 'mode', 'said'),
  [
    ('PNG', 'RGB', 'is a coloured picture'),
    ('JPEG', 'L', 'is a JPEG, which blurs labels'),
    ('TIFF', 'F', 'has float32 pixels'),
  ],
)
def test_what_is_no_label_map(base, form, mode, said):
  path = base / 'SegmentationClass/a.png'
  pixels = np.random.default_rng(0).integers(0, 9, (*SIZE, 3), np.uint8)
  Image.fromarray(pixels).convert(mode).save(path, form)
  with pytest.raises(ImageError, match=said):
    open_set('voc21', base)[0]


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'LA', 'I;16', '1'])
def test_label_maps_of_every_kind(tmp_path, mode):
  values = stored([0, 1])
  image = Image.fromarray(values)
  if mode == 'P':
    image.putpalette(list(range(256)) * 3)
  elif mode == 'I;16':
    image = Image.fromarray(values.astype(np.uint16))
  elif mode == '1':
    image = Image.fromarray(values.astype(bool))
  else:
    image = image.convert(mode)
  image.save(tmp_path / 'truth.png')
  read = base_lib.read(tmp_path / 'truth.png', 'truth', SIZE)
  np.testing.assert_array_equal(read, values)


def test_a_palette_with_transparency_is_read(tmp_path):
  values = stored([0, 1])
  image = Image.fromarray(values)
  image.putpalette(list(range(256)) * 3)
  image = image.convert('PA')
  image.save(tmp_path / 'truth.tif')
  read = base_lib.read(tmp_path / 'truth.tif', 'truth', SIZE)
  np.testing.assert_array_equal(read, values)


def test_truth_decides_whether_a_picture_is_turned(base):
  """As stored; but upright where only that has the truth's size."""
  pixels = np.asarray(Image.open(base / 'JPEGImages/a.jpg'))
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
  path = base / 'JPEGImages/a.jpg'
  Image.fromarray(pixels).save(path, exif=exif, quality=100, subsampling=0)
  flat = np.asarray(Image.open(path))
  np.testing.assert_array_equal(open_set('voc21', base)[0].image, flat)
  label_map(base / 'SegmentationClass/a.png', [0, 1], size=SIZE[::-1])
  example = open_set('voc21', base)[0]
  np.testing.assert_array_equal(example.image, np.rot90(flat, -1))
  np.testing.assert_array_equal(example.label, stored([0, 1], SIZE[::-1]))


def test_splits_that_are_empty_or_not_there(base, tmp_path):
  with pytest.raises(SourceError, match='test.txt: there is no such list'):
    open_set('voc21', base, split='test')
  listing(base / 'ImageSets/Segmentation/none.txt', [])
  with pytest.raises(SourceError, match='none.txt names no picture: the split'):
    open_set('voc21', base, split='none')
  listing(base / 'ImageSets/Segmentation/twice.txt', ['a', 'b', 'a'])
  with pytest.raises(SourceError, match="'a' stands twice"):
    open_set('voc21', base, split='twice')
  ade = tmp_path / 'ade'
  for part in ('images', 'annotations'):
    (ade / part / 'validation').mkdir(parents=True)
  with pytest.raises(SourceError, match='the split is empty'):
    open_set('ade20k', ade)


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('voc21', 'has no JPEGImages and no SegmentationClass. PASCAL VOC 2012'),
    ('context59', 'has no JPEGImages. PASCAL Context .* trainval_merged.json'),
    ('coco_object', 'has no images/val2017 and no val2017. COCO-Object'),
    ('coco_stuff', 'has no images/val2017 .*stuffthingmaps_trainval2017.zip'),
    ('ade20k', 'has no images and no annotations. .*ADEChallengeData2016.zip'),
    ('cityscapes', 'has no leftImg8bit and no gtFine. .*labelIds.png'),
    ('pet', 'has no oxford_iiit_pet .*file_format="array_record"'),
    ('folder', 'has no images and no masks and no classes.txt'),
  ],
)
def test_folders_of_another_layout(tmp_path, name, said):
  with pytest.raises(SourceError, match=said):
    open_set(name, tmp_path)
  with pytest.raises(SourceError, match='none: there is no such folder'):
    open_set(name, tmp_path / 'none')
  with pytest.raises(SourceError, match='needs its folder'):
    open_set(name)


def test_pictures_without_annotations(tmp_path):
  picture(tmp_path / 'images/val2017/1.jpg')
  with pytest.raises(
    SourceError, match='no annotations/instances_val2017.json'
  ):
    open_set('coco_object', tmp_path)
  with pytest.raises(SourceError, match='has no label maps'):
    open_set('coco_stuff', tmp_path)
  picture(tmp_path / 'JPEGImages/1.jpg')
  with pytest.raises(
    SourceError, match='SegmentationClassContext and no train'
  ):
    open_set('context60', tmp_path)


@pytest.mark.parametrize('content', ['', '[]', '{"images": 3}', '{"im'])
def test_broken_annotations(tmp_path, content):
  picture(tmp_path / 'images/val2017/1.jpg')
  (tmp_path / 'JPEGImages').mkdir()
  (tmp_path / 'annotations').mkdir()
  for name in ('annotations/instances_val2017.json', 'trainval_merged.json'):
    (tmp_path / name).write_text(content)
  with pytest.raises(SourceError, match='as instance annotations of COCO'):
    open_set('coco_object', tmp_path)
  with pytest.raises(SourceError, match='as the annotations of PASCAL Context'):
    open_set('context60', tmp_path)


def test_masks_of_annotations_that_cannot_be_drawn(tmp_path):
  context_json(tmp_path, {'2008_000001': [2]})
  with pytest.raises(SourceError, match="'test': it has 'train' and 'val'"):
    open_set('context60', tmp_path, split='test')
  path = tmp_path / 'trainval_merged.json'
  path.write_text(path.read_text().replace('"size": [8, 12]', '"size": [9, 9]'))
  with pytest.raises(ImageError, match='2008_000001.jpg in .* cannot be drawn'):
    open_set('context60', tmp_path)[0]
  picture(tmp_path / 'val2017' / f'{1:012d}.jpg')
  wrong = {'category_id': 1, 'segmentation': [box(0, 0, 3, 2)], 'image_id': 1}
  coco_json(tmp_path / 'annotations/instances_val2017.json', [1], [wrong])
  with pytest.raises(ImageError, match="cannot be drawn .KeyError: 'area'"):
    open_set('coco_object', tmp_path)[0]


@pytest.mark.parametrize(
  ('names', 'said'),
  [
    ('# nothing\n', 'classes.txt names no class'),
    ('cat\ncat\n', "classes.txt: class name 'cat' stands twice"),
    ('dog\nDog\n', "class name 'Dog' stands twice"),
    ('background\ndog|cat\ndog | fox\n', "class name 'dog' stands twice"),
    ('cat\n\ndog\n', 'classes.txt, line 2, is empty or a comment'),
    ('\ncat\ndog\n', 'line 1, is empty or a comment'),
    ('cat\ndog\n# end\n', 'line 3, is empty or a comment'),
    ('\n'.join(f'c{i}' for i in range(256)), 'names 256 classes; there can be'),
    ('Background|wall\n', 'classes.txt names the background alone'),
  ],
)
def test_class_lists_of_ones_own(tmp_path, names, said):
  with pytest.raises(SourceError, match=said):
    open_set('folder', own(tmp_path, names))


def test_class_lists_of_ones_own_may_end_in_empty_lines(tmp_path):
  examples = open_set('folder', own(tmp_path, 'cat\r\ndog\r\ncow\n \n\n'))
  assert examples.class_names == ('cat', 'dog', 'cow')


def test_a_background_of_ones_own_may_have_synonyms(tmp_path):
  names = 'background|wall|sky\ndog\ngrass\n'
  examples = open_set('folder', own(tmp_path, names))
  assert examples.background
  assert examples.class_names == ('background|wall|sky', 'dog', 'grass')


def test_linked_folders_of_ones_own_are_followed(tmp_path):
  other = own(tmp_path / 'other')
  root = own(tmp_path / 'mine')
  for part in ('images', 'masks'):
    (root / part / 'linked').symlink_to(other / part)
    (root / part / 'loop').symlink_to(root / part)
  examples = open_set('folder', root)
  names = [examples.name(i) for i in range(len(examples))]
  assert names == ['a', 'linked/a', 'linked/sub/b', 'sub/b']
  np.testing.assert_array_equal(examples[1].label, examples[0].label)


def test_a_folder_where_a_mask_should_be(tmp_path):
  own(tmp_path)
  (tmp_path / 'masks/a.png').unlink()
  (tmp_path / 'masks/a.png').mkdir()
  with pytest.raises(ImageError, match=r'masks/a\.png is a folder, where the'):
    open_set('folder', tmp_path)[0]


def test_names_that_stand_twice_in_a_folder(tmp_path):
  own(tmp_path)
  picture(tmp_path / 'images/a.jpg')
  with pytest.raises(SourceError, match=r'a\.jpg and .*a\.png have the same'):
    open_set('folder', tmp_path)


def test_listed_in_a_folder_but_not_there(tmp_path):
  listing(own(tmp_path) / 'val.txt', ['a', 'z'])
  examples = open_set('folder', tmp_path, split='val')
  assert examples[0].name == 'a'
  with pytest.raises(ImageError, match='masks/z.png: there is no such file'):
    examples[1]


def test_names_and_options_that_do_not_exist(tmp_path):
  with pytest.raises(SourceError, match="no benchmark 'voc'; there are voc21"):
    open_set('voc', tmp_path)
  with pytest.raises(ValueError, match="voc21 has no option 'size'"):
    open_set('voc21', tmp_path, size=3)
  with pytest.raises(ValueError, match='it has count, size, seed'):
    open_set('scenes', sides=3)
  with pytest.raises(SourceError, match="train, validation, test, not 'val'"):
    open_set('scenes', split='val')
  with pytest.raises(SourceError, match='a size of at least 16'):
    open_set('scenes', size=4)


def test_limits(base):
  first = open_set('voc21', base, limit=1)
  assert isinstance(first, First) and len(first) == 1
  assert [example.name for example in first] == ['a']
  assert first.name(0) == 'a' and first.background
  assert len(open_set('voc21', base, limit=9)) == 2
  with pytest.raises(ValueError, match='limit must be at least 1, not 0'):
    open_set('voc21', base, limit=0)


def _grey_png(rows: np.ndarray, bits: int) -> bytes:
  """A grey PNG of few bits, which Pillow does not write."""
  spread = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)
  packed = np.packbits(spread[..., -bits:].reshape(len(rows), -1), axis=1)
  body = b''.join(b'\0' + row.tobytes() for row in packed)

  def chunk(kind, data):
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  head = struct.pack('>IIBBBBB', *rows.shape[::-1], bits, 0, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', head)
    + chunk(b'IDAT', zlib.compress(body))
    + chunk(b'IEND', b'')
  )


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_grey_of_few_bits_is_read_as_stored(bits):
  rows = np.arange(24).reshape(3, 8) % 2**bits
  found = base_lib.read(_grey_png(rows, bits), 'map', (3, 8))
  np.testing.assert_array_equal(found, rows)


def test_a_split_of_a_folder_may_list_names_with_blanks(tmp_path):
  for part in ('images', 'masks'):
    (tmp_path / part).mkdir()
    grey = Image.fromarray(np.zeros((4, 4), np.uint8))
    grey.save(tmp_path / part / 'my photo.png')
  (tmp_path / 'classes.txt').write_text('cat\n')
  (tmp_path / 'val.txt').write_text('my photo.png \n')
  examples = open_set('folder', tmp_path, split='val')
  assert examples[0].name == 'my photo'
