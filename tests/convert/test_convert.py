"""Foreign weights become ours and go back, bit by bit.

Without torch: the goldens' weights, as safetensors and in the original's form.
"""

import json

import jax
import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.convert import architecture, load, tensors
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert.keymaps import HF_GROUPVIT
from groupvit_jax.errors import ModelError


@pytest.fixture(scope='module', params=['hf_one_stage', 'hf_three_stage'])
def arrays(golden_models, request):
  return golden_models.load(request.param)


@pytest.fixture
def state(golden_models, arrays):
  return golden_models.state(arrays)


@pytest.fixture
def config(golden_models, arrays):
  return golden_models.config(arrays)


def assert_same_arrays(ours, theirs):
  assert ours.keys() == theirs.keys()
  for name, x in theirs.items():
    assert ours[name].dtype == x.dtype, name
    np.testing.assert_array_equal(ours[name], x, err_msg=name)


def original_config(config):
  """What the original's checkpoint keeps of its config, as plain values."""
  vision = config['vision_config']
  encoder = {
    'num_heads': [vision['num_attention_heads']] * len(vision['depths']),
    'depths': vision['depths'],
    'img_size': vision['image_size'],
    'drop_path_rate': 0.2,
  }
  return {'model': {'img_encoder': encoder}}


def test_round_trip_is_bit_exact(golden_models, tmp_path, state, config):
  source = golden_models.write_huggingface(tmp_path / 'hf', state, config)
  first = convert.convert(source, tmp_path / 'ours')
  assert str(tmp_path / 'ours') in first and "Hugging Face's" in first
  convert.convert(tmp_path / 'ours', tmp_path / 'back', to='huggingface')
  back, metadata = tensors.read(tmp_path / 'back' / 'model.safetensors')
  assert_same_arrays(back, state)
  assert metadata == {'format': 'pt'}
  again = convert.load_source(tmp_path / 'back')
  ours = convert.load_source(tmp_path / 'ours')
  assert again.architecture == ours.architecture
  assert_same_arrays(
    tensors.flatten(again.variables), tensors.flatten(ours.variables)
  )


def test_a_round_trip_keeps_what_their_form_has_no_field_for(
  golden_models, tmp_path, arrays
):
  import dataclasses

  model = golden_models.converted(arrays)
  model = dataclasses.replace(
    model,
    preprocessing=model.preprocessing
    | {'short_side': 77, 'top_k': None, 'regroup': 'kmeans', 'one_hot': True},
    metadata=model.metadata | {'license': 'MIT', 'metrics': {'miou': 9.0}},
  )
  model.variables['params']['multi_label_logit_scale'] = np.float32(2)
  model.architecture['separate_multi_label_scale'] = True
  model_folder.write(tmp_path / 'ours', model)
  message = convert.convert(
    tmp_path / 'ours', tmp_path / 'hf', to='huggingface'
  )
  again = convert.load_source(tmp_path / 'hf')
  assert again.preprocessing['short_side'] == 77
  assert again.metadata['license'] == 'MIT'
  (line,) = (x for x in message.splitlines() if x.startswith('left out:'))
  assert 'multi-label loss; top_k; regroup; metrics' in line
  assert 'left out' not in convert.convert(tmp_path / 'ours', tmp_path / 'o2')


def test_architecture_is_read_from_weights_and_config(
  golden_models, arrays, config
):
  converted = golden_models.converted(arrays)
  image, vision = converted.architecture['image'], config['vision_config']
  for ours, theirs in (
    ('width', 'hidden_size'),
    ('num_heads', 'num_attention_heads'),
    ('patch_size', 'patch_size'),
    ('depths', 'depths'),
    ('image_size', 'image_size'),
    ('num_group_tokens', 'num_group_tokens'),
    ('num_output_groups', 'num_output_groups'),
  ):
    assert image[ours] == vision[theirs]
  assert image['mlp_ratio'] == 2 or image['mlp_ratio'] == 3
  assert converted.architecture['text']['context_length'] == 11
  assert converted.architecture['projector_width'] == 14
  assert converted.architecture['embed_dim'] == 10
  assert converted.tokenizer is None  # 41 ids are not CLIP's
  assert converted.preprocessing['mean'] == [0.485, 0.456, 0.406]
  assert converted.preprocessing['short_side'] == 2 * min(image['image_size'])
  json.dumps(converted.architecture)  # plain values only


def test_exported_config_says_the_same(golden_models, tmp_path, arrays, config):
  converted = golden_models.converted(arrays)
  convert.save_huggingface(converted, tmp_path / 'hf')
  written = json.loads((tmp_path / 'hf' / 'config.json').read_text())
  for part in ('vision_config', 'text_config'):
    fields = written[part].keys() & config[part].keys()
    assert len(fields) > 6
    for name in fields:
      assert written[part][name] == config[part][name], name
  assert written['projection_dim'] == config['projection_dim']


def test_the_originals_form_is_the_same_model(
  golden_models, state, config, monkeypatch
):
  original = golden_models.as_original(state)
  assert not set(original) & set(state) - {'logit_scale'}
  source = golden_models.as_state_dict(
    original,
    config=original_config(config),
    metrics={'max_miou': 51.5},
    epoch=29,
  )
  # In the original's code a head of the text encoder is 64 wide.
  with pytest.raises(ModelError, match='heads of the text encoder'):
    load.from_state(source)
  monkeypatch.setattr(architecture, 'HEAD_WIDTH', 4)
  converted = load.from_state(source)
  flat = tensors.flatten(converted.variables)
  assert flat.pop('params/multi_label_logit_scale') == 2.5
  assert_same_arrays(flat, HF_GROUPVIT.to_flax(state))
  assert converted.metadata['metrics'] == {'max_miou': 51.5}
  (note,) = converted.metadata['notes']
  assert 'assumed: 2 of the text encoder are its attention heads' in note
  assert note in convert.describe(converted)
  assert 'epoch 29' in convert.describe(converted)
  theirs = golden_models.converted_state(state, config).architecture
  image = converted.architecture['image'] | {'drop_path_rate': 0.0}
  assert converted.architecture['separate_multi_label_scale']
  assert image == theirs['image']
  assert converted.architecture['text'] == theirs['text']


def test_shards_of_an_index_are_joined(golden_models, tmp_path, state, config):
  folder = golden_models.write_huggingface(tmp_path / 'hf', state, config)
  whole = convert.load_source(folder)
  (folder / 'model.safetensors').unlink()
  names = sorted(state)
  shards = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
  for shard, part in shards.items():
    tensors.write(folder / shard, {k: state[k] for k in part}, {})
  index = {name: shard for shard, part in shards.items() for name in part}
  path = folder / 'model.safetensors.index.json'
  path.write_text(json.dumps({'weight_map': index}))
  joined = convert.load_source(folder)
  jax.tree.map(np.testing.assert_array_equal, joined.variables, whole.variables)
  (folder / 'b.safetensors').unlink()
  with pytest.raises(ModelError, match='lacks b.safetensors'):
    convert.load_source(folder)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
def test_other_floats_become_float32(
  golden_models, tmp_path, state, config, dtype
):
  dtype = jax.numpy.dtype(dtype)
  low = {
    k: x.astype(dtype) if x.dtype.kind == 'f' else x for k, x in state.items()
  }
  folder = golden_models.write_huggingface(tmp_path / 'hf', low, config)
  scale = convert.load_source(folder).variables['params']['logit_scale']
  assert scale.dtype == np.float32
  assert scale == low['logit_scale'].astype(np.float32)


def test_published_folders_processor_is_not_believed(
  golden_models, state, config
):
  def mean(**preprocessor):
    source = golden_models.as_state_dict(state, config)
    source.preprocessor.update(preprocessor)
    return load.from_state(source).preprocessing['mean']

  clip, own = load.CLIP, {'mean': [0.1, 0.2, 0.3], 'std': [0.4, 0.5, 0.6]}
  assert mean(image_mean=clip['mean'], image_std=clip['std']) == [
    0.485,
    0.456,
    0.406,
  ]
  assert mean(image_mean=own['mean'], image_std=own['std']) == own['mean']
