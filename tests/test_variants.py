"""Named sizes: exact parameter counts, and the released initialisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from groupvit_jax.models import dual_encoder, variants


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(spec, **options):
  model = dual_encoder.DualEncoder(
    variants.build_image_encoder(spec),
    variants.build_text_encoder(variants.TEXT_S),
    **options,
  )
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 4, 77), jnp.int32)
  return jax.eval_shape(model.init, jax.random.key(0), images, tokens)


def test_groupvit_s_has_the_released_parameters():
  params = shapes(variants.GROUPVIT_S)['params']
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


@pytest.mark.parametrize(
  ('spec', 'options', 'total'),
  [
    (
      variants.GROUPVIT_S,
      {'separate_multi_label_scale': False},
      55_726_609,
    ),
    (variants.GROUPVIT_S_ONE_STAGE, {}, 52_144_202),
    (variants.VIT_S, {}, 48_555_138),
  ],
)
def test_totals(spec, options, total):
  assert count(shapes(spec, **options)['params']) == total


def test_options_reach_the_encoder():
  spec = dataclasses.replace(variants.GROUPVIT_S, depths=(1, 1, 1))
  model = variants.build_image_encoder(spec, assignment='soft', remat=True)
  assert (model.depths, model.assignment, model.remat) == (
    (1, 1, 1),
    'soft',
    True,
  )
  assert variants.build_text_encoder(variants.TEXT_S, remat=True).remat


@pytest.fixture(scope='module')
def params():
  model = dual_encoder.DualEncoder(
    tiny_models.image_encoder(width=64, num_group_tokens=(16, 4, 0)),
    tiny_models.text_encoder(width=64, depth=3, vocab_size=200),
    projector_width=64,
  )
  args = tiny_models.images(), tiny_models.tokens()
  return tiny_models.init(model, *args)['params']


@pytest.mark.parametrize(
  ('path', 'deviation'),
  [
    ('image/embed/kernel', (4 * 4 * 3) ** -0.5 / 3**0.5),
    ('image/embed/bias', (4 * 4 * 3) ** -0.5 / 3**0.5),
    ('image/embed/positions', 0.02),
    ('image/stage_0/group_tokens', 0.02),
    ('image/stage_1/group_tokens', 0),
    ('image/stage_0/block_0/attn/qkv/kernel', 0.02),
    ('image/stage_0/block_0/mlp/fc2/kernel', 0.02),
    ('image/stage_0/grouping/assign/kv/kernel', 0.02),
    ('image/stage_0/grouping/mlp/fc1/bias', 0),
    ('text/tokens', 0.02),
    ('text/positions', 0.01),
    ('text/block_0/attn/qkv/kernel', 64**-0.5),
    ('text/block_0/attn/qkv/bias', 0),
    ('text/block_1/attn/out/kernel', 64**-0.5 * 6**-0.5),
    ('text/block_1/mlp/fc1/kernel', 128**-0.5),
    ('text/block_1/mlp/fc1/bias', 64**-0.5 / 3**0.5),
    ('text/block_1/mlp/fc2/kernel', 64**-0.5 * 6**-0.5),
    ('image_projector/fc1/kernel', 64**-0.5 / 3**0.5),
    ('text_projector/fc2/bias', 64**-0.5 / 3**0.5),
  ],
)
def test_initial_deviation(params, path, deviation):
  leaf = params
  for key in path.split('/'):
    leaf = leaf[key]
  # A sample of 64 or more: four deviations of its deviation.
  margin = 4 / np.sqrt(2 * leaf.size)
  np.testing.assert_allclose(leaf.std(), deviation, rtol=margin, atol=1e-9)
