"""TFRecord files, read without TensorFlow and as TensorFlow writes them."""

import os
import struct

import pytest

from groupvit_jax.data import images, records


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


def test_records_without_tensorflow(tmp_path, make):
  path = write_records(
    tmp_path / 'a.tfrecord',
    [
      example(image=[make.encode(make.plain(i))], caption=[b'c%d' % i, b'd'])
      for i in range(3)
    ],
  )
  source = records.TFRecordSource(path)
  assert len(source) == 3
  assert source[1]['caption'] == (b'c1', b'd') and make.color(source[1]) == 1
  # The index is reused.
  assert len(records.TFRecordSource([path, path + ''])) == 3


def test_records_written_by_tensorflow(tmp_path, make):
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
        'image/encoded': make.encode(make.plain(i)),
        'image/height': 10,
        'score': 0.5,
        'image/caption': f'číslo {i}'.encode(),
      }
      features = {key: feature(value) for key, value in fields.items()}
      made = train.Example(features=train.Features(feature=features))
      writer.write(made.SerializeToString())
  source = records.TFRecordSource(str(tmp_path / 'a-*.tfrecord'))
  assert len(source) == 4
  assert source[3]['caption'] == ('číslo 3'.encode(),)
  assert make.color(source[3]) == 3


def test_record_features_by_name(tmp_path, make):
  path = write_records(
    tmp_path / 'a', [example(photo=[make.encode(make.plain(1))], alt=[b'x'])]
  )
  with pytest.raises(ValueError, match=r"\['alt', 'photo'\]: name it with dat"):
    records.TFRecordSource(path)
  source = records.TFRecordSource(path, image_key='photo', caption_key='alt')
  assert source[0]['caption'] == (b'x',)


def test_broken_records(tmp_path, caplog, make):
  good = example(image=[make.encode(make.plain(1))], caption=[b'x'])
  path = write_records(tmp_path / 'a', [good, b'\xff\xff', good])
  source = records.TFRecordSource(path)
  with pytest.raises(images.BadSampleError, match='broken record'):
    source[1]
  os.truncate(path, os.path.getsize(path) - 20)
  assert len(records.TFRecordSource(path)) == 2
  assert 'is cut short' in caplog.text
  (tmp_path / 'b').write_bytes(b'\x1f\x8b' + bytes(range(200)))
  with pytest.raises(ValueError, match='uncompressed TFRecord'):
    records.TFRecordSource(str(tmp_path / 'b'))


def test_array_records(tmp_path, make):
  module = pytest.importorskip('array_record.python.array_record_module')
  for shard in range(2):
    path = tmp_path / f'a-{shard:05d}.array_record'
    writer = module.ArrayRecordWriter(str(path), 'group_size:1')
    for i in range(3 * shard, 3 * shard + 3):
      image = [make.encode(make.plain(i))]
      writer.write(example(image=image, caption=[b'c%d' % i]))
    writer.close()
  for pattern in (tmp_path, tmp_path / '*.array_record'):
    source = records.open_records(str(pattern))
    assert isinstance(source, records.ArrayRecordSource)
    assert source.lengths == [3, 3]
  for i in range(6):
    assert source[i]['caption'] == (b'c%d' % i,) and make.color(source[i]) == i
  with pytest.raises(ValueError, match='is no ArrayRecord file'):
    (tmp_path / 'b.array_record').write_bytes(b'x' * 100)
    records.open_records(str(tmp_path / 'b.array_record'))
