"""CLIP's vision transformer: released sizes, and tokens by hand."""

import jax
import numpy as np
import pytest

from groupvit_jax.models import dual_encoder, vit
from groupvit_jax.models.text import TextTransformer

# Image size, patch, width, depth, heads, joint width, the text's width, and the
# parameters of the whole and of the image tower, as torch counts them.
RELEASED = {
  'ViT-B/32': (224, 32, 768, 12, 12, 512, 512, 151_277_313, 87_849_216),
  'ViT-B/16': (224, 16, 768, 12, 12, 512, 512, 149_620_737, 86_192_640),
  'ViT-L/14': (224, 14, 1024, 24, 16, 768, 768, 427_616_513, 303_966_208),
  'ViT-L/14@336': (336, 14, 1024, 24, 16, 768, 768, 427_944_193, 304_293_888),
}


@pytest.mark.parametrize('name', RELEASED)
def test_released_sizes(tiny, name):
  size, patch, width, depth, heads, joint, text, whole, image = RELEASED[name]
  model = dual_encoder.DualEncoder(
    vit.ClipViT(size, patch, width, depth, heads),
    TextTransformer(width=text, num_heads=text // 64),
    embed_dim=joint,
    projector_width=0,
    projector_bias=False,
    separate_multi_label_scale=False,
  )
  assert tiny.parameter_counts(model, size) == (whole, image)


def test_without_blocks_it_is_two_norms_of_the_embedding(tiny):
  model = tiny.clip_vit_encoder(depth=0)
  images = tiny.images()
  params = tiny.init(model, images)['params']
  pooled, out = model.apply({'params': params}, images)

  def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-5
    )

  embed = jax.tree.map(np.asarray, params['embed'])
  first = embed['class_token'] + embed['positions'][0]
  tiny.assert_near(pooled, np.stack(3 * [norm(norm(first))]))
  cut = np.asarray(images).reshape(3, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5)
  x = cut.reshape(3, 16, -1) @ embed['kernel'].reshape(-1, 16)
  tiny.assert_near(out['tokens'], norm(norm(x + embed['positions'][1:])))
  assert out['grid'] == (4, 4)


def test_its_blocks_use_quick_gelu(tiny):
  model = tiny.clip_vit_encoder(depth=1)
  images = tiny.images()
  variables = tiny.init(model, images)
  used = model.apply(variables, images)[0]
  exact = model.clone(activation='gelu').apply(variables, images)[0]
  assert np.abs(used - exact).max() > 1e-4
