"""CLIP as it is published, a ResNet and a ViT, against open_clip's outputs."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import groupvit_jax as gv
from groupvit_jax import cli, convert
from groupvit_jax.convert import architecture, keymaps, tensors, torch_files
from groupvit_jax.errors import ModelError
from groupvit_jax.models import build

FILES = pathlib.Path(__file__).parents[1] / 'testdata' / 'clip_files'
SOURCES = {'resnet': FILES / 'resnet' / 'model.pt', 'vit': FILES / 'vit'}


@pytest.fixture(scope='module', params=SOURCES)
def kind(request):
  return request.param


@pytest.fixture(scope='module')
def loaded(kind):
  return convert.load_source(SOURCES[kind])


def test_embeddings_are_open_clips(tiny, kind, loaded):
  with np.load(FILES / kind / 'outputs.npz') as file:
    golden = dict(file)
  model = build.build(loaded.architecture)

  @jax.jit
  def run(variables):
    return model.apply(
      variables, jnp.asarray(golden['images']), method='encode_image'
    ), model.apply(
      variables, jnp.asarray(golden['tokens']), method='encode_text'
    )

  image, text = run(loaded.variables)
  tiny.assert_near(image, golden['image'], 2e-5)
  tiny.assert_near(text, golden['text'], 2e-5)
  params = loaded.variables['params']
  logits = jnp.exp(params['logit_scale']) * image @ text.T
  logits += params.get('logit_bias', 0.0)
  tiny.assert_near(logits, golden['logits'], 5e-4)
  assert ('logit_bias' in params) == (kind == 'vit')


def test_kernels_may_be_stored_rounded(tiny, kind):
  exact = gv.load(SOURCES[kind])
  rounded = gv.load(SOURCES[kind], matmul_operands='bfloat16')
  sizes = {
    x.dtype.itemsize for x in jax.tree.leaves(rounded.variables['params'])
  }
  assert sizes == {2, 4}
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (2, *exact.image_size, 3), np.uint8)
  ours, theirs = (model.encode_pixels(pixels) for model in (rounded, exact))
  assert ours.dtype == np.float32 and (ours != theirs).any()
  tiny.assert_near(ours, theirs, 0.03)


def test_what_the_files_say_is_kept(kind, loaded):
  a = loaded.architecture
  if kind == 'resnet':
    assert a['image_encoder'] == 'clip_resnet'
    assert a['image'] == {
      'image_size': 64,
      'width': 2,
      'depths': [1, 2, 1, 1],
      'num_heads': 1,
    }
    assert a['image_projector_bias'] and not a['projector_bias']
    statistics = tensors.flatten(loaded.variables['batch_stats'])
    # Mean and variance of the stem's three, five blocks' and four shortcuts'.
    assert len(statistics) == 2 * (3 + 3 * 5 + 4)
    assert 'attention heads' in loaded.metadata['notes'][0]
  else:
    assert a['image']['activation'] == a['text']['activation'] == 'gelu'
    assert (a['image']['num_heads'], a['text']['num_heads']) == (2, 4)
    assert loaded.preprocessing['mean'] == [0.5] * 3
  assert "CLIP's" in convert.describe(loaded)


def test_export_to_open_clip_is_bit_exact(kind, loaded, tmp_path):
  """In float32; what was stored in float16 is so exactly."""
  convert.convert(SOURCES[kind], tmp_path / 'ours')
  convert.convert(tmp_path / 'ours', tmp_path / 'back', 'open_clip')
  state, _ = tensors.read(tmp_path / 'back' / 'open_clip_model.safetensors')
  theirs = torch_files.read_state_dict(SOURCES[kind]).arrays
  sizes = ('input_resolution', 'context_length', 'vocab_size', 'attn_mask')
  assert state.keys() == theirs.keys() - set(sizes)
  for name, x in state.items():
    if not name.endswith('num_batches_tracked'):
      np.testing.assert_array_equal(x, theirs[name], err_msg=name)
  again = convert.load_source(tmp_path / 'back')
  assert again.architecture == loaded.architecture
  if kind == 'vit':
    config = json.loads((FILES / 'vit' / 'open_clip_config.json').read_text())
    path = tmp_path / 'back' / 'open_clip_config.json'
    written = json.loads(path.read_text())['model_cfg']
    for part, values in config['model_cfg'].items():
      if isinstance(values, dict):
        assert values.items() <= written[part].items()
      else:
        assert written[part] == values


def test_export_to_huggingface_and_back(tmp_path):
  vit = convert.load_source(SOURCES['vit'])
  with pytest.raises(ModelError, match='bias of the logits'):
    convert.save_huggingface(vit, tmp_path / 'hf')
  del vit.architecture['logit_bias'], vit.variables['params']['logit_bias']
  convert.save_huggingface(vit, tmp_path / 'hf')
  again = convert.load_source(tmp_path / 'hf')
  assert again.architecture == vit.architecture
  assert again.preprocessing == vit.preprocessing
  ours, theirs = map(tensors.flatten, (again.variables, vit.variables))
  assert ours.keys() == theirs.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(ours[name], x, err_msg=name)
  with pytest.raises(ModelError, match='no class for CLIP.s ResNets'):
    resnet = convert.load_source(SOURCES['resnet'])
    convert.save_huggingface(resnet, tmp_path / 'hf2')


def test_a_state_dict_of_a_resnet_is_the_same_model(pickles, tmp_path):
  """With the wrapping and prefix of open_clip's training checkpoints."""
  arrays = torch_files.read_state_dict(SOURCES['resnet']).arrays
  state = {f'module.{name}': np.asarray(x) for name, x in arrays.items()}
  pickles.save(
    {'epoch': 3, 'name': 'run', 'state_dict': state}, tmp_path / 'epoch_3.pt'
  )
  loaded = convert.load_source(tmp_path / 'epoch_3.pt')
  wanted = convert.load_source(SOURCES['resnet'])
  assert loaded.metadata['epoch'] == 3
  ours, theirs = map(tensors.flatten, (loaded.variables, wanted.variables))
  assert ours.keys() == theirs.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(ours[name], x, err_msg=name)


@pytest.mark.parametrize('name', ['RN50', 'RN50x64'])
def test_released_resnets_are_read_from_their_shapes(name):
  """339 arrays of RN50's image encoder, as OpenAI's state dict has."""
  described = build.clip_resnet(name)
  shapes = architecture.expected_shapes(described)
  # Zero strides: nothing is allocated.
  flat = {
    path: np.broadcast_to(np.float32(0), shape)
    for path, shape in shapes.items()
  }
  read = architecture.read(flat, keymaps.OPENAI_RESNET, architecture.Hints())
  text = read['text'].pop('mlp_ratio')
  assert (read, text) == (described, 4.0)
  state = keymaps.OPENAI_RESNET.to_torch(flat)
  if name == 'RN50':
    visual = [n for n in state if n.startswith('visual.')]
    assert len(visual) == 339


def test_a_resnet_opens_by_command_and_in_python(tmp_path, capsys):
  folder = tmp_path / 'model'
  convert.convert(SOURCES['resnet'], folder)
  assert cli.main(['info', str(folder)]) == 0
  printed = capsys.readouterr().out
  assert "CLIP's ResNet, 64x64 px, width 2, blocks 1, 2, 1, 1" in printed
  model = gv.load(folder)
  image = np.arange(40 * 90 * 3, dtype=np.uint8).reshape(40, 90, 3)
  vector = model.encode_image(image)
  assert abs(np.linalg.norm(vector) - 1) < 1e-5
  with pytest.raises(ValueError, match='64x64 pixels.*got 64x96'):
    model.encode_pixels(np.zeros((1, 64, 96, 3), np.uint8))
  vit = gv.load(SOURCES['vit'])
  assert vit.encode_pixels(np.zeros((1, 16, 40, 3), np.uint8)).shape == (1, 12)


def test_no_size_in_a_torchscript_archive_is_believed(pickles, tmp_path):
  """Modules that hold each other have no end, and are not run."""
  call = pickles.Call('__torch__.Model', state={})
  call.state['weight'] = np.ones(3, np.float32)
  pickles.save(call, tmp_path / 'model.pt')
  arrays, _ = torch_files.read(tmp_path / 'model.pt')
  assert list(arrays) == ['weight']
  # A memo lets a module be its own attribute.
  body = b'c__torch__\nModel\n)\x81q\0}(X\1\0\0\0ah\0ub.'
  pickles.write_members(tmp_path / 'loop.pt', {'data.pkl': b'\x80\2' + body})
  with pytest.raises(ModelError, match='over 100000 attributes'):
    torch_files.read(tmp_path / 'loop.pt')
  attack = pickles.Call('__torch__.Model', state={'x': pickles.Call('io.open')})
  pickles.save(attack, tmp_path / 'attack.pt')
  with pytest.raises(ModelError, match=r'io\.open'):
    torch_files.read(tmp_path / 'attack.pt')
  shutil.copy(SOURCES['resnet'], tmp_path / 'cut.pt')
  with (tmp_path / 'cut.pt').open('r+b') as file:
    file.truncate(200_000)
  with pytest.raises(ModelError, match='truncated'):
    convert.load_source(tmp_path / 'cut.pt')
