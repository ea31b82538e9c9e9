"""CLIP's vision transformer: by hand, and against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.models import dual_encoder, vit
from groupvit_jax.models.text import TextTransformer

SIZES = {'width': 16, 'depth': 2, 'num_heads': 2, 'mlp_ratio': 3.0}


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


def test_bfloat16_keeps_parameters_and_outputs_in_float32(tiny):
  images = tiny.images()
  rounded = tiny.clip_vit_encoder(dtype=jnp.bfloat16, remat=True)
  variables = tiny.init(rounded, images)
  exact = tiny.clip_vit_encoder()
  ours, theirs = (
    tiny.apply(model, variables, images)[0] for model in (rounded, exact)
  )
  dtypes = {p.dtype for p in jax.tree.leaves((variables, ours))}
  assert dtypes == {jnp.dtype('float32')}
  tiny.assert_near(ours, theirs, atol=0.08)


def hugging_face(torch, transformers, seed=0):
  """A tiny CLIPVisionModel, every parameter random."""
  config = transformers.CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=16,
    patch_size=4,
    hidden_act='quick_gelu',
  )
  torch.manual_seed(seed)
  model = transformers.CLIPVisionModel(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  return model


def to_flax(model):
  """Its weights as parameters of `ClipViT`."""
  state = {
    name.removeprefix('vision_model.'): value.numpy()
    for name, value in model.state_dict().items()
  }

  def norm(name):
    return {
      'scale': state[f'{name}.weight'],
      'bias': state[f'{name}.bias'],
    }

  def dense(*names):
    return {
      'kernel': np.concatenate([state[f'{n}.weight'].T for n in names], 1),
      'bias': np.concatenate([state[f'{n}.bias'] for n in names]),
    }

  def block(i):
    at = f'encoder.layers.{i}'
    return {
      'norm1': norm(f'{at}.layer_norm1'),
      'norm2': norm(f'{at}.layer_norm2'),
      'attn': {
        'qkv': dense(*(f'{at}.self_attn.{n}_proj' for n in 'qkv')),
        'out': dense(f'{at}.self_attn.out_proj'),
      },
      'mlp': {n: dense(f'{at}.mlp.{n}') for n in ('fc1', 'fc2')},
    }

  patch = state['embeddings.patch_embedding.weight']
  return {
    'embed': {
      'kernel': patch.transpose(2, 3, 1, 0),
      'class_token': state['embeddings.class_embedding'],
      'positions': state['embeddings.position_embedding.weight'],
    },
    'norm_pre': norm('pre_layrnorm'),
    'norm': norm('post_layernorm'),
    **{f'block_{i}': block(i) for i in range(2)},
  }


@pytest.mark.parametrize('size', [(16, 16), (24, 12)])
def test_it_is_the_one_of_transformers(tiny, size):
  torch = pytest.importorskip('torch', reason='the extra torch')
  transformers = pytest.importorskip('transformers')
  theirs = hugging_face(torch, transformers)
  ours = tiny.clip_vit_encoder(**SIZES)
  images = tiny.images(2, *size)
  variables = {'params': to_flax(theirs)}
  wanted = jax.eval_shape(ours.init, jax.random.key(0), images)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, wanted)
  pooled, out = tiny.apply(ours, variables, images)
  pixels = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2)))
  with torch.no_grad():
    expected = theirs(pixels, interpolate_pos_encoding=True)
    inner = getattr(theirs, 'vision_model', theirs)
    tokens = inner.post_layernorm(expected.last_hidden_state)
  tiny.assert_near(pooled, expected.pooler_output.numpy())
  tiny.assert_near(out['tokens'], tokens[:, 1:].numpy())


def test_its_blocks_use_quick_gelu(tiny):
  model = tiny.clip_vit_encoder(depth=1)
  images = tiny.images()
  variables = tiny.init(model, images)
  used = model.apply(variables, images)[0]
  exact = model.clone(activation='gelu').apply(variables, images)[0]
  assert np.abs(used - exact).max() > 1e-4
