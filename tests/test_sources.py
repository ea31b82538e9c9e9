"""Sources: shards as the tools write them, and as they break."""

import io
import json
import os
import re
import struct
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.data import images, reader, shards, sources, tar_source


def picture(color, size=(12, 10)):
  return np.full((size[1], size[0], 3), color, np.uint8)


def encode(array, kind='JPEG'):
  out = io.BytesIO()
  Image.fromarray(array).save(out, kind)
  return out.getvalue()


def write_tar(path, members, form=tarfile.USTAR_FORMAT):
  """Writes (name, bytes) members, as img2dataset's tarfile does."""
  with tarfile.open(path, 'w', format=form) as tar:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return str(path)


def shard(path, first, count, extra=False):
  """A shard in img2dataset's layout: sample i is a picture of colour i."""
  members = []
  for i in range(first, first + count):
    members.append((f'{i:09d}.jpg', encode(picture(i))))
    if extra:
      members.append((f'{i:09d}.json', json.dumps({'key': i}).encode()))
    members.append((f'{i:09d}.txt', f'caption {i}'.encode()))
  return write_tar(path, members)


def color(sample):
  return int(images.to_array(sample['image'])[0, 0, 0])


# Tar shards.


def test_shards_by_braces(tmp_path):
  shard(tmp_path / '00000.tar', 0, 3, extra=True)
  shard(tmp_path / '00001.tar', 3, 2)
  source = sources.TarSource(str(tmp_path / '{00000..00001}.tar'))
  assert len(source) == 5
  for i in range(5):
    assert source[i]['caption'] == f'caption {i}'
    assert color(source[i]) == i
  assert len(sources.TarSource(str(tmp_path / '{00000,00001}.tar'))) == 5
  assert len(sources.TarSource(str(tmp_path / '*.tar'))) == 5
  assert len(sources.TarSource([tmp_path / '00001.tar'])) == 2


def test_absent_shards_are_skipped_with_a_warning(tmp_path, caplog):
  shard(tmp_path / '00002.tar', 0, 2)
  source = sources.TarSource(str(tmp_path / '{00000..00004}.tar'))
  assert len(source) == 2
  assert '4 shards are absent' in caplog.text


@pytest.mark.parametrize(
  ('pattern', 'message'),
  [
    ('gcc3m/gcc-train-{000000..000436}.tar', '(?s)Conceptual.*img2dataset'),
    ('gcc12m/gcc-conceptual-12m-{000000..000002}.tar', 'cc12m.tsv'),
    ('yfcc14m/yfcc14m-{000000..000002}.tar', 'YFCC14M. Join the list'),
    ('redcap12m/redcap12m-*.tar', '(?s)RedCaps.*--input_format parquet'),
    ('mine/*.tar', '(?s)How to prepare.*--output_format webdataset'),
  ],
)
def test_no_shard_says_how_to_prepare_the_data(tmp_path, pattern, message):
  with pytest.raises(FileNotFoundError, match=message) as error:
    sources.TarSource(str(tmp_path / pattern))
  assert str(tmp_path / pattern.split('/')[0]) in str(error.value)
  assert 'docs/data.md' in str(error.value)


def test_every_missing_data_set_gets_its_own_commands():
  patterns = [
    'd/three/gcc-train-{000000..000436}.tar',
    'd/twelve/gcc-conceptual-12m-{000000..001943}.tar',
    'd/flickr/yfcc14m-{000000..001888}.tar',
    'd/mine/a.tar',
    'd/mine/b.tar',
  ]
  with pytest.raises(FileNotFoundError, match='no training data') as error:
    shards.expand(patterns)
  parts = re.split('^(?=d/)', str(error.value), flags=re.MULTILINE)[1:]
  three, twelve, flickr, a, b = parts
  assert 'gcc3m.tsv' in three and '--output_folder d/three' in three
  assert 'gcc12m.tsv' in twelve and '--output_folder d/twelve' in twelve
  assert '--oom_shard_count 6' in three and '--oom_shard_count 6' in twelve
  assert 'd/flickr/yfcc14m-*.tar' in flickr and 'img2dataset --' not in flickr
  assert a == 'd/mine/a.tar\n' and '--output_folder d/mine' in b


def test_shards_renamed_as_told_are_found(tmp_path):
  pattern = str(tmp_path / 'gcc-train-{000000..000001}.tar')
  with pytest.raises(FileNotFoundError) as error:
    shards.expand(pattern)
  (line,) = [x for x in str(error.value).splitlines() if ' mv ' in x]
  for i in range(2):  # as img2dataset names them
    shard(tmp_path / f'{i:06d}.tar', i, 1)
  subprocess.run(['bash', '-c', line], check=True)
  assert len(sources.TarSource(pattern)) == 2


@pytest.mark.parametrize('bad', ['pipe:cat x.tar', 'https://a.b/{0..9}.tar'])
def test_commands_and_addresses_are_refused(bad, tmp_path):
  with pytest.raises(ValueError, match='are not run or opened'):
    sources.TarSource(bad)


def test_pattern_that_counts_down():
  with pytest.raises(ValueError, match='counts down'):
    shards.expand('{5..3}.tar')


@pytest.mark.parametrize(
  'form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_tar_dialects(tmp_path, form):
  """Long names, folders, upper case, dots in folders, other files."""
  folder = 'v1.0/' + 'long' * 40 if form != tarfile.USTAR_FORMAT else 'v1.0/a'
  path = write_tar(
    tmp_path / 'a.tar',
    [
      ('./README', b'no key'),
      (f'{folder}/x.JPG', encode(picture(1))),
      (f'{folder}/x.txt', 'één'.encode()),
      (f'{folder}/y.png', encode(picture(2), 'PNG')),
      (f'{folder}/y.cls', b'3'),
      (f'{folder}/y.text', b'two'),
      ('é.webp', encode(picture(3), 'WEBP')),
      ('é.json', json.dumps({'caption': 'three'}).encode()),
    ],
    form,
  )
  source = sources.TarSource(path)
  assert [source[i]['caption'] for i in range(3)] == ['één', 'two', 'three']
  assert [color(source[i]) for i in (0, 1)] == [1, 2]
  assert images.encoded_size(source[2]['image']) == (10, 12)
  names = [name for name, _, _ in tar_source.members(path)]
  with tarfile.open(path) as tar:
    assert names == tar.getnames()


def test_txt_goes_before_json_and_jpg_before_png(tmp_path):
  path = write_tar(
    tmp_path / 'a.tar',
    [
      ('k.json', b'{"caption": "json"}'),
      ('k.png', encode(picture(9), 'PNG')),
      ('k.txt', b'txt'),
      ('k.jpg', encode(picture(5))),
    ],
  )
  (sample,) = [sources.TarSource(path)[0]]
  assert sample['caption'] == 'txt' and color(sample) == 5


def test_samples_without_a_part_are_left_out(tmp_path, caplog):
  path = write_tar(
    tmp_path / 'a.tar',
    [
      ('a.jpg', encode(picture(1))),
      ('b.txt', b'b'),
      ('c.jpg', encode(picture(3))),
      ('c.txt', b'c'),
      ('d.cls', b'1'),
    ],
  )
  source = sources.TarSource(path)
  assert len(source) == 1 and source[0]['caption'] == 'c'
  assert '3 samples lack an image or a caption' in caplog.text


def test_shards_without_pairs(tmp_path):
  path = write_tar(tmp_path / 'a.tar', [('a.cls', b'1')])
  with pytest.raises(ValueError, match='1 shards hold no pair of an image'):
    sources.TarSource(path)


@pytest.mark.parametrize('fields', [b'{', b'[]', b'{"key": 1}', b'{"text":3}'])
def test_bad_json_is_a_bad_sample(tmp_path, fields):
  path = write_tar(
    tmp_path / 'a.tar', [('a.jpg', encode(picture(1))), ('a.json', fields)]
  )
  with pytest.raises(images.BadSampleError, match='json'):
    sources.TarSource(path)[0]


def test_cut_shard_loses_only_its_end(tmp_path, caplog):
  path = shard(tmp_path / 'a.tar', 0, 4)
  offsets = [block * 512 for _, block, _ in tar_source.members(path)]
  os.truncate(path, offsets[6] + 100)  # within the picture of sample 3
  source = sources.TarSource(path)
  assert len(source) == 3 and source[2]['caption'] == 'caption 2'
  assert 'is cut short' in caplog.text


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'\x1f\x8b' + bytes(2000), 'is compressed: gunzip'),
    (b'<html>' + b'no such file' * 100, 'not an uncompressed tar'),
  ],
)
def test_what_is_no_tar(tmp_path, content, message):
  path = tmp_path / 'a.tar'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    sources.TarSource(str(path))


def test_index_is_cached_and_follows_the_shard(tmp_path, monkeypatch):
  path = shard(tmp_path / 'a.tar', 0, 3)
  sources.TarSource(path)
  index = tmp_path / 'a.tar.pairs.npz'
  assert index.exists()
  scans = []
  scan = tar_source.scan
  monkeypatch.setattr(
    tar_source, 'scan', lambda path: scans.append(path) or scan(path)
  )
  assert len(sources.TarSource(path)) == 3 and not scans
  shard(tmp_path / 'a.tar', 10, 5)  # another size and time
  source = sources.TarSource(path)
  assert len(source) == 5 and color(source[4]) == 14 and len(scans) == 1
  index.write_bytes(index.read_bytes()[:-50])  # torn
  assert len(sources.TarSource(path)) == 5 and len(scans) == 2
  assert len(sources.TarSource(path)) == 5 and len(scans) == 2


def test_index_never_unpickles(tmp_path):
  path = shard(tmp_path / 'a.tar', 0, 2)
  trap = np.array([print], object)
  np.savez(tmp_path / 'a.tar.pairs.npz', stamp=trap, table=trap)
  assert len(sources.TarSource(path)) == 2


def test_index_goes_to_the_cache_when_the_folder_is_read_only(
  tmp_path, monkeypatch
):
  """Root may write anywhere, so the folder refuses by other means here."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  path = shard(tmp_path / 'a.tar', 0, 2)
  (tmp_path / 'a.tar.pairs.npz').mkdir()  # in the way of the index file
  assert len(sources.TarSource(path)) == 2
  (cached,) = (tmp_path / 'cache').rglob('a.tar.pairs.npz')
  before = cached.stat().st_mtime_ns
  assert len(sources.TarSource(path)) == 2
  assert cached.stat().st_mtime_ns == before


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, '_MOST_OPEN', 2)
  for i in range(5):
    shard(tmp_path / f'{i}.tar', i, 1)
  source = sources.TarSource(str(tmp_path / '{0..4}.tar'))
  for _ in range(2):
    assert [color(source[i]) for i in range(5)] == list(range(5))
  assert len(source._files._open) == 2


# TFRecord files.


def varint(value):
  out = b''
  while value > 0x7F:
    out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
  return out + bytes([value])


def field(number, data):
  return varint(number << 3 | 2) + varint(len(data)) + data


def example(**features):
  """A tf.train.Example of bytes features, by the wire format."""
  entries = b''
  for key, values in features.items():
    listed = b''.join(field(1, value) for value in values)
    entries += field(1, field(1, key.encode()) + field(2, field(1, listed)))
  return field(1, entries)


def write_records(path, records):
  with open(path, 'wb') as file:
    for record in records:
      file.write(struct.pack('<QI', len(record), 0) + record + bytes(4))
  return str(path)


def test_records_without_tensorflow(tmp_path):
  path = write_records(
    tmp_path / 'a.tfrecord',
    [
      example(image=[encode(picture(i))], caption=[b'c%d' % i, b'd'])
      for i in range(3)
    ],
  )
  source = sources.TFRecordSource(path)
  assert len(source) == 3
  assert source[1]['caption'] == (b'c1', b'd') and color(source[1]) == 1
  # The index is reused.
  assert len(sources.TFRecordSource([path, path + ''])) == 3


def test_records_written_by_tensorflow(tmp_path):
  tf = pytest.importorskip('tensorflow')
  train = tf.train

  def feature(value):
    if isinstance(value, int):
      return train.Feature(int64_list=train.Int64List(value=[value, -1]))
    if isinstance(value, float):
      return train.Feature(float_list=train.FloatList(value=[value]))
    return train.Feature(bytes_list=train.BytesList(value=[value]))

  path = str(tmp_path / 'a-00000-of-00001.tfrecord')
  with tf.io.TFRecordWriter(path) as writer:
    for i in range(4):
      fields = {
        'image/encoded': encode(picture(i)),
        'image/height': 10,
        'score': 0.5,
        'image/caption': f'číslo {i}'.encode(),
      }
      features = {key: feature(value) for key, value in fields.items()}
      made = train.Example(features=train.Features(feature=features))
      writer.write(made.SerializeToString())
  source = sources.TFRecordSource(str(tmp_path / 'a-*.tfrecord'))
  assert len(source) == 4
  assert source[3]['caption'] == ('číslo 3'.encode(),)
  assert color(source[3]) == 3


def test_record_features_by_name(tmp_path):
  path = write_records(
    tmp_path / 'a', [example(photo=[encode(picture(1))], alt=[b'x'])]
  )
  with pytest.raises(ValueError, match=r"\['alt', 'photo'\]: name it with im"):
    sources.TFRecordSource(path)
  source = sources.TFRecordSource(path, image_key='photo', caption_key='alt')
  assert source[0]['caption'] == (b'x',)


def test_broken_records(tmp_path, caplog):
  good = example(image=[encode(picture(1))], caption=[b'x'])
  path = write_records(tmp_path / 'a', [good, b'\xff\xff', good])
  source = sources.TFRecordSource(path)
  with pytest.raises(images.BadSampleError, match='broken record'):
    source[1]
  os.truncate(path, os.path.getsize(path) - 20)
  assert len(sources.TFRecordSource(path)) == 2
  assert 'is cut short' in caplog.text
  (tmp_path / 'b').write_bytes(b'\x1f\x8b' + bytes(range(200)))
  with pytest.raises(ValueError, match='uncompressed TFRecord'):
    sources.TFRecordSource(str(tmp_path / 'b'))


# Sources of sources, and memory.


def test_concatenated_sources(tmp_path):
  parts = [
    sources.TarSource(shard(tmp_path / f'{i}.tar', 10 * i, count))
    for i, count in enumerate((2, 1, 3))
  ]
  source = sources.ConcatSource(parts)
  assert len(source) == 6
  assert [color(source[i]) for i in range(6)] == [0, 1, 10, 20, 21, 22]
  assert '1.tar' in source.name
  with pytest.raises(ValueError, match='at least one source'):
    sources.ConcatSource([])


def test_in_memory_decodes_once_and_drops_the_bad(tmp_path, caplog):
  path = write_tar(
    tmp_path / 'a.tar',
    [
      ('a.png', encode(picture(1, (40, 20)), 'PNG')),
      ('a.txt', b'  one '),
      ('b.jpg', b''),
      ('b.txt', b'two'),
      ('c.png', encode(picture(3), 'PNG')),
      ('c.txt', b' '),
      ('d.png', encode(picture(4), 'PNG')),
      ('d.txt', b'four'),
    ],
  )
  memory = sources.InMemory(sources.TarSource(path), 16, progress=False)
  assert memory.images.shape == (2, 16, 16, 3) and memory.dropped == 2
  assert memory[0]['caption'] == ('one',) and (memory[1]['image'] == 4).all()
  assert '2 samples left out' in caplog.text
  only_bad = write_tar(tmp_path / 'b.tar', [('b.jpg', b''), ('b.txt', b'x')])
  with pytest.raises(ValueError, match='none of the 1 samples is usable'):
    sources.InMemory(sources.TarSource(only_bad), 16, progress=False)


def test_arrays_are_checked():
  image = np.zeros((2, 4, 4, 3), np.uint8)
  source = sources.ArraySource(image, ['a', ('b', ' ', 'c')])
  assert source[1]['caption'] == ('b', 'c') and 'mask' not in source[1]
  with pytest.raises(ValueError, match='must be uint8'):
    sources.ArraySource(image.astype(np.float32), ['a', 'b'])
  with pytest.raises(ValueError, match='differ in number'):
    sources.ArraySource(image, ['a'])
  with pytest.raises(ValueError, match='sample 1: the caption is empty'):
    sources.ArraySource(image, ['a', ''])


def test_scenes_for_training_hold_no_mask():
  source = sources.SceneSource('train', 3, 32, progress=False, workers=1)
  assert source.masks is None
  assert set(source[0]) == {'image', 'caption'}
  truth = sources.SceneSource(
    'validation', 3, 32, masks=True, progress=False, workers=1
  )
  assert truth[2]['mask'].shape == (32, 32)
  assert (truth.images != source.images).any()


def test_scenes_through_tfds(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  source = sources.scenes_tfds(
    'train', 4, 32, data_dir=str(tmp_path), workers=1
  )
  direct = sources.SceneSource('train', 4, 32, progress=False, workers=1)
  assert len(source) == 4
  found = {color_key(images.to_array(source[i]['image'])) for i in range(4)}
  assert found == {color_key(image) for image in direct.images}
  assert isinstance(source[0]['image'], bytes) and 'mask' not in source[0]
  captions = {reader.clean_captions(source[i]['caption']) for i in range(4)}
  assert captions == set(direct.captions)
  with pytest.raises(ValueError, match="has no feature 'mask'"):
    sources.TFDSSource(
      source._builder, 'train', data_dir=str(tmp_path), mask_key='mask'
    )


def color_key(image):
  return np.asarray(image).tobytes()


def test_tfds_that_is_not_prepared(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  from groupvit_jax.data import scenes_builder

  builder = scenes_builder.Scenes(
    config=scenes_builder.config('captions', 32, 4), data_dir=str(tmp_path)
  )
  with pytest.raises(ValueError, match='cannot be read at random.*array_rec'):
    sources.TFDSSource(builder, 'train')


# Headers.


@pytest.mark.parametrize(
  ('kind', 'mode'),
  [
    ('JPEG', 'RGB'),
    ('JPEG', 'L'),
    ('JPEG', 'CMYK'),
    ('PNG', 'RGBA'),
    ('PNG', 'P'),
    ('PNG', 'I;16'),
    ('PNG', '1'),
    ('WEBP', 'RGBA'),
    ('GIF', 'P'),
  ],
)
def test_every_kind_of_image_decodes(kind, mode):
  if mode == 'I;16':
    wide = np.tile(np.linspace(0, 65535, 13).astype(np.uint16), (7, 1))
    image = Image.fromarray(wide)
  else:
    image = Image.fromarray(picture(200, (13, 7)))
    image = image.quantize(4) if mode == 'P' else image.convert(mode)
  out = io.BytesIO()
  image.save(out, kind)
  data = out.getvalue()
  assert images.encoded_size(data) == (7, 13)
  decoded = np.asarray(images.decode_pil(data))
  assert decoded.shape == (7, 13, 3) and decoded.dtype == np.uint8
  if mode == 'I;16':
    np.testing.assert_array_equal(decoded[0, [0, 6, 12], 0], [0, 127, 255])
  elif mode != '1':
    assert abs(decoded.astype(int) - 200).max() <= 3


def test_jpeg_header_equals_pillow():
  for progressive in (False, True):
    out = io.BytesIO()
    Image.fromarray(picture(3, (300, 17))).save(
      out, 'JPEG', progressive=progressive, comment=b'c' * 3000
    )
    assert images.encoded_size(out.getvalue()) == (17, 300)


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'', 'zero bytes'),
    (b'<html>not found</html>', 'not a readable image'),
    (encode(picture(1))[:30], 'without a frame header'),
    (encode(picture(1), 'PNG')[:12], 'not a readable image'),
    (b'\xff\xd8\xff' + b'\xff' * 40, 'without a frame header'),
  ],
)
def test_broken_headers(data, message):
  with pytest.raises(images.BadSampleError, match=message):
    images.encoded_size(data)


def test_sizes_are_limited():
  with pytest.raises(images.BadSampleError, match='more than 100'):
    images.check_size((11, 10), 100)
  with pytest.raises(images.BadSampleError, match='0 x 4 pixels'):
    images.check_size((4, 0))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_truncated_images_do_not_decode(kind):
  rng = np.random.default_rng(0)
  data = encode(rng.integers(0, 256, (64, 64, 3), np.uint8), kind)
  with pytest.raises(images.BadSampleError, match='does not decode'):
    images.decode_pil(data[: len(data) // 2])
  if kind == 'JPEG':
    assert images.looks_cut(data[: len(data) // 2])
    assert not images.looks_cut(data)
