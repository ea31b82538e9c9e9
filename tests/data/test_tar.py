"""Tar shards as the tools write them, as they break, and as they lie."""

import json
import os
import re
import struct
import tarfile

import pytest

from groupvit_jax.data import images, tar


@pytest.mark.parametrize(
  'form', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_tar_dialects(tmp_path, form, make):
  """Long names, folders, upper case, dots in folders, other files."""
  folder = 'v1.0/' + 'long' * 40 if form != tarfile.USTAR_FORMAT else 'v1.0/a'
  path = make.tar(
    tmp_path / 'a.tar',
    [
      ('./README', b'no key'),
      (f'{folder}/x.JPG', make.encode(make.plain(1))),
      (f'{folder}/x.txt', 'één'.encode()),
      (f'{folder}/y.png', make.encode(make.plain(2), 'PNG')),
      (f'{folder}/y.cls', b'3'),
      (f'{folder}/y.text', b'two'),
      ('é.webp', make.encode(make.plain(3), 'WEBP')),
      ('é.json', json.dumps({'caption': 'three'}).encode()),
    ],
    form,
  )
  source = tar.TarSource(path)
  captions = [source[i]['caption'] for i in range(3)]
  assert captions == ['één'.encode(), b'two', 'three']
  assert [make.color(source[i]) for i in (0, 1)] == [1, 2]
  assert images.decode(source[2]['image']).size == (12, 10)
  names = [name for name, _, _ in tar.members(path)]
  with tarfile.open(path) as file:
    assert names == file.getnames()


def test_txt_goes_before_json_and_jpg_before_png(tmp_path, make):
  path = make.tar(
    tmp_path / 'a.tar',
    [
      ('k.json', b'{"caption": "json"}'),
      ('k.png', make.encode(make.plain(9), 'PNG')),
      ('k.txt', b'txt'),
      ('k.jpg', make.encode(make.plain(5))),
    ],
  )
  sample = tar.TarSource(path)[0]
  assert sample['caption'] == b'txt' and make.color(sample) == 5


def test_samples_without_a_part_are_left_out(tmp_path, caplog, make):
  path = make.tar(
    tmp_path / 'a.tar',
    [
      ('a.jpg', make.encode(make.plain(1))),
      ('b.txt', b'b'),
      ('c.jpg', make.encode(make.plain(3))),
      ('c.txt', b'c'),
      ('d.cls', b'1'),
    ],
  )
  source = tar.TarSource(path)
  assert len(source) == 1 and source[0]['caption'] == b'c'
  assert '3 samples lack an image or a caption' in caplog.text
  assert 'dot' not in caplog.text


def test_shards_without_pairs_say_where_keys_end(tmp_path, caplog, make):
  path = make.tar(tmp_path / 'a.tar', [('a.in.jpg', b''), ('a.in.txt', b'')])
  message = 'hold no pair of an image .* A key ends at the first dot'
  with pytest.raises(ValueError, match=message):
    tar.TarSource(path)
  assert '1 of them have a dot inside their names' in caplog.text


@pytest.mark.parametrize(
  'fields',
  [b'{', b'[]', b'{"key": 1}', b'{"text":3}', b'[' * 200_000, b'9' * 9999],
)
def test_bad_json_is_a_bad_sample(tmp_path, fields, make):
  path = make.tar(
    tmp_path / 'a.tar',
    [('a.jpg', make.encode(make.plain(1))), ('a.json', fields)],
  )
  source = tar.TarSource(path)
  with pytest.raises(images.BadSampleError, match='json') as error:
    source[0]
  assert error.value.reason == 'record'
  assert source.describe(0) == f"{path}: 'a.jpg'"


def test_members_beyond_the_limits_are_not_read(tmp_path, make):
  """A sparse file claims what no memory holds."""
  header = tarfile.TarInfo('a.jpg')
  header.size = 1 << 40
  text = tarfile.TarInfo('a.txt')
  text.size = 1 << 30
  path = tmp_path / 'a.tar'
  with path.open('wb') as file:
    file.write(header.tobuf())
    file.seek(header.size, os.SEEK_CUR)
    file.write(text.tobuf())
    file.truncate(file.tell() + text.size)
  source = tar.TarSource(path)
  with pytest.raises(images.BadSampleError, match='the image has 1,099,511,6'):
    source[0]
  source._tables[0][0, 1] = 10
  with pytest.raises(images.BadSampleError, match='the caption has 1,073,7'):
    source[0]


def test_a_cut_shard_loses_only_its_end(tmp_path, caplog, make):
  path = make.shard(tmp_path / 'a.tar', 0, 4)
  offsets = [block * 512 for _, block, _ in tar.members(path)]
  os.truncate(path, offsets[6] + 100)  # within the image of sample 3
  source = tar.TarSource(path)
  assert len(source) == 3 and source[2]['caption'] == b'caption 2'
  assert 'is cut short' in caplog.text


def test_a_cut_within_the_last_padding_loses_nothing(tmp_path, make):
  path = make.shard(tmp_path / 'a.tar', 0, 3)
  _, block, size = list(tar.members(path))[-1]
  os.truncate(path, block * 512 + size + 10)
  assert len(tar.TarSource(path)) == 3


def with_header(data, change):
  """A header that `change` alters, before two samples of a shard."""
  header = bytearray(tarfile.TarInfo('x.jpg').tobuf(tarfile.USTAR_FORMAT))
  change(header)
  header[148:156] = b' ' * 8
  header[148:156] = b'%06o\0 ' % sum(header)
  return bytes(header) + data


def negative(header):
  header[124:136] = struct.pack('>Iq', 0xFFFFFFFF, -3072)


def empty_pax_record(good):
  info = tarfile.TarInfo('x')
  info.pax_headers = {'comment': 'some'}
  header = info.tobuf(tarfile.PAX_FORMAT)
  return header.replace(b'16 comment', b'00 comment') + good


def huge_pax(header):
  header[124:136] = b'%011o\0' % (1 << 32)
  header[156:157] = b'x'


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (lambda good: b'\x1f\x8b' + bytes(2000), 'is compressed: unpack'),
    (lambda good: b'<html>' + b'no such file' * 100, 'not an uncompressed tar'),
    (lambda good: b'', 'not an uncompressed tar'),
    (lambda good: with_header(good, negative), 'a member of -3072 bytes'),
    (lambda good: good[:2560] + with_header(good, negative), '-3072 bytes'),
    (lambda good: with_header(good, huge_pax), 'a header of 4294967296'),
    (empty_pax_record, 'not an uncompressed tar'),
    (lambda good: good[:2560] + b'?' * 512 + good, 'after byte 2560'),
    (
      lambda good: b''.join(
        tarfile.TarInfo.create_pax_global_header({'a': str(i)})
        for i in range(5000)
      ),
      'not an uncompressed tar',
    ),
  ],
)
def test_what_is_no_tar_is_refused_by_name(
  tmp_path, content, message, make, caplog
):
  good = make.shard(tmp_path / 'good.tar', 0, 2)
  with open(good, 'rb') as file:
    data = content(file.read())
  path = tmp_path / 'bad.tar'
  path.write_bytes(data)
  with pytest.raises(ValueError, match=f'{re.escape(str(path))}.*{message}'):
    tar.TarSource(str(path))
  # One of several is left out, at every start anew.
  for _ in range(2):
    caplog.clear()
    assert len(tar.TarSource([path, good])) == 2
    assert str(path) in caplog.text
