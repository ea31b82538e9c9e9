"""What is read, by what is installed and what can be written."""

import logging
import sys

import clu
import jax
import numpy as np
import pytest

from configs.gvit_s import get_config
from groupvit_jax import errors
from groupvit_jax.data import sources
from groupvit_jax.training import inputs
from groupvit_jax.training import logging as logging_lib
from tests.fixtures.samples import encode, plain, write_tar


def config(*options):
  return get_config(','.join(['demo,size=16,examples=6', *options]))


@pytest.mark.parametrize('absent', inputs.ON_DISK_NEEDS)
def test_scenes_are_drawn_into_memory_if_any_package_is_absent(
  tmp_path, monkeypatch, caplog, absent
):
  caplog.set_level(logging.INFO, 'absl')
  others = tuple(n for n in inputs.ON_DISK_NEEDS if n != absent)
  needs = (*others, f'no_{absent}')
  monkeypatch.setattr(inputs, 'ON_DISK_NEEDS', needs)
  source = inputs._train_source(config(f'data.cache={tmp_path}/cache'))
  assert isinstance(source, sources.SceneSource) and source.masks is None
  assert f'no_{absent}' in caplog.text and 'groupvit_jax[train]' in caplog.text
  assert not (tmp_path / 'cache').exists()


def test_scenes_are_kept_on_disk_if_nothing_is_absent(tmp_path, caplog):
  for name in inputs.ON_DISK_NEEDS:
    pytest.importorskip(name)
  caplog.set_level(logging.INFO, 'absl')
  source = inputs._train_source(config(f'data.cache={tmp_path}/cache'))
  assert isinstance(source, sources.InMemory)
  assert list((tmp_path / 'cache' / 'scenes').glob('captions_16_n6_s0'))
  assert 'into memory' not in caplog.text


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
  for name in inputs.ON_DISK_NEEDS:
    pytest.importorskip(name)
  (tmp_path / 'file').touch()
  with pytest.raises(
    errors.SourceError, match='cannot keep scenes in .*file/cache.*data.cache'
  ):
    inputs._train_source(config(f'data.cache={tmp_path}/file/cache'))


def pairs():
  """Twelve files of an image of grey level 10 i, and its caption."""
  for i in range(12):
    yield encode(plain(10 * i, (20, 16)), 'PNG'), f'a cat {i}'.encode()


def write_shards(folder):
  members = [
    (f'{i:03d}.{suffix}', data)
    for i, pair in enumerate(pairs())
    for suffix, data in zip(('png', 'txt'), pair, strict=True)
  ]
  for name in 'ab':
    write_tar(folder / f'{name}.tar', members)
  return (
    f'data.shards=a={folder}/a.tar+b={folder}/b.tar',
    'data.weights=a=3+b=1',
    'data.order=streams',
  )


def write_records(folder):
  tf = pytest.importorskip('tensorflow')
  with tf.io.TFRecordWriter(str(folder / '0.tfrecord')) as writer:
    for image, caption in pairs():
      features = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in {'picture': image, 'caption': caption}.items()
      }
      example = tf.train.Example(features=tf.train.Features(feature=features))
      writer.write(example.SerializeToString())
  return f'data.shards={folder}', 'data.image_feature=picture'


def write_tfds(folder):
  pytest.importorskip('tensorflow_datasets')
  sources.scenes_tfds('train', 12, 16, data_dir=str(folder))
  name = 'scenes/captions_16_n12_s0'
  return f'data.tfds={name}:train', f'data.tfds_dir={folder}'


@pytest.mark.parametrize(
  ('source', 'write'),
  [
    ('shards', write_shards),
    ('records', write_records),
    ('tfds', write_tfds),
  ],
)
def test_a_config_names_its_source(tmp_path, mesh1, source, write):
  options = write(tmp_path)
  made = config(f'data.source={source}', 'eval.source=', 'batch=8', *options)
  with inputs.Inputs(made, mesh1) as data:
    batches = data.train_batches(start=0)
    ours = [jax.device_get(next(batches)) for _ in range(3)]
    figures = data.metrics()
    identity = data.identity
  assert ours[0]['image'].shape == (8, 16, 16, 3)
  assert figures['bad_samples'] == 0 and 0 <= figures['waiting'] <= 1
  assert identity['samples'] == (24 if source == 'shards' else 12)
  if source == 'shards':
    assert figures['share_a'] > 0.5
    assert figures['share_a'] + figures['share_b'] == 1
  with inputs.Inputs(made, mesh1) as data:
    batches = data.train_batches(start=16)
    resumed = jax.device_get(next(batches))
    assert data.identity == identity
  jax.tree.map(np.testing.assert_array_equal, resumed, ours[2])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['data.source=tfds'], 'data.tfds=coco_captions'),
    (['data.source=shards', 'data.weights=a=1'], 'NAME=PATTERN'),
    (['data.source=shards', 'data.weights=a'], "cc3m=1, not 'a'"),
  ],
)
def test_sources_that_a_config_leaves_open(tmp_path, mesh1, options, message):
  shard, *_ = write_shards(tmp_path)
  made = config('eval.source=', *options, shard.replace('a=', '', 1))
  with pytest.raises(errors.ConfigError, match=message):
    inputs.Inputs(made, mesh1)


def test_the_log_names_what_tensorboard_lacks(tmp_path, monkeypatch, caplog):
  caplog.set_level(logging.INFO, 'absl')
  for name in [n for n in sys.modules if n.startswith('clu.')]:
    monkeypatch.delitem(sys.modules, name)
  for name in ('metric_writers', 'periodic_actions'):
    monkeypatch.delattr(clu, name, raising=False)
  monkeypatch.setitem(sys.modules, 'tensorflow', None)  # import fails
  log = logging_lib.RunLog(tmp_path, resumed_at=0, num_steps=1, active=True)
  log.scalars(1, {'loss': 2.0})
  log.close()
  assert 'what is missing: tensorflow' in caplog.text
  assert logging_lib.read_rows(tmp_path / 'metrics.jsonl') == [
    {'step': 1, 'loss': 2.0}
  ]
