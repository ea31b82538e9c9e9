"""Sources of sources and in memory, scenes, and TFDS."""

import numpy as np
import pytest

from groupvit_jax.data import sources, tar
from groupvit_jax.errors import SourceError


def test_joined_sources_are_named(tmp_path, make):
  for i, count in enumerate((2, 1, 3)):
    make.shard(tmp_path / f'{i}.tar', 10 * i, count)
  entries = [
    f'a={tmp_path}/0.tar',
    f'b={tmp_path}/1.tar',
    f'a={tmp_path}/2.tar',
  ]
  source = sources.open_named(entries, tar.TarSource)
  assert source.parts == (('a', 5), ('b', 1))
  assert [make.color(source[i]) for i in range(6)] == [0, 1, 20, 21, 22, 10]
  assert source.name == 'a + b' and source.lengths == [2, 3, 1]
  assert source.describe(5) == f"{tmp_path}/1.tar: '000000010.jpg'"
  (one,) = [sources.open_named([str(tmp_path / '*.tar')], tar.TarSource)]
  assert isinstance(one, tar.TarSource) and len(one) == 6


def test_in_memory_decodes_once_and_drops_the_bad(tmp_path, caplog, make):
  path = make.tar(
    tmp_path / 'a.tar',
    [
      ('a.png', make.encode(make.plain(1, (40, 20)), 'PNG')),
      ('a.txt', b'  one '),
      ('b.jpg', b''),
      ('b.txt', b'two'),
      ('c.png', make.encode(make.plain(3), 'PNG')),
      ('c.txt', b' '),
      ('d.png', make.encode(make.plain(4), 'PNG')),
      ('d.txt', b'four'),
    ],
  )
  memory = sources.InMemory(tar.TarSource(path), 16)
  assert memory.images.shape == (2, 16, 16, 3) and memory.dropped == 2
  assert memory[0]['caption'] == ('one',) and (memory[1]['image'] == 4).all()
  assert '2 samples left out' in caplog.text
  only_bad = make.tar(tmp_path / 'b.tar', [('b.jpg', b''), ('b.txt', b'x')])
  with pytest.raises(ValueError, match='none of the 1 samples is usable'):
    sources.InMemory(tar.TarSource(only_bad), 16)


def test_arrays_are_checked():
  image = np.zeros((2, 4, 4, 3), np.uint8)
  source = sources.ArraySource(image, ['a', ('b', ' ', 'c')])
  assert source[1]['caption'] == ('b', 'c') and 'mask' not in source[1]
  with pytest.raises(ValueError, match='differ in number'):
    sources.ArraySource(image, ['a'])
  with pytest.raises(ValueError, match='sample 1: the caption has no'):
    sources.ArraySource(image, ['a', ''])


def test_scenes_for_training_hold_no_mask():
  source = sources.SceneSource('train', 3, 32)
  assert source.masks is None
  assert set(source[0]) == {'image', 'caption'}
  labelled = sources.SceneSource('validation', 3, 32, masks=True)
  assert labelled[2]['mask'].shape == (32, 32)
  assert (labelled.images != source.images).any()


def test_scenes_on_disk_are_those_in_memory_in_their_order(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  source = sources.scenes_tfds('train', 4, 32, data_dir=str(tmp_path))
  direct = sources.SceneSource('train', 4, 32)
  kept = sources.InMemory(source, 32, name=direct.name)
  assert kept.identity() == direct.identity()
  np.testing.assert_array_equal(kept.images, direct.images)
  assert isinstance(source[0]['image'], bytes) and 'mask' not in source[0]
  with pytest.raises(SourceError, match="has no feature 'mask'"):
    sources.TFDSSource(source._records.builder, 'train', mask_key='mask')


def test_tfds_that_is_not_prepared(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  from groupvit_jax.scenes import tfds_builder

  builder = tfds_builder.classes()[1](
    config=tfds_builder.config('captions', 32, 4, 0), data_dir=str(tmp_path)
  )
  with pytest.raises(SourceError, match='be read at random.*array_rec'):
    sources.TFDSSource(builder, 'train')
