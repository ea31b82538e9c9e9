"""Weights that are not what they should be are refused, and named."""

import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.convert import load as load_lib
from groupvit_jax.convert import torch_files
from groupvit_jax.errors import ModelError


@pytest.fixture(scope='module')
def arrays(golden_models):
  return golden_models.load()


@pytest.fixture
def state(golden_models, arrays):
  return golden_models.state(arrays)


@pytest.fixture
def config(golden_models, arrays):
  return golden_models.config(arrays)


@pytest.fixture
def load(golden_models):
  """Reads a state dict and its config."""
  return lambda state, config: load_lib.from_state(
    golden_models.as_state_dict(state, config)
  )


def test_unmapped_names_are_told_ten_of_them(load, state, config):
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
def test_a_missing_array_is_named_as_theirs(load, state, config, name):
  del state[name]
  with pytest.raises(ModelError, match='missing') as error:
    load(state, config)
  assert name in str(error.value)


def test_another_shape_and_nan_are_named(load, state, config):
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
def test_what_we_do_not_compute_is_refused(
  load, state, config, part, field, value
):
  config[part][field] = value
  with pytest.raises(ModelError, match=part):
    load(state, config)


@pytest.mark.parametrize(
  ('part', 'field', 'value'),
  [
    ('vision_config', 'num_attention_heads', '2'),
    ('vision_config', 'num_attention_heads', 5),
    ('vision_config', 'depths', 'many'),
    ('vision_config', 'depths', [1, 'two']),
    ('vision_config', 'image_size', 'large'),
    ('vision_config', 'image_size', [20, 12, 3]),
    ('text_config', 'num_attention_heads', [2]),
    ('text_config', 'vocab_size', '41'),
    (None, 'vision_config', 5),
    (None, 'text_config', ['none']),
    (None, 'groupvit_jax', {'short_side': '448'}),
  ],
)
def test_odd_values_of_a_config_are_named(
  load, state, config, part, field, value
):
  (config[part] if part else config)[field] = value
  with pytest.raises(
    ModelError, match=f'Expected.*{field}|{field}: Expected|5 heads'
  ):
    load(state, config)


@pytest.mark.parametrize(
  'content', ['[1]', '3', '{"weight_map": [1]}', '{"weight_map": {"a": 1}}']
)
def test_odd_json_files_are_named(tmp_path, content):
  path = tmp_path / 'model.safetensors.index.json'
  path.write_text(content)
  with pytest.raises(ModelError, match='index.json'):
    convert.load_source(tmp_path)


def test_odd_normalisation_is_named(golden_models, state, config):
  source = golden_models.as_state_dict(state, config)
  source.preprocessor['image_mean'] = ['0.5', '0.5', '0.5']
  with pytest.raises(ModelError, match='Expected.*image_mean'):
    load_lib.from_state(source)


@pytest.mark.parametrize(
  'name',
  [
    'vision_model.embeddings.patch_embeddings.projection.weight',
    'vision_model.embeddings.position_embeddings',
    'vision_model.encoder.stages.0.layers.0.self_attn.q_proj.weight',
    'vision_model.encoder.stages.0.layers.0.mlp.fc1.weight',
    'vision_model.encoder.stages.0.group_token',
    'vision_model.layernorm.weight',
    'text_model.embeddings.token_embedding.weight',
    'text_projection.1.running_var',
  ],
)
@pytest.mark.parametrize('shape', [(), (0,), (2, 3, 4, 5, 6)])
def test_arrays_with_other_axes_are_named(load, state, config, name, shape):
  state[name] = np.ones(shape, np.float32)
  with pytest.raises(ModelError, match='misshapen') as error:
    load(state, config)
  assert name in str(error.value)


@pytest.mark.parametrize('dtype', [np.int64, np.bool_, np.complex64])
def test_arrays_of_other_than_floats_are_named(load, state, config, dtype):
  name = 'vision_model.layernorm.weight'
  arrays = torch_files.as_floats(state | {name: state[name].astype(dtype)})
  with pytest.raises(ModelError, match=f'1 not_floating .{name}'):
    load(arrays, config)


def test_weights_without_config_need_heads_of_64(load, state):
  with pytest.raises(ModelError, match='square|heads.*config.json'):
    load(state, {})


def test_strangers_are_refused(load, tmp_path, state):
  with pytest.raises(ModelError, match='unknown model.*known are'):
    load({'conv.weight': np.zeros((2, 2), np.float32)}, {})
  for nowhere in ('nvidia/groupvit-gcc-yfcc', '~nosuchuser/model'):
    with pytest.raises(ModelError, match=f'there is no .*{nowhere}'):
      convert.load_source(nowhere)
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
def test_what_their_class_cannot_express_is_refused(
  golden_models, tmp_path, field, value
):
  converted = golden_models.converted(golden_models.load())
  converted.architecture['image'][field] = value
  with pytest.raises(ModelError, match=f'cannot express.*{field}'):
    convert.save_huggingface(converted, tmp_path / 'hf')
  assert not (tmp_path / 'hf').exists()


@pytest.mark.parametrize(
  ('field', 'value'), [('image_encoder', 'vit'), ('projector_width', 0)]
)
def test_other_encoders_and_projectors_are_refused(
  golden_models, tmp_path, field, value
):
  converted = golden_models.converted(golden_models.load())
  converted.architecture[field] = value
  with pytest.raises(ModelError, match='cannot express'):
    convert.save_huggingface(converted, tmp_path / 'hf')
