"""Remote shards: a server that fails, stalls and truncates; the disk cache."""

import json
import logging
import os
import pathlib
import time

import numpy as np
import pytest

from groupvit_jax.data import images, remote, sampling, sources, tar
from groupvit_jax.errors import SourceError

fsspec = pytest.importorskip('fsspec')


@pytest.fixture(autouse=True)
def quick_and_with_an_own_index(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  for name, value in (('_TIMEOUT', 2.0), ('_TRIES', 4), ('_PAUSE', 0.01)):
    monkeypatch.setattr(remote, name, value)


def cache_of(tmp_path, limit=10**9):
  return remote.ShardCache(tmp_path / 'cache', limit)


def captions(source):
  return [source[i]['caption'] for i in range(len(source))]


@pytest.mark.parametrize(
  'fault', ['fail', 'stall', 'truncate', 'drop', 'no range']
)
def test_a_server_with_faults_is_read_to_the_last_byte(
  server, tmp_path, make, fault
):
  for i in range(2):
    make.shard(server.folder / f'{i}.tar', 3 * i, 3)
  server.faults = {
    ('GET', '/0.tar'): [fault],
    ('HEAD', '/1.tar'): ['fail'] if fault == 'fail' else [],
  }
  source = tar.TarSource(f'{server.url}/{{0..2}}.tar', cache=cache_of(tmp_path))
  assert captions(source) == [b'caption %d' % i for i in range(6)]
  assert [make.color(source[i]) for i in range(6)] == list(range(6))
  assert not list((tmp_path / 'cache').glob('*.part'))


def test_a_server_that_stays_broken_ends_the_run(server, tmp_path, make):
  make.shard(server.folder / '0.tar', 0, 3)
  server.faults = {('GET', '/0.tar'): ['truncate'] * 99}
  with pytest.raises(SourceError, match='0.tar cannot be read, tried 4 times'):
    tar.TarSource(f'{server.url}/0.tar', cache=cache_of(tmp_path))
  server.faults = {('GET', '/0.tar'): ['forbid']}
  with pytest.raises(PermissionError, match='0.tar: .* wants credentials'):
    tar.TarSource(f'{server.url}/0.tar', cache=cache_of(tmp_path))
  with pytest.raises(FileNotFoundError, match='no such address'):
    tar.TarSource(f'{server.url}/5.tar', cache=cache_of(tmp_path))


def test_lengths_come_from_stats_and_the_manifest(server, tmp_path, make):
  """Then no shard is fetched before it is read; each is fetched once."""
  for i, folder in enumerate('ab'):
    (server.folder / folder).mkdir()
    make.shard(server.folder / folder / '0.tar', 3 * i, 3)
  (server.folder / 'a' / '0_stats.json').write_text('{"successes": 4}')
  (server.folder / 'b' / 'manifest.json').write_text(
    json.dumps({'shards': {'0.tar': {'samples': 3}}})
  )
  server.faults = {('GET', '/a/manifest.json'): ['forbid']}
  cache = cache_of(tmp_path)
  source = tar.TarSource(f'{server.url}/{{a,b}}/0.tar', cache=cache)
  assert source.lengths == [4, 3]
  assert ('GET', '/a/0.tar') not in server.requests
  assert source[2]['caption'] == b'caption 2'
  # The statistics promise one more than the shard has.
  with pytest.raises(images.BadSampleError, match='fewer samples') as error:
    source[3]
  assert error.value.reason == 'shard'
  source.ahead([1])
  while not list((tmp_path / 'cache').glob('*-0.tar'))[1:]:
    time.sleep(0.01)
  assert source[4]['caption'] == b'caption 3'
  fetched = [path for method, path in server.requests if method == 'GET']
  assert fetched.count('/b/0.tar') == fetched.count('/a/0.tar') == 1


def test_batches_are_equal_wherever_the_shards_are(
  server, tmp_path, make, train
):
  for i in range(6):
    make.shard(server.folder / f'{i}.tar', 5 * i, 5)
  local = tar.TarSource(str(server.folder / '*.tar'))
  # Room for three of the six: shards come and go.
  limit = 3 * (server.folder / '0.tar').stat().st_size
  cache = cache_of(tmp_path, limit)
  far = tar.TarSource(f'{server.url}/{{0..5}}.tar', cache=cache)

  def order(source):
    ordering = sources.Ordering('streams', 2, 4, batch_size=6)
    return sources.order_of(source, 3, ordering)

  ours, _, _ = train.take(9, local, order=order(local), backend='numpy')
  theirs, _, _ = train.take(9, far, order=order(far), backend='numpy')
  train.assert_equal(ours, theirs)
  rest, _, _ = train.take(4, far, order=order(far), start=30, backend='numpy')
  train.assert_equal(rest, ours[5:])
  kept = sum(p.stat().st_size for p in (tmp_path / 'cache').iterdir())
  assert kept <= limit


def test_a_shard_that_is_damaged_on_the_server_is_replaced(
  server, tmp_path, make, train
):
  for i in range(3):
    make.shard(server.folder / f'{i}.tar', 5 * i, 5)
    (server.folder / f'{i}_stats.json').write_text('{"successes": 5}')
  (server.folder / '1.tar').write_bytes(b'<html>' * 1000)
  source = tar.TarSource(f'{server.url}/{{0..2}}.tar', cache=cache_of(tmp_path))
  order = sampling.StreamOrder(source.lengths, 0, sampling.Turns(2, 3), 4)
  batches, _, bad = train.take(5, source, order=order, backend='numpy')
  again, _, _ = train.take(5, source, order=order, backend='numpy')
  train.assert_equal(batches, again)
  assert bad['shard'] >= 10
  good = {train.sign(f'caption {i}') for i in (*range(5), *range(10, 15))}
  seen = np.concatenate([batch['tokens'][:, 0, 1] for batch in batches])
  assert set(seen.tolist()) <= good


def test_globs_and_folders_in_memory(tmp_path, make):
  fs = fsspec.filesystem('memory')
  path = pathlib.Path(make.shard(tmp_path / 'a.tar', 0, 4))
  for name in ('set/a.tar', 'set/b.tar', 'other/c.tar'):
    fs.pipe(f'/{name}', path.read_bytes())
  cache = cache_of(tmp_path)
  for pattern in (
    'memory:///set/*.tar',
    'memory:///set/',
    'memory:///set/{a,b}.tar',
  ):
    source = tar.TarSource(pattern, cache=cache)
    assert source.lengths == [4, 4] and captions(source)[5] == b'caption 1'
  assert source.is_remote and len(list(cache.folder.iterdir())) == 2
  whole = source.identity()
  assert whole['shards'] == 2 and whole['samples'] == 8
  assert whole != tar.TarSource('memory:///set/a.tar', cache=cache).identity()
  assert whole == tar.TarSource(pattern, cache=cache).identity()
  fs.rm('/set', recursive=True)


def test_a_missing_package_names_its_extra():
  if any(map(_found, ('gcsfs', 's3fs'))):
    pytest.skip('both are installed')
  with pytest.raises(ImportError, match=r'groupvit_jax\[gcs\]'):
    remote.filesystem('gs://bucket/a.tar')


def _found(name):
  import importlib.util

  return importlib.util.find_spec(name) is not None


def test_the_cache_keeps_what_is_read_next(tmp_path, caplog):
  fs = fsspec.filesystem('memory')
  for i in range(4):
    fs.pipe(f'/many/{i}.tar', bytes(1000))
  stated = remote.stat([f'memory://many/{i}.tar' for i in range(4)])
  cache = remote.ShardCache(tmp_path / 'cache', 2500)
  paths = [cache.path(file) for file in stated[:2]]
  os.utime(paths[0], (1, 1))
  cache.ahead(stated[:1])  # the oldest, but needed
  cache.path(stated[2])
  assert os.path.exists(paths[0]) and not os.path.exists(paths[1])
  caplog.set_level(logging.WARNING, 'absl')
  cache.ahead([stated[0], stated[2]])
  cache.path(stated[3])
  assert 'cache_gb is too small' in caplog.text
  fs.rm('/many', recursive=True)
