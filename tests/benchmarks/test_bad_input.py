"""What is wrong with a data set is named, with what to do; the rest is read."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.benchmarks import base as base_lib
from groupvit_jax.benchmarks import open_set
from groupvit_jax.errors import ImageError, SourceError

VOC = 'VOCdevkit/VOC2012'
IMAGE, LABELS = f'{VOC}/JPEGImages/a.jpg', f'{VOC}/SegmentationClass/a.png'


@pytest.fixture
def fails(disk):
  """Asserts that of two VOC images the first is refused, the second read."""
  disk.voc({'a': [0, 1], 'b': [2, 255]})

  def fails(match, name='voc21'):
    examples = open_set(name, disk.root)
    with pytest.raises(ImageError, match=match) as error:
      examples[0]
    if name == 'voc21':
      expected = disk.stripes([2, 255])
      np.testing.assert_array_equal(examples[1].label, expected)
    return str(error.value)

  return fails


def test_labels_without_image_and_image_without_labels(disk, fails):
  disk.path(LABELS).unlink()
  fails(r'a\.png: there is no such file, so')
  disk.labels(LABELS, [0])
  disk.path(IMAGE).unlink()
  fails(r'a\.jpg: there is no such file, but .*a\.png is its label map')


def test_missing_partners_of_unlisted_sets(disk, names):
  disk.own()
  disk.image('images/lonely.jpg')
  disk.labels('masks/widowed.png', [0])
  examples = open_set('folder', disk.root)
  assert names(examples) == ['a', 'lonely', 'sub/b', 'widowed']
  with pytest.raises(ImageError, match='masks/lonely.png: there is no such'):
    examples[1]
  with pytest.raises(ImageError, match='images/widowed.jpg: there is no such'):
    examples[3]
  assert examples[2].name == 'sub/b'


def test_labels_of_another_size(disk, fails):
  disk.labels(LABELS, [0, 1], size=(8, 13))
  message = fails('is 13 x 8 pixels and its image 12 x 8')
  assert message.startswith(str(disk.root / LABELS))


@pytest.mark.parametrize(
  ('name', 'values', 'expected'),
  [
    ('voc21', [21, 3, 254], '21, 254, where 0 to 20 and 255 may occur'),
    ('voc20', [21, 3, 0], 'out of range: 21, where 0 to 20 and 255'),
    ('voc21', list(range(100, 110)), '100, 101, 102, 103, 104 and 5 more'),
  ],
)
def test_labels_out_of_range(disk, fails, name, values, expected):
  disk.labels(LABELS, values)
  assert expected in fails(r'a\.png has labels out of range', name)


def test_gaps_in_the_ids_of_coco_and_cityscapes(disk):
  disk.image('images/val2017/1.jpg')
  disk.labels('annotations/val2017/1.png', [0, 11])
  for name in ('coco_stuff', 'coco_object'):
    with pytest.raises(ImageError, match=r'1\.png has labels out of range: 11'):
      open_set(name, disk.root)[0]
  disk.image('leftImg8bit/val/ulm/u_leftImg8bit.png')
  disk.labels('gtFine/val/ulm/u_gtFine_labelIds.png', [34])
  with pytest.raises(ImageError, match='range: 34, where label ids 0 to 33'):
    open_set('cityscapes', disk.root)[0]


@pytest.mark.parametrize('content', [b'', b'\x89PNG\r\n\x1a\n', b'%!PS', None])
def test_unreadable_files(disk, fails, content):
  if content is None:  # cut within its pixels
    disk.image(LABELS, 3)
    content = disk.path(LABELS).read_bytes()[:-40]
  disk.path(LABELS).write_bytes(content)
  message = fails('cannot be read as a label map')
  assert message.startswith(str(disk.root / LABELS))
  disk.labels(LABELS, [0, 1])
  disk.path(IMAGE).write_bytes(disk.path(IMAGE).read_bytes()[:200])
  fails(r'a\.jpg is a broken')


@pytest.mark.parametrize(
  ('form', 'mode', 'match'),
  [
    ('PNG', 'RGB', 'is a coloured image'),
    ('JPEG', 'L', 'is a JPEG, which blurs labels'),
    ('TIFF', 'F', 'has float32 pixels'),
  ],
)
def test_what_is_no_label_map(disk, fails, form, mode, match):
  pixels = np.random.default_rng(0).integers(0, 9, (*disk.size, 3), np.uint8)
  Image.fromarray(pixels).convert(mode).save(disk.path(LABELS), form)
  fails(match)


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'LA', 'PA', 'I;16', '1'])
def test_label_maps_of_every_kind(disk, mode):
  values = disk.stripes([0, 1])
  image = Image.fromarray(values)
  if mode in ('P', 'PA'):
    image.putpalette(list(range(256)) * 3)
  if mode == 'I;16':
    image = Image.fromarray(values.astype(np.uint16))
  elif mode == '1':
    image = Image.fromarray(values.astype(bool))
  elif mode != 'P':
    image = image.convert(mode)
  path = disk.path('labels.tif' if mode == 'PA' else 'labels.png')
  image.save(path)
  read = base_lib.read_label_map(path, 'labels')
  np.testing.assert_array_equal(read, values)


def test_labels_decide_whether_an_image_is_turned(disk, fails):
  """As stored; but upright where only that has the label map's size."""
  pixels = np.asarray(Image.open(disk.path(IMAGE)))
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
  Image.fromarray(pixels).save(
    disk.path(IMAGE), exif=exif, quality=100, subsampling=0
  )
  flat = np.asarray(Image.open(disk.path(IMAGE)))
  examples = open_set('voc21', disk.root)
  np.testing.assert_array_equal(examples[0].image, flat)
  turned = disk.size[::-1]
  disk.labels(LABELS, [0, 1], size=turned)
  np.testing.assert_array_equal(examples[0].image, np.rot90(flat, -1))
  np.testing.assert_array_equal(examples[0].label, disk.stripes([0, 1], turned))


def test_splits_that_are_empty_or_not_there(disk):
  disk.voc({'a': [0], 'b': [0]})
  lists = f'{VOC}/ImageSets/Segmentation'
  disk.lines(f'{lists}/none.txt', [])
  disk.lines(f'{lists}/twice.txt', ['a', 'b', 'a'])
  disk.lines(f'{lists}/out.txt', ['a', '../../../x'])
  for split, match in (
    ('test', 'test.txt: there is no such list'),
    ('none', 'none.txt names no image: the split is empty'),
    ('twice', "'a' stands twice"),
    ('out', r"out.txt: '../../../x.jpg' does not lie in the folder"),
  ):
    with pytest.raises(SourceError, match=match):
      open_set('voc21', disk.root, split=split)


@pytest.mark.parametrize(
  ('name', 'match'),
  [
    ('voc21', "label maps of the split 'val' .*PASCAL VOC 2012 with backgro"),
    ('context59', 'PASCAL Context .* trainval_merged.json'),
    ('coco_object', "the split 'val2017' .* COCO-Object is read from"),
    ('coco_stuff', 'stuffthingmaps_trainval2017.zip'),
    ('ade20k', 'ADEChallengeData2016.zip'),
    ('cityscapes', 'labelIds.png'),
    ('pet', 'has no oxford_iiit_pet .*file_format="array_record"'),
    ('folder', 'classes.txt with a name per line'),
  ],
)
def test_folders_of_another_layout(disk, name, match):
  disk.image('images/val2017/1.jpg')  # without label maps
  disk.image('JPEGImages/1.jpg')
  with pytest.raises(SourceError, match=match):
    open_set(name, disk.root)
  with pytest.raises(SourceError, match='none: there is no such folder'):
    open_set(name, disk.root / 'none')
  with pytest.raises(SourceError, match='needs its folder'):
    open_set(name)


@pytest.mark.parametrize(
  'content', ['', '[]', '{"images": 3}', '{"im', '[' * 100_000]
)
def test_broken_annotations(disk, content):
  disk.image('images/val2017/1.jpg')
  disk.image('JPEGImages/1.jpg')
  disk.path('annotations/instances_val2017.json').write_text(content)
  disk.path('trainval_merged.json').write_text(content)
  with pytest.raises(SourceError, match='as instance annotations of COCO'):
    open_set('coco_object', disk.root)
  with pytest.raises(SourceError, match='as annotations of PASCAL Context'):
    open_set('context60', disk.root)


def test_masks_of_annotations_that_cannot_be_drawn(disk):
  disk.context({'2008_000001': [2]})
  with pytest.raises(SourceError, match="'test': it has 'train' and 'val'"):
    open_set('context60', disk.root, split='test')
  path = disk.root / 'trainval_merged.json'
  path.write_text(path.read_text().replace('"size": [8, 12]', '"size": [9, 9]'))
  with pytest.raises(ImageError, match='2008_000001.jpg in .* cannot be drawn'):
    open_set('context60', disk.root)[0]
  disk.image(f'val2017/{1:012d}.jpg')
  wrong = {'category_id': 1, 'segmentation': [[0, 0, 3, 2]], 'image_id': 1}
  disk.coco([1], [wrong])
  with pytest.raises(SourceError, match='missing required field `area`'):
    open_set('coco_object', disk.root)


def test_annotations_that_name_a_file_elsewhere(disk):
  disk.image('val2017/1.jpg')
  size = {'height': 8, 'width': 12}
  for name in ('../1.jpg', '/etc/x.jpg', 'sub/../../1.jpg', 'a\0.jpg'):
    images = [size | {'id': 1, 'file_name': name}]
    content = {'images': images, 'annotations': []}
    disk.json('annotations/instances_val2017.json', content)
    with pytest.raises(SourceError, match='does not lie in the folder'):
      open_set('coco_object', disk.root)


@pytest.mark.parametrize(
  ('names', 'match'),
  [
    ('# nothing\n', 'classes.txt names no class'),
    ('cat\ncat\n', "classes.txt: class name 'cat' stands twice"),
    ('background\ndog|cat\nDog | fox\n', "class name 'Dog' stands twice"),
    ('cat\n\ndog\n', 'classes.txt, line 2, is empty or a comment'),
    ('cat\ndog\n# end\n', 'line 3, is empty or a comment'),
    ('\n'.join(f'c{i}' for i in range(256)), 'names 256 classes; there can be'),
    ('Background|wall\n', 'classes.txt names the background alone'),
  ],
)
def test_class_lists_of_ones_own(disk, names, match):
  disk.own(names)
  with pytest.raises(SourceError, match=match):
    open_set('folder', disk.root)


def test_class_lists_may_end_in_empty_lines_and_have_synonyms(disk):
  disk.own('background|wall|sky\r\ndog\r\ncow\n \n\n')
  examples = open_set('folder', disk.root)
  assert examples.class_names == ('background|wall|sky', 'dog', 'cow')
  assert examples.background


@pytest.mark.parametrize('names', ['cat\ndog\n', 'cat\ndog\nfox\n'])
def test_masks_of_0_and_255(disk, caplog, names):
  """255 is meant to be a class: the second of two, or one of more."""
  disk.own(names)
  for mask in ('a', 'sub/b'):
    disk.labels(f'masks/{mask}.png', [0, 255])
  if names == 'cat\ndog\n':
    with pytest.raises(SourceError, match="0 and 255 alone.*: 1 for 'dog'"):
      open_set('folder', disk.root)
  else:
    assert len(open_set('folder', disk.root)) == 2
    assert "no pixel is 'dog'" in caplog.text
  disk.labels('masks/a.png', [0, 1, 255])
  assert len(open_set('folder', disk.root)) == 2
  for mask in ('a', 'sub/b'):
    disk.labels(f'masks/{mask}.png', [255])
  with pytest.raises(SourceError, match='the masks hold 255 alone'):
    open_set('folder', disk.root)


def test_linked_folders_of_ones_own_are_followed(disk, tmp_path, names):
  disk.own()
  for part in ('images', 'masks'):
    other = tmp_path / 'other' / part
    (disk.root / part).rename(disk.path(f'other/{part}'))
    (disk.root / part).mkdir()
    (disk.root / part / 'linked').symlink_to(other)
    (disk.root / part / 'loop').symlink_to(disk.root / part)
  examples = open_set('folder', disk.root)
  assert names(examples) == ['linked/a', 'linked/sub/b']
  np.testing.assert_array_equal(examples[1].label, disk.stripes([2, 2]))


def test_a_folder_where_a_mask_should_be(disk):
  disk.own()
  (disk.root / 'masks/a.png').unlink()
  (disk.root / 'masks/a.png').mkdir()
  with pytest.raises(ImageError, match=r'masks/a\.png is a folder, where a'):
    open_set('folder', disk.root)[0]


def test_names_in_a_folder(disk):
  """A listed name that is not there, one that leads out, and one twice."""
  disk.own()
  disk.lines('val.txt', ['a', 'z', 'my photo.png '])
  disk.image('images/my photo.png')
  disk.labels('masks/my photo.png', [0])
  examples = open_set('folder', disk.root, split='val')
  assert (examples[0].name, examples[2].name) == ('a', 'my photo')
  with pytest.raises(ImageError, match='masks/z.png: there is no such file'):
    examples[1]
  disk.lines('val.txt', ['../../x'])
  with pytest.raises(SourceError, match='does not lie in the folder'):
    open_set('folder', disk.root, split='val')
  disk.image('images/a.jpg')
  with pytest.raises(SourceError, match=r'a\.jpg and .*a\.png have the same'):
    open_set('folder', disk.root)


def test_names_and_options_that_do_not_exist(disk):
  with pytest.raises(SourceError, match="no benchmark 'voc'; there are voc21"):
    open_set('voc', disk.root)
  with pytest.raises(ValueError, match="voc21 has no option 'size'"):
    open_set('voc21', disk.root, size=3)
  with pytest.raises(ValueError, match='it has count, size, seed'):
    open_set('scenes', sides=3)
  with pytest.raises(ValueError, match='size of scenes is a whole number'):
    open_set('scenes', size='3')
  with pytest.raises(SourceError, match="'val': scenes has train, valid"):
    open_set('scenes', split='val')
  with pytest.raises(SourceError, match='a size of at least 16'):
    open_set('scenes', size=4)


def test_limits(disk):
  disk.voc({'a': [0, 1], 'b': [2, 255]})
  first = open_set('voc21', disk.root, limit=1)
  assert len(first) == 1
  assert [example.name for example in first] == ['a']
  assert first.name(0) == 'a' and first.background
  assert len(open_set('voc21', disk.root, limit=9)) == 2
  with pytest.raises(ValueError, match='limit must be at least 1, not 0'):
    open_set('voc21', disk.root, limit=0)


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
  found = base_lib.read_label_map(_grey_png(rows, bits), 'map')
  np.testing.assert_array_equal(found, rows)
