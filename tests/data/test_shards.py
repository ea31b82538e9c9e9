"""Shards: found by patterns, named where absent, indexed once."""

import numpy as np
import pytest

from groupvit_jax.data import paths, shards, tar


def test_shards_by_braces(tmp_path, make):
  make.shard(tmp_path / '00000.tar', 0, 3, extra=True)
  make.shard(tmp_path / '00001.tar', 3, 2)
  source = tar.TarSource(str(tmp_path / '{00000..00001}.tar'))
  assert len(source) == 5
  for i in range(5):
    assert source[i]['caption'] == b'caption %d' % i
    assert make.color(source[i]) == i
  assert len(tar.TarSource(str(tmp_path / '{00000,00001}.tar'))) == 5
  assert len(tar.TarSource(str(tmp_path / '*.tar'))) == 5
  assert len(tar.TarSource([tmp_path / '00001.tar'])) == 2


def test_absent_shards_are_skipped_with_a_warning(tmp_path, caplog, make):
  make.shard(tmp_path / '00002.tar', 0, 2)
  pattern = str(tmp_path / '{00000..00004}.tar')
  assert len(tar.TarSource(pattern)) == 2
  (record,) = caplog.records
  assert record.getMessage() == (
    f'{pattern}: 4 of its 5 paths are absent and skipped, such as '
    f'{tmp_path}/00000.tar'
  )


def test_a_data_set_without_any_shard_is_named(tmp_path, caplog, make):
  there = make.shard(tmp_path / '0.tar', 0, 2)
  absent = [f'{tmp_path}/gcc/{{0..9}}.tar', tmp_path / 'redcaps' / '*.tar']
  assert paths.expand([absent[0], there, absent[1]]) == [there]
  (record,) = caplog.records
  assert record.getMessage().startswith(
    f'no shard is there of {absent[0]}, {absent[1]}: training goes on without'
  )
  assert 'docs/data.md' in record.getMessage()


def test_many_absent_paths_are_told_in_one_line(tmp_path, caplog, make):
  there = make.shard(tmp_path / '0.tar', 0, 2)
  paths.expand([there, *(f'{tmp_path}/{i}.tar' for i in range(1, 100))])
  (record,) = caplog.records
  assert f'{tmp_path}/3.tar and 96 more: training' in record.getMessage()
  assert f'{tmp_path}/4.tar' not in record.getMessage()


def test_shards_that_are_all_there_are_not_spoken_of(tmp_path, caplog, make):
  there = [make.shard(tmp_path / f'{i}.tar', i, 1) for i in range(2)]
  assert paths.expand([str(tmp_path / '{0,1}.tar'), *there]) == there
  assert not caplog.records


def test_no_shard_says_how_to_prepare_some(tmp_path):
  pattern = f'{tmp_path}/gcc3m/gcc-train-{{000000..000436}}.tar'
  with pytest.raises(FileNotFoundError, match='(?s)pixparse.*img2d') as error:
    tar.TarSource([pattern, *(f'{tmp_path}/{i}.tar' for i in range(9))])
  for words in (pattern, 'and 7 more', 'groupvit data convert', 'docs/data.md'):
    assert words in str(error.value)


def test_commands_are_refused():
  with pytest.raises(ValueError, match='commands are not run'):
    tar.TarSource('pipe:cat x.tar')


def test_pattern_that_counts_down():
  with pytest.raises(ValueError, match='counts down'):
    paths.expand('{5..3}.tar')


def test_index_is_cached_and_follows_the_shard(tmp_path, monkeypatch, make):
  path = make.shard(tmp_path / 'a.tar', 0, 3)
  tar.TarSource(path)
  index = tmp_path / 'a.tar.pairs.npz'
  assert index.exists()
  scans = []
  scan = tar.scan
  monkeypatch.setattr(
    tar, 'scan', lambda path: scans.append(path) or scan(path)
  )
  assert len(tar.TarSource(path)) == 3 and not scans
  make.shard(tmp_path / 'a.tar', 10, 5)  # another size and time
  source = tar.TarSource(path)
  assert len(source) == 5 and make.color(source[4]) == 14 and len(scans) == 1
  index.write_bytes(index.read_bytes()[:-50])  # torn
  assert len(tar.TarSource(path)) == 5 and len(scans) == 2
  assert len(tar.TarSource(path)) == 5 and len(scans) == 2


def test_index_never_unpickles(tmp_path, make):
  path = make.shard(tmp_path / 'a.tar', 0, 2)
  trap = np.array([print], object)
  np.savez(tmp_path / 'a.tar.pairs.npz', stamp=trap, table=trap)
  assert len(tar.TarSource(path)) == 2


def test_index_goes_to_the_cache_when_the_folder_is_read_only(
  tmp_path, monkeypatch, make
):
  """Root may write anywhere, so the folder refuses by other means here."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  path = make.shard(tmp_path / 'a.tar', 0, 2)
  (tmp_path / 'a.tar.pairs.npz').mkdir()  # in the way of the index file
  assert len(tar.TarSource(path)) == 2
  (cached,) = (tmp_path / 'cache').rglob('a.tar.pairs.npz')
  before = cached.stat().st_mtime_ns
  assert len(tar.TarSource(path)) == 2
  assert cached.stat().st_mtime_ns == before


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch, make):
  monkeypatch.setattr(shards, '_MOST_OPEN', 2)
  for i in range(5):
    make.shard(tmp_path / f'{i}.tar', i, 1)
  source = tar.TarSource(str(tmp_path / '{0..4}.tar'))
  for _ in range(2):
    assert [make.color(source[i]) for i in range(5)] == list(range(5))
  assert len(source._files._open) == 2
