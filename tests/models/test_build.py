"""Models from an architecture: exact sizes, options, refusals."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs.gvit_s import get_config
from groupvit_jax.models import build, groupvit, text
from groupvit_jax.training import task

GROUPVIT_S = {
  'image_encoder': 'groupvit',
  'image': build.released_sizes(groupvit.GroupViT),
  'text': build.released_sizes(text.TextTransformer),
  'embed_dim': 256,
  'projector_width': 4096,
  'projector_bias': True,
  'separate_multi_label_scale': True,
}
IMAGE = {
  'image_size': 16,
  'patch_size': 4,
  'width': 16,
  'num_heads': 2,
}
TEXT = {
  'vocab_size': 32,
  'context_length': 9,
  'width': 8,
  'depth': 2,
  'num_heads': 2,
}
VIT = GROUPVIT_S | {
  'image_encoder': 'vit',
  'image': IMAGE | {'depth': 2},
  'text': TEXT,
  'embed_dim': 12,
  'projector_width': 20,
}


def shapes(model, context=9):
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 4, context), jnp.int32)
  return jax.eval_shape(model.init, jax.random.key(0), images, tokens)


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_groupvit_s_has_the_released_parameters():
  params = shapes(build.build(GROUPVIT_S), 77)['params']
  assert {name: count(tree) for name, tree in params.items()} == {
    'image': 28_837_136,
    'text': 22_145_792,
    'image_projector': 2_633_984,
    'text_projector': 2_109_696,
    'logit_scale': 1,
    'multi_label_logit_scale': 1,
  }
  assert count(params) == 55_726_610
  image = params['image']
  assert count(image['stage_0']['block_0']) == 1_774_464
  assert count(image['stage_0']['grouping']) == 3_575_296
  assert count(image['stage_1']['grouping']) == 3_553_736
  shared = GROUPVIT_S | {'separate_multi_label_scale': False}
  assert count(shapes(build.build(shared), 77)['params']) == 55_726_609


@pytest.mark.parametrize(
  'arg', ['', 'one_stage', 'demo', 'clip', 'demo,clip,nouns=0']
)
def test_a_config_builds_the_same_model_through_json(arg):
  config = get_config(arg)
  architecture = task.architecture(config, 500)
  written = json.loads(json.dumps(architecture))
  assert written == architecture
  model = build.build(
    written,
    dtype=config.dtype,
    remat=config.remat,
    matmul_operands=config.matmul_operands,
  )
  assert model == task.make(config, 500).model


def test_an_architecture_can_be_read_from_a_saved_config():
  config = get_config('tied')
  saved = json.loads(config.to_json_best_effort())
  assert task.architecture(saved, 9) == task.architecture(config, 9)


def test_an_unknown_task_names_the_known():
  with pytest.raises(ValueError, match="'gan'; choose one of groupvit, clip"):
    task.architecture({'task': 'gan'}, 9)


def test_fields_reach_the_modules():
  model = build.build(
    VIT | {'image': VIT['image'] | {'image_size': [8, 12]}},
    dtype=jnp.bfloat16,
    remat=True,
    drop_path_rate=0.3,
  )
  assert model.image.image_size == (8, 12)
  assert model.image.drop_path_rate == 0.3
  assert {m.dtype for m in (model, model.image, model.text)} == {jnp.bfloat16}
  assert model.image.remat
  assert model.text.remat
  assert (model.text.width, model.embed_dim, model.projector_width) == (
    8,
    12,
    20,
  )
  hash(model)  # jit needs it of a static argument


def test_a_projector_without_biases():
  model = build.build(VIT | {'projector_width': 0, 'projector_bias': False})
  params = shapes(model)['params']
  for name, width in (('image_projector', 16), ('text_projector', 8)):
    assert jax.tree.map(jnp.shape, params[name]) == {
      'fc2': {'kernel': (width, 12)}
    }


def without(mapping, name):
  return {key: value for key, value in mapping.items() if key != name}


@pytest.mark.parametrize(
  ('architecture', 'message'),
  [
    (VIT | {'depht': 3}, 'architecture: unknown fields: depht. The fields'),
    (without(VIT, 'projector_bias'), 'missing fields: projector_bias'),
    (
      VIT | {'image': {'depth': 2, 'depths': [2]} | without(IMAGE, 'width')},
      'architecture, image: unknown fields: depths; missing fields: width',
    ),
    (VIT | {'image': VIT['image'] | {'remat': True}}, 'unknown fields: remat'),
    (VIT | {'text': without(TEXT, 'vocab_size')}, 'text: missing.*vocab_size'),
    (VIT | {'image_encoder': 'resnet'}, "'resnet'; choose one of groupvit, "),
  ],
)
def test_a_wrong_architecture_is_refused_by_field(architecture, message):
  with pytest.raises(ValueError, match=message):
    build.build(architecture)


def test_an_unknown_option_is_refused():
  with pytest.raises(ValueError, match='unknown fields: assignment'):
    build.build(VIT, assignment='soft')
  build.build(GROUPVIT_S, assignment='soft')


def test_a_model_from_an_architecture_runs(tiny):
  model = build.build(VIT)
  variables = tiny.init(model, tiny.images(), tiny.tokens())
  out = tiny.apply(model, variables, tiny.images(), method='encode_image')
  assert out.shape == (3, 12)
