"""Tar shards as the tools write them, and as they break."""

import json
import os
import tarfile

import pytest
from sample_data import color, encode, picture, shard, write_tar

from groupvit_jax.data import images, shards, sources


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
  names = [name for name, _, _ in shards.members(path)]
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
  offsets = [block * 512 for _, block, _ in shards.members(path)]
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
