"""Foreign weights become ours and go back, bit by bit; what is wrong is named.

Without torch: the goldens' weights, as safetensors and in the original's form.
"""

import json
import sys

import golden_models
import jax
import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.convert import architecture, keymaps, torch_to_flax
from groupvit_jax.convert.keymaps_hf_groupvit import HF_GROUPVIT
from groupvit_jax.convert.keymaps_nvlabs import NVLABS
from groupvit_jax.errors import ModelError
from groupvit_jax.model_folder import tensors


@pytest.fixture(scope='module', params=['hf_one_stage', 'hf_three_stage'])
def arrays(request):
  return golden_models.load(request.param)


@pytest.fixture
def state(arrays):
  return golden_models.state(arrays)


@pytest.fixture
def config(arrays):
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


def test_round_trip_is_bit_exact(tmp_path, state, config):
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


def test_architecture_is_read_from_weights_and_config(arrays, config):
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
  json.dumps(converted.architecture)  # plain values only


def test_exported_config_says_the_same(tmp_path, arrays, config):
  converted = golden_models.converted(arrays)
  convert.save_huggingface(converted, tmp_path / 'hf')
  written = json.loads((tmp_path / 'hf' / 'config.json').read_text())
  for part in ('vision_config', 'text_config'):
    fields = written[part].keys() & config[part].keys()
    assert len(fields) > 6
    for name in fields:
      assert written[part][name] == config[part][name], name
  assert written['projection_dim'] == config['projection_dim']


def test_the_originals_form_is_the_same_model(state, config, monkeypatch):
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
    torch_to_flax.from_state(source)
  monkeypatch.setattr(architecture, 'HEAD_WIDTH', 4)
  converted = torch_to_flax.from_state(source)
  flat = tensors.flatten(converted.variables)
  assert flat.pop('params/multi_label_logit_scale') == 2.5
  assert_same_arrays(flat, HF_GROUPVIT.to_flax(state))
  assert converted.metadata['metrics'] == {'max_miou': 51.5}
  assert 'epoch 29' in convert.describe(converted)
  theirs = golden_models.converted_state(state, config).architecture
  image = converted.architecture['image'] | {'drop_path_rate': 0.0}
  assert converted.architecture['separate_multi_label_scale']
  assert image == theirs['image']
  assert converted.architecture['text'] == theirs['text']


def test_the_originals_names_come_back(state):
  original = golden_models.as_original(state)
  back = NVLABS.to_torch(NVLABS.to_flax(original))
  wanted = {k: x for k, x in original.items() if 'num_batches' not in k}
  assert_same_arrays(back, wanted)


def test_shards_of_an_index_are_joined(tmp_path, state, config):
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
def test_other_floats_become_float32(tmp_path, state, config, dtype):
  import ml_dtypes

  dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
  low = {
    k: x.astype(dtype) if x.dtype.kind == 'f' else x for k, x in state.items()
  }
  folder = golden_models.write_huggingface(tmp_path / 'hf', low, config)
  scale = convert.load_source(folder).variables['params']['logit_scale']
  assert scale.dtype == np.float32
  assert scale == low['logit_scale'].astype(np.float32)


def load(state, config):
  return torch_to_flax.from_state(golden_models.as_state_dict(state, config))


def test_unmapped_names_are_told_ten_of_them(state, config):
  extra = {f'head.{i:02d}.weight': np.zeros(2, np.float32) for i in range(12)}
  with pytest.raises(ModelError) as error:
    load(state | extra, config)
  message = str(error.value)
  assert '12 unmapped' in message and 'head.09.weight' in message
  assert 'head.10.weight' not in message and '2 more' in message


@pytest.mark.parametrize(
  'name',
  [
    'vision_model.layernorm.bias',
    'vision_model.encoder.stages.0.layers.0.self_attn.v_proj.weight',
    'vision_model.encoder.stages.0.downsample.assign.k_proj.bias',
    'vision_model.embeddings.position_embeddings',
    'text_model.embeddings.token_embedding.weight',
    'text_projection.1.running_var',
    'logit_scale',
  ],
)
def test_a_missing_array_is_named_as_theirs(state, config, name):
  del state[name]
  with pytest.raises(ModelError, match='missing') as error:
    load(state, config)
  assert name in str(error.value)


def test_two_names_of_one_array_are_refused():
  rows = (*keymaps.norm('a', 'norm'), *keymaps.norm('b', 'norm'))
  table = keymaps.KeyMap('a test', 'a.weight', rows)
  one = np.ones(2, np.float32)
  with pytest.raises(ModelError, match='1 doubled .b.weight'):
    table.to_flax({'a.weight': one, 'b.weight': one})


def test_another_shape_and_nan_are_named(state, config):
  name = 'vision_model.layernorm.weight'
  cut = state | {'text_model.final_layer_norm.bias': np.zeros(3, np.float32)}
  with pytest.raises(ModelError, match=r'final_layer_norm.bias: .*\(3,\)'):
    load(cut, config)
  spoilt = state | {name: np.full_like(state[name], np.nan)}
  with pytest.raises(ModelError, match=f'1 not_finite .{name}'):
    load(spoilt, config)


@pytest.mark.parametrize(
  ('part', 'field', 'value'),
  [
    ('vision_config', 'hidden_act', 'relu'),
    ('vision_config', 'layer_norm_eps', 1e-6),
    ('vision_config', 'assign_eps', 1e-4),
    ('text_config', 'hidden_act', 'gelu'),
    ('text_config', 'eos_token_id', 7),
  ],
)
def test_what_we_do_not_compute_is_refused(state, config, part, field, value):
  config[part][field] = value
  with pytest.raises(ModelError, match=f'{part}.{field}'):
    load(state, config)


def test_weights_without_config_need_heads_of_64(state):
  with pytest.raises(ModelError, match='square|heads.*config.json'):
    load(state, {})


def test_published_folders_processor_is_not_believed(state, config):
  from groupvit_jax.convert import sources

  def mean(**preprocessor):
    source = golden_models.as_state_dict(state, config)
    source.preprocessor.update(preprocessor)
    return torch_to_flax.from_state(source).preprocessing['mean']

  clip, own = sources.CLIP, {'mean': [0.1, 0.2, 0.3], 'std': [0.4, 0.5, 0.6]}
  assert mean(image_mean=clip['mean'], image_std=clip['std']) == [
    0.485,
    0.456,
    0.406,
  ]
  assert mean(image_mean=own['mean'], image_std=own['std']) == own['mean']


def test_strangers_are_refused(tmp_path, state):
  with pytest.raises(ModelError, match='unknown model.*known are'):
    load({'conv.weight': np.zeros((2, 2), np.float32)}, {})
  with pytest.raises(ModelError, match='ResNet'):
    load({'visual.layer1.0.conv1.weight': np.zeros(2, np.float32)}, {})
  with pytest.raises(ModelError, match='there is no .*nvidia/groupvit'):
    convert.load_source('nvidia/groupvit-gcc-yfcc')
  with pytest.raises(ModelError, match='holds no model'):
    convert.load_source(tmp_path)
  (tmp_path / 'weights.h5').write_bytes(b'')
  with pytest.raises(ModelError, match='no file of weights'):
    convert.load_source(tmp_path / 'weights.h5')
  (tmp_path / 'cut.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{"a')
  with pytest.raises(ModelError, match='truncated'):
    convert.load_source(tmp_path / 'cut.safetensors')
  with pytest.raises(ModelError, match="unknown format 'onnx'"):
    convert.convert(tmp_path, tmp_path / 'out', to='onnx')


def test_without_torch_a_pickle_names_the_remedy(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  (tmp_path / 'weights.pth').write_bytes(b'anything')
  with pytest.raises(ModelError, match=r'groupvit_jax\[torch\]'):
    convert.load_source(tmp_path / 'weights.pth')


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('center_keys', True),
    ('group_residual', False),
    ('pre_assign_attn', False),
    ('token_mixer', False),
    ('assignment', 'soft'),
    ('num_output_groups', [3, 5, 2, 0]),
  ],
)
def test_what_their_class_cannot_express_is_refused(tmp_path, field, value):
  converted = golden_models.converted(golden_models.load())
  converted.architecture['image'][field] = value
  with pytest.raises(ModelError, match=f'cannot express.*{field}'):
    convert.save_huggingface(converted, tmp_path / 'hf')
  assert not (tmp_path / 'hf').exists()


@pytest.mark.parametrize(
  ('field', 'value'), [('image_encoder', 'vit'), ('projector_width', 0)]
)
def test_other_encoders_and_projectors_are_refused(tmp_path, field, value):
  converted = golden_models.converted(golden_models.load())
  converted.architecture[field] = value
  with pytest.raises(ModelError, match='cannot express'):
    convert.save_huggingface(converted, tmp_path / 'hf')
