"""A model folder is whole or refused, and holds what it was given, exactly."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert import tensors
from groupvit_jax.errors import ModelError
from groupvit_jax.text import sentencepiece


@pytest.fixture(scope='module')
def converted(golden_models):
  return golden_models.converted(golden_models.load())


@pytest.fixture(scope='module')
def written(converted, tmp_path_factory):
  folder = tmp_path_factory.mktemp('models') / 'model'
  return model_folder.write(folder, converted)


@pytest.fixture
def folder(written, tmp_path):
  """A copy to damage."""
  return shutil.copytree(written, tmp_path / 'model')


def edit(folder, **fields):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_is_written_is_read(written, converted):
  read = model_folder.read(written)
  assert read.architecture == converted.architecture
  assert read.preprocessing == converted.preprocessing
  assert read.metadata == converted.metadata
  assert read.tokenizer == converted.tokenizer
  ours, theirs = map(tensors.flatten, (read.variables, converted.variables))
  assert ours.keys() == theirs.keys()
  for path, x in theirs.items():
    assert ours[path].dtype == x.dtype and ours[path].shape == x.shape
    np.testing.assert_array_equal(ours[path], x, err_msg=path)
  assert {p.name for p in written.parent.iterdir()} == {'model'}


def test_whoever_may_read_the_card_may_read_the_weights(written):
  modes = {path.stat().st_mode for path in written.iterdir()}
  assert len(modes) == 1


def test_every_path_to_it_loads_it(written):
  for path in (written, written / 'model.safetensors'):
    loaded = convert.load_source(path)
    assert loaded.architecture['embed_dim'] == 10


def test_the_card_tells_source_sizes_and_license(written, converted):
  text = (written / 'README.md').read_text()
  total = sum(
    x.size for x in tensors.flatten(converted.variables['params']).values()
  )
  for part in (f'{total:,}', "Hugging Face's GroupViT", 'not commercially'):
    assert part in text
  described = model_folder.describe(converted)
  assert '7 group tokens to 7 groups' in described
  assert '20x12 px in patches of 4' in described


def test_the_sentencepiece_model_travels_with_it(tmp_path, converted):
  captions = ['a cat on a mat', 'the dog ate', 'a boat on the sea'] * 20
  pieces = converted.architecture['text']['vocab_size']
  source = sentencepiece.train_sentencepiece(captions, tmp_path / 's', pieces)
  content = source.read_bytes()
  own = dataclasses.replace(converted, tokenizer=str(source))
  folder = model_folder.write(tmp_path / 'model', own)
  source.unlink()
  read = model_folder.read(folder)
  assert read.tokenizer == str(folder / 'tokenizer.model')
  assert (folder / 'tokenizer.model').read_bytes() == content
  # Also when a model replaces the folder that it was read from.
  model_folder.write(folder, read, overwrite=True)
  assert (folder / 'tokenizer.model').read_bytes() == content
  (folder / 'tokenizer.model').write_bytes(b'pieces')
  with pytest.raises(ModelError, match='no.* a sentencepiece model'):
    model_folder.read(folder)
  (folder / 'tokenizer.model').unlink()
  with pytest.raises(ModelError, match='lacks tokenizer.model'):
    model_folder.read(folder)


def test_an_existing_folder_is_replaced_only_if_asked(folder, converted):
  with pytest.raises(ModelError, match='exists.*--overwrite'):
    model_folder.write(folder, converted)
  (folder / 'config.json').unlink()
  model_folder.write(folder, converted, overwrite=True)
  assert model_folder.read(folder).tokenizer == converted.tokenizer


@pytest.mark.parametrize('other', ['photo.jpg', 'checkpoints/1'])
def test_what_is_no_model_is_never_replaced(folder, converted, other):
  path = folder / other
  path.parent.mkdir(exist_ok=True)
  path.write_text('mine')
  with pytest.raises(ModelError, match='other things than a model'):
    model_folder.write(folder, converted, overwrite=True)
  assert path.read_text() == 'mine'


def test_a_write_that_fails_leaves_nothing(tmp_path, converted, monkeypatch):
  def full(*unused_args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(tensors, 'write', full)
  with pytest.raises(ModelError, match='No space left'):
    model_folder.write(tmp_path / 'model', converted)
  assert not list(tmp_path.iterdir())


def test_interrupting_an_overwrite_keeps_the_old(
  folder, converted, monkeypatch
):
  def interrupt(*unused_args):
    raise KeyboardInterrupt

  monkeypatch.setattr(tensors, 'write', interrupt)
  with pytest.raises(KeyboardInterrupt):
    model_folder.write(folder, converted, overwrite=True)
  assert model_folder.read(folder).architecture == converted.architecture
  assert [p.name for p in folder.parent.iterdir()] == ['model']


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_half_a_folder_is_recognised(folder, name):
  (folder / name).unlink()
  with pytest.raises(ModelError, match=f'half-written.*{name}.*--overwrite'):
    convert.load_source(folder)


def test_half_a_config_is_recognised(folder):
  path = folder / 'config.json'
  path.write_text(path.read_text()[:100])
  with pytest.raises(ModelError, match='half-written.*again'):
    convert.load_source(folder)


def test_truncated_weights_are_recognised(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(ModelError, match='truncated'):
    convert.load_source(folder)


def test_one_changed_bit_is_recognised(folder):
  path = folder / 'model.safetensors'
  content = bytearray(path.read_bytes())
  content[-3] ^= 1
  path.write_bytes(content)
  with pytest.raises(ModelError, match='checksum'):
    model_folder.read(folder)


def test_other_formats_and_lost_fields_are_told(folder):
  edit(folder, format=2)
  with pytest.raises(ModelError, match='format 2.*reads 1.*update'):
    model_folder.read(folder)
  (folder / 'config.json').write_text('{"format": 1, "sha256": ""}')
  with pytest.raises(ModelError, match='missing required field `architecture`'):
    model_folder.read(folder)
  with pytest.raises(ModelError, match='no model folder'):
    model_folder.read(folder / 'nowhere')


@pytest.mark.parametrize(
  ('part', 'name', 'value'),
  [
    ('metadata', 'source', None),
    ('metadata', 'license', 5),
    ('metadata', 'metrics', [1]),
    ('metadata', 'metrics', {'miou': 'good'}),
    ('metadata', 'notes', 'one'),
    ('metadata', 'step', 'last'),
    ('preprocessing', 'mean', [1, 2]),
    ('preprocessing', 'short_side', '448'),
    (None, 'metadata', 'mine'),
    (None, 'preprocessing', []),
    (None, 'architecture', None),
    (None, 'tokenizer', 3),
  ],
)
def test_fields_of_another_kind_are_named(folder, part, name, value):
  config = json.loads((folder / 'config.json').read_text())
  (config[part] if part else config)[name] = value
  edit(folder, **config)
  with pytest.raises(ModelError, match=f'Expected .*{name}'):
    model_folder.read(folder)


def test_tensors_of_all_kinds_come_back(tmp_path):
  arrays = {
    'scalar': np.array(1.5, np.float32),
    'transposed': np.arange(6, dtype=np.float32).reshape(2, 3).T,
    'empty': np.zeros((0, 3), np.float32),
    'int': np.arange(3),
    'bool': np.array([True, False]),
  }
  tensors.write(tmp_path / 'x.safetensors', arrays, {'a': 'b'})
  read, metadata = tensors.read(tmp_path / 'x.safetensors')
  assert metadata == {'a': 'b'} and read.keys() == arrays.keys()
  for name, x in arrays.items():
    assert read[name].dtype == x.dtype and read[name].shape == x.shape
    np.testing.assert_array_equal(read[name], x)


def test_a_folder_of_somebody_is_never_replaced(tmp_path, converted):
  folder = tmp_path / 'project'
  folder.mkdir()
  for name in ('config.json', 'README.md', 'notes.md'):
    (folder / name).write_text('{"mine": 1}')
  for _ in range(2):
    with pytest.raises(ModelError, match='holds other things than a model'):
      model_folder.write(folder, converted, overwrite=True)
    (folder / 'notes.md').unlink(missing_ok=True)  # no strange name is left
  assert (folder / 'config.json').read_text() == '{"mine": 1}'


def test_an_architecture_that_was_edited_is_refused(folder):
  path = folder / 'config.json'
  config = json.loads(path.read_text())
  config['architecture']['image']['num_heads'] *= 2
  path.write_text(json.dumps(config))
  with pytest.raises(ModelError, match='checksum'):
    model_folder.read(folder)


def test_a_name_that_is_stored_twice_is_refused(tmp_path):
  entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
  header = f'{{"a": {entry}, "a": {entry}}}'.encode()
  path = tmp_path / 'twice.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + b'\0\0\0\0')
  with pytest.raises(ModelError, match='stored twice: a|cannot be read'):
    tensors.read(path)
