"""Pairs are converted, served over HTTP, trained on, killed and resumed."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from groupvit_jax.data import conversion, records, remote, sources, tar
from tests.fixtures.processes import free_address

ROOT = pathlib.Path(__file__).parents[2]
SHARED = pathlib.Path(os.environ.get('GROUPVIT_SHARED', ROOT.parent / 'shared'))
PHOTOS = SHARED / 'data' / 'flickr8k_128'
STEPS, KILLED_AT = 200, 110
FORMATS = {'tar': 'shards', 'array_record': 'records'}


def converted(table, out, shard_size, **options):
  plan = conversion.Plan((str(table),), str(out), shard_size=shard_size)
  for form in FORMATS:
    each = dataclasses.replace(plan, format=form, out=f'{out}/{form}')
    conversion.convert(each, **options)


def test_tars_and_records_give_the_same_batches(server, tmp_path, make, train):
  """Over HTTP, in streams, from the start and from the middle."""
  pytest.importorskip('array_record')
  rows = []
  for i in range(24):
    (tmp_path / f'{i}.jpg').write_bytes(make.encode(make.noise(i)))
    rows.append(json.dumps({'image': f'{i}.jpg', 'caption': f'number {i}'}))
  (tmp_path / 'table.jsonl').write_text('\n'.join(rows))
  converted(tmp_path / 'table.jsonl', server.folder, 5, workers=1)
  batches = []
  for form, open_source in (
    ('tar', tar.TarSource),
    ('array_record', records.ArrayRecordSource),
  ):
    cache = remote.ShardCache(tmp_path / 'cache', 10**9)
    url = f'{server.url}/{form}/{{00000..00004}}.{form}'
    source = open_source(url, None, cache)
    order = sources.order_of(source, 3, sources.Ordering('auto', 2, 8, 6))
    batches.append(train.take(8, source, order=order)[0])
    rest, _, _ = train.take(3, source, order=order, start=30)
    train.assert_equal(rest, batches[-1][5:])
  train.assert_equal(*batches)
  seen = np.concatenate([batch['tokens'][:, 0, 1] for batch in batches[0][:4]])
  assert len(set(seen.tolist())) == 24


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """A folder with the photos as eight tars and eight ArrayRecord files."""
  if not PHOTOS.is_dir():
    pytest.skip(f'no photos at {PHOTOS}; GROUPVIT_SHARED names another place')
  pytest.importorskip('array_record')
  folder = tmp_path_factory.mktemp('photos')
  converted(PHOTOS / 'captions.jsonl', folder, 1000)
  return folder


class Runs:
  """Trains a tiny model on photos that a server has."""

  def __init__(self, server, folder):
    self.server, self.folder = server, folder

  def start(self, name, form, steps=STEPS, process=None):
    """Starts a run, or one process of two."""
    url = f'{self.server.url}/{form}/{{00000..00007}}.{form}'
    config = (
      # Shapes that never change: the step is compiled once.
      f'{ROOT}/configs/gvit_s.py:demo,batch=32,size=32,width=32,depths=1x0,'
      'nouns=0,text.context_length=8,optimizer.name=adamw,'
      f'steps={steps},text.width=32,joint.embed_dim=32,eval.source=,'
      f'data.source={FORMATS[form]},data.shards={url},data.cache='
      f'{self.folder}/cache_{name},data.augment=deit,data.augment_on=device,'
      'run.log_every=10,run.checkpoint_every=40,matmul_operands=float32'
    )
    devices = 2 if process is None else 1
    environment = os.environ | {
      'PYTHONPATH': str(ROOT),
      'JAX_PLATFORMS': 'cpu',
      'JAX_NUM_CPU_DEVICES': str(devices),
    }
    command = [sys.executable, '-m', 'groupvit_jax.main', f'--config={config}']
    command.append(f'--workdir={self.folder / name}')
    if process is not None:
      command.append('--distributed')
      address, index = process
      environment |= {
        'JAX_COORDINATOR_ADDRESS': address,
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': str(index),
      }
    with (self.folder / f'{name}.log').open('ab') as log:
      return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

  def finish(self, name, *processes):
    """Waits for the end; returns the loss of each logged step."""
    for process in processes:
      assert process.wait(1200) == 0, self.log(name)
    return self.losses(name)

  def log(self, name):
    return (self.folder / f'{name}.log').read_text()[-3000:]

  def losses(self, name):
    path = self.folder / name / 'metrics.jsonl'
    if not path.exists():
      return {}
    # The last line of a process that lives may be half written.
    lines = path.read_text().rpartition('\n')[0].splitlines()
    rows = map(json.loads, lines)
    return {row['step']: row['train/loss'] for row in rows}


@pytest.mark.slow
@pytest.mark.photos
def test_photos_are_trained_on_through_a_server(photos, server, tmp_path):
  """From tars and from records; killed and resumed; in two processes."""
  server.folder.rmdir()
  server.folder.symlink_to(photos)
  runs = Runs(server, tmp_path)
  whole = runs.finish('whole', runs.start('whole', 'tar'))
  assert list(whole) == list(range(10, STEPS + 1, 10))
  assert whole[STEPS] < whole[10]
  for form in FORMATS:
    name = f'killed_{form}'
    process = runs.start(name, form)
    while max(runs.losses(name), default=0) < KILLED_AT:
      assert process.poll() is None, runs.log(name)
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = runs.finish(name, runs.start(name, form))
    assert 'resumed at step' in runs.log(name)
    assert resumed == whole, form
  several = {}
  for form in FORMATS:
    name = f'two_{form}'
    address = free_address()
    children = [runs.start(name, form, 40, (address, i)) for i in range(2)]
    several[form] = runs.finish(name, *children)
  assert several['tar'] == several['array_record']
  one = runs.finish('one', runs.start('one', 'tar', 40))
  assert several['tar'] == pytest.approx(one, rel=1e-3)
  print(f'losses {whole}')
