"""Model folders that anyone may have written: refused in one line each."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.cli import main
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert import tensors
from groupvit_jax.errors import ModelError


@pytest.fixture(scope='module')
def written(golden_models, tmp_path_factory) -> pathlib.Path:
  model = golden_models.converted(golden_models.load())
  return model_folder.write(tmp_path_factory.mktemp('written') / 'model', model)


@pytest.fixture
def folder(written, tmp_path) -> pathlib.Path:
  """A model folder to spoil."""
  return shutil.copytree(written, tmp_path / 'model')


def spoil(
  folder: pathlib.Path, change: Callable[[dict[str, Any], dict], None]
) -> None:
  """Changes config and arrays, with a checksum that fits."""
  path = folder / 'config.json'
  config = json.loads(path.read_text())
  arrays = {k: x.copy() for k, x in tensors.read(folder / WEIGHTS)[0].items()}
  change(config, arrays)
  tensors.write(folder / WEIGHTS, arrays, model_folder.MARK)
  config['sha256'] = model_folder._digest(config, arrays)
  path.write_text(json.dumps(config))


WEIGHTS = 'model.safetensors'
VAST = 300_000_000


@pytest.mark.parametrize(
  ('part', 'field', 'value'),
  [
    ('image', 'num_heads', 0),
    ('image', 'num_heads', 7),
    ('image', 'patch_size', 0),
    ('image', 'patch_size', 3),
    ('image', 'image_size', VAST),
    ('image', 'image_size', [20, 12, 4]),
    ('image', 'width', -8),
    ('image', 'width', VAST),
    ('image', 'depths', [10**6, 1, 1, 1]),
    ('image', 'depths', [1]),
    ('image', 'num_group_tokens', [VAST, 1, 1, 0]),
    ('image', 'mlp_ratio', 1e300),
    ('image', 'mlp_ratio', float('nan')),
    ('image', 'assignment', 'soft-ish'),
    ('image', 'dtype', 'float64'),
    ('text', 'depth', 10**6),
    ('text', 'num_heads', 0),
    ('text', 'context_length', VAST),
    ('text', 'context_length', 3),
    ('text', 'vocab_size', VAST),
    ('text', 'vocab_size', 10**400),
    (None, 'embed_dim', 0),
    (None, 'embed_dim', VAST),
    (None, 'projector_width', -1),
    (None, 'projector_bias', 'yes'),
    (None, 'image_encoder', 'resnet'),
    (None, 'image', []),
    (None, 'text', None),
  ],
)
def test_sizes_that_do_not_fit_the_weights(
  folder, part, field, value, memory_limit
):
  def change(config, arrays):
    described = config['architecture']
    (described[part] if part else described)[field] = value

  spoil(folder, change)
  with pytest.raises(ModelError):
    convert.load_source(folder)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('std', [0, 0.2, 0.2]),
    ('std', [0.2, -0.2, 0.2]),
    ('std', [float('nan')] * 3),
    ('mean', [float('inf')] * 3),
    ('short_side', 10**9),
    ('top_k', 0),
    ('regroup', 'mean_shift'),
  ],
)
def test_preprocessing_that_makes_no_images(folder, field, value):
  spoil(
    folder, lambda config, _: config['preprocessing'].update({field: value})
  )
  with pytest.raises(ModelError, match=field):
    convert.load_source(folder)


@pytest.mark.parametrize(
  ('spoilt', 'fault'),
  [
    (lambda a, name: a.pop(name), 'missing'),
    (lambda a, name: a.update({f'{name}2': a[name]}), 'superfluous'),
    (lambda a, name: a.update({name: a[name][:-1]}), 'misshapen'),
    (lambda a, name: a.update({name: a[name] * np.nan}), 'not_finite'),
    (lambda a, name: a.update({name: a[name].astype(int)}), 'not_floating'),
  ],
)
def test_weights_of_another_model(folder, spoilt, fault):
  name = 'params/image/norm/scale'
  spoil(folder, lambda _, arrays: spoilt(arrays, name))
  with pytest.raises(ModelError, match=f'{fault}.*{name}'):
    convert.load_source(folder)


@pytest.mark.parametrize('depth', [900, 100_000])
@pytest.mark.parametrize('where', ['config.json', 'model.safetensors'])
def test_deeply_nested_json(folder, where, depth):
  nested = b'{"format":' + b'[' * depth + b']' * depth + b'}'
  if where == WEIGHTS:
    nested = len(nested).to_bytes(8, 'little') + nested
  (folder / where).write_bytes(nested)
  with pytest.raises(ModelError):
    convert.load_source(folder)


@pytest.mark.parametrize('form', ['ours', 'huggingface'])
def test_a_tokenizer_that_is_a_link_is_not_copied(
  golden_models, tmp_path, folder, form
):
  secret = tmp_path / 'secret'
  secret.write_text('of somebody')
  if form == 'huggingface':
    arrays = golden_models.load()
    folder = golden_models.write_huggingface(
      tmp_path / 'hf', golden_models.state(arrays), golden_models.config(arrays)
    )
  (folder / 'tokenizer.model').symlink_to(secret)
  if form == 'ours':
    spoil(folder, lambda c, _: c.update(tokenizer='tokenizer.model'))
  with pytest.raises(ModelError, match='is a link'):
    convert.convert(folder, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', ['', 'config.json', WEIGHTS])
def test_a_pipe_is_no_model(tmp_path, name):
  path = tmp_path / 'model'
  if name:
    path.mkdir()
  os.mkfifo(path / name)
  with pytest.raises(ModelError):
    convert.load_source(path)


def test_a_tokenizer_of_other_weights(folder):
  spoil(folder, lambda config, _: config.update(tokenizer='clip'))
  with pytest.raises(ModelError, match='49408 ids, the weights have 41'):
    convert.load_source(folder)
  spoil(folder, lambda config, _: config.update(tokenizer='../../x'))
  with pytest.raises(ModelError, match='lacks tokenizer.model'):
    convert.load_source(folder)


def test_info_prints_no_control_characters(folder, capsys):
  escape = '\x1b]0;owned\x07\x1b[2J\u202e\ud800'

  def change(config, _):
    config['metadata'].update(file=escape, notes=[escape])

  spoil(folder, change)
  assert main(['info', str(folder)]) == 0
  out = capsys.readouterr().out
  assert 'owned' in out
  assert all(x.isprintable() or x == '\n' for x in out)


def test_convert_onto_a_loop_of_links(tmp_path, folder, capsys):
  for name, target in (('a', 'b'), ('b', 'a')):
    (tmp_path / name).symlink_to(tmp_path / target)
  for out in (tmp_path / 'a', tmp_path / 'a' / 'model'):
    assert main(['convert', str(folder), str(out)]) == 1
    assert capsys.readouterr().err.count('\n') == 1


def test_any_name_in_an_ascii_locale(folder):
  """The file system's names are bytes, whatever the locale is."""
  source = os.path.join(os.fsencode(folder.parent), b'mod\xe8le')
  os.rename(folder, source)
  environment = os.environ | {
    'LC_ALL': 'C',
    'PYTHONCOERCECLOCALE': '0',
    'PYTHONUTF8': '0',
    'PYTHONPATH': str(pathlib.Path(__file__).parents[2]),
  }
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'groupvit_jax',
      'convert',
      source,
      source + b'2',
    ],
    env=environment,
    capture_output=True,
  )
  assert done.returncode == 0, done.stderr
  convert.load_source(os.fsdecode(source + b'2'))
