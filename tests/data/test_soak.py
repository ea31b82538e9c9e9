"""Twenty thousand batches: memory stays flat and few files are open."""

import os

import numpy as np
import pytest

from groupvit_jax.data import remote, sources, tar


def _resident():
  """Resident memory of this process in MB."""
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


@pytest.mark.slow
@pytest.mark.parametrize('far', [False, True])
@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs /proc')
def test_memory_is_flat_and_files_are_few(far, tmp_path, make, train):
  """600 local shards, or as many remote ones with room for a tenth of them."""
  fsspec = pytest.importorskip('fsspec')
  for i in range(600):
    make.shard(tmp_path / f'{i:03d}.tar', 0, 20)
  pattern, cache = str(tmp_path / '*.tar'), None
  if far:
    fs = fsspec.filesystem('memory')
    for i in range(600):
      name = f'{i:03d}.tar'
      fs.pipe(f'/soak/{name}', (tmp_path / name).read_bytes())
      fs.pipe(f'/soak/{name[:-4]}_stats.json', b'{"successes": 20}')
    pattern = 'memory:///soak/*.tar'
    limit = 60 * os.path.getsize(tmp_path / '000.tar')
    cache = remote.ShardCache(tmp_path / 'cache', limit)
  source = tar.TarSource(pattern, cache=cache)
  ordering = sources.Ordering('streams' if far else 'full', 8, 40, 16)
  order = sources.order_of(source, 0, ordering)
  memory, opened = [], []
  with train.open(source, 16, order=order, backend='numpy') as batches:
    for number in range(20_000):
      next(batches)
      if number % 1000 == 999:
        memory.append(_resident())
        opened.append(len(os.listdir('/proc/self/fd')))
  print(f'MB {np.round(memory)}, files {opened}')
  assert max(opened) < 256 + 100
  # The first thousands fill caches and the allocator's arenas.
  assert memory[-1] < memory[4] * 1.02 + 5
  if far:
    kept = sum(path.stat().st_size for path in (tmp_path / 'cache').iterdir())
    assert kept <= limit
    fs.rm('/soak', recursive=True)
