"""PyTorch's files are read without torch, and no size in them is believed."""

import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.convert import architecture, pickled, tensors, torch_files
from groupvit_jax.errors import ModelError


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'weights.pth'


def node(pickles, content):
  """A container of OmegaConf."""
  return pickles.Call(
    'omegaconf.dictconfig.DictConfig',
    state={'_content': content, '_parent': None},
  )


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_an_original_checkpoint(
  pickles, golden_models, path, monkeypatch, prefix, legacy
):
  """With the optimizer's state and an OmegaConf config around the weights."""
  monkeypatch.setattr(architecture, 'HEAD_WIDTH', 4)
  arrays = golden_models.load()
  state = golden_models.as_original(golden_models.state(arrays))
  vision = golden_models.config(arrays)['vision_config']
  encoder = {
    'num_heads': [2, 2, 2, 2],
    'depths': vision['depths'],
    'img_size': vision['image_size'],
    'drop_path_rate': 0.3,
  }
  checkpoint = {
    'model': {prefix + k: np.asarray(x) for k, x in state.items()},
    'optimizer': {'state': {0: {'exp_avg': np.ones(3, np.float32)}}},
    'metrics': {'max_miou': 51.5, 'max_accuracy': np.array(42, np.float32)},
    'epoch': 29,
    'config': node(
      pickles, {'model': node(pickles, {'img_encoder': node(pickles, encoder)})}
    ),
  }
  pickles.save(checkpoint, path, legacy=legacy)
  loaded = convert.load_source(path)
  metrics = {'max_miou': 51.5, 'max_accuracy': 42.0}
  assert loaded.metadata['metrics'] == metrics
  assert loaded.metadata['epoch'] == 29
  assert loaded.architecture['image']['num_heads'] == 2
  assert loaded.architecture['image']['drop_path_rate'] == 0.3
  ours = tensors.flatten(loaded.variables)
  assert ours.pop('params/multi_label_logit_scale') == 2.5
  theirs = tensors.flatten(golden_models.converted(arrays).variables)
  assert ours.keys() == theirs.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(ours[name], x, err_msg=name)


def test_views_and_types(pickles, path):
  x = np.arange(12, dtype=np.float32)
  pickles.save(
    {
      'transposed': pickles.View(x, shape=(4, 3), strides=(1, 4)),
      'part': pickles.View(x, shape=(2, 2), strides=(4, 1), offset=5),
      'none': pickles.View(x[:0], shape=(0, 7), strides=(7, 1)),
      'half': np.float16([1.5]),
      'count': np.array(3),
    },
    path,
  )
  arrays, _ = torch_files.read(path)
  np.testing.assert_array_equal(arrays['transposed'], x.reshape(3, 4).T)
  np.testing.assert_array_equal(arrays['part'], [[5, 6], [9, 10]])
  assert arrays['none'].shape == (0, 7)
  assert arrays['half'].dtype == np.float16 and arrays['half'] == 1.5
  assert arrays['count'].shape == () and arrays['count'] == 3


FLOATS = np.ones(6, np.float32)
VAST = 5 * 10**8


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize(
  'claims',
  [
    {'shape': (VAST,), 'strides': (0,)},
    {'shape': (VAST,), 'strides': (1,)},
    {'shape': (6,), 'strides': (1,), 'offset': 1},
    {'shape': (3, 3), 'strides': (1, 1)},
    {'shape': (-1,)},
    {'shape': (2, 3), 'strides': (1,)},
    {'shape': (1,) * 65, 'strides': (1,) * 65},
    {'count': VAST, 'shape': (VAST,), 'strides': (1,)},
    {'count': -1},
    {'count': 2.0},
  ],
)
def test_sizes_that_the_file_has_no_bytes_for(
  pickles, path, claims, legacy, memory_limit
):
  pickles.save({'a': pickles.View(FLOATS, **claims)}, path, legacy=legacy)
  with pytest.raises(ModelError, match='damaged'):
    torch_files.read(path)


def test_a_storage_under_a_thousand_names(pickles, path):
  # All of them refer to the first storage.
  one, _ = pickles.pickled({'a': FLOATS})
  tensor = one[one.index(b'ctorch._utils') : -2]
  body = b''.join(b'X\4\0\0\0%04d' % i + tensor for i in range(1000))
  members = {
    'data.pkl': b'\x80\2}(' + body + b'u.',
    'data/0': FLOATS.tobytes(),
  }
  pickles.write_members(path, members)
  with pytest.raises(ModelError, match='claim over 4 times'):
    torch_files.read(path)


def test_shared_lists_are_not_expanded(pickles, path, memory_limit):
  one, storages = pickles.pickled({'model': {'a': FLOATS}})
  laughs = b'](K\1eq\0'
  for i in range(19):
    laughs = b'](' + laughs + b'h%c' % i * 8 + b'eq%c' % (i + 1)
  body = one[:-2] + b'X\6\0\0\0config' + laughs + b'u.'
  members = {'data.pkl': body, 'data/0': storages[0].tobytes()}
  pickles.write_members(path, members)
  with pytest.raises(ModelError, match='over 100000 values'):
    torch_files.read(path)


@pytest.mark.parametrize(
  'body',
  [
    b'(' * 10,
    b'0',
    b'}' + b'\x85' * 200_000 + b'N' + b's',  # nested tuples as a key
    b'r\xff\xff\xff\x7f',  # a memo of 2**31 entries
    b'\x8e\xff\xff\xff\xff\xff\xff\xff\x7f',
    b'h\7',
    b'Q',
  ],
)
def test_pickles_that_make_no_sense(pickles, path, body, memory_limit):
  pickles.write_members(path, {'data.pkl': b'\x80\2' + body + b'.'})
  with pytest.raises(ModelError):
    torch_files.read(path)


def test_a_pickle_of_millions_of_instructions(pickles, path, monkeypatch):
  monkeypatch.setattr(pickled, '_MOST', 1000)
  pickles.write_members(path, {'data.pkl': b'\x80\2' + b'(' * 2000})
  with pytest.raises(ModelError, match='longer than any of weights'):
    torch_files.read(path)


@pytest.mark.parametrize('legacy', [False, True])
def test_objects_in_a_pickle_are_refused_and_not_run(pickles, path, legacy):
  run = path.with_name('run')
  attack = pickles.Call('io.open', str(run), 'w')
  pickles.save({'model': {'a': FLOATS}, 'extra': attack}, path, legacy=legacy)
  with pytest.raises(ModelError, match='io.open.*any program.*weights_only'):
    torch_files.read(path)
  assert not run.exists()


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    ([1, 2], 'holds a list'),
    ({'a': 1}, "'a' is no tensor"),
    ({'model': {}}, 'it is empty'),
    ('sparse', 'is sparse'),
  ],
)
def test_foreign_content_is_named(pickles, path, content, reason):
  if content == 'sparse':
    content = {'a': pickles.Call('torch._utils._rebuild_sparse_tensor')}
  pickles.save(content, path)
  with pytest.raises(ModelError, match=reason):
    torch_files.read(path)


def test_damage_of_a_storage_is_noticed(pickles, path):
  pickles.save({'a': np.full(1000, 7, np.float32)}, path)
  data = bytearray(path.read_bytes())
  data[data.index(np.full(2, 7, np.float32).tobytes()) + 100] ^= 1
  path.write_bytes(data)
  with pytest.raises(ModelError, match='CRC-32'):
    torch_files.read(path)
  path.write_bytes(data[:-200])
  with pytest.raises(ModelError, match='truncated'):
    torch_files.read(path)
