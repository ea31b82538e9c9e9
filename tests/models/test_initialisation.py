"""The released initialisation: the deviation of every kind of parameter."""

import numpy as np
import pytest

from groupvit_jax.models import dual_encoder


@pytest.fixture(scope='module')
def params(tiny):
  model = dual_encoder.DualEncoder(
    tiny.image_encoder(width=64, num_group_tokens=(16, 4, 0)),
    tiny.text_encoder(width=64, depth=3, vocab_size=200),
    projector_width=64,
  )
  args = tiny.images(), tiny.tokens()
  return tiny.init(model, *args)['params']


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
