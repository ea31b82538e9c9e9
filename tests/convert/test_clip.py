"""Hugging Face's CLIP against transformers' `CLIPModel`.

Runs where torch and transformers are installed (the `torch` extra).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.errors import ModelError
from groupvit_jax.models import build

torch = pytest.importorskip('torch', reason="needs the 'torch' extra")
transformers = pytest.importorskip(
  'transformers', reason="needs the 'torch' extra"
)


def random_texts(n, config):
  """Start token, random ids, the end token, zeros."""
  ids = torch.zeros(n, config.max_position_embeddings, dtype=torch.long)
  end = config.vocab_size - 1
  generator = torch.Generator().manual_seed(1)
  for row, length in zip(ids, range(2, 2 + n), strict=True):
    row[0] = end - 1
    row[1:length] = torch.randint(
      1, end - 1, (length - 1,), generator=generator
    )
    row[length] = end
  return ids


def assert_near(ours, theirs, atol=2e-5):
  np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=atol)


def encode(converted, pixels, ids):
  """Image embeddings, text embeddings and scale of a model."""
  model = build.build(converted.architecture)

  @jax.jit
  def run(variables, images, tokens):
    def call(method, *args):
      return model.apply(variables, *args, method=method)

    return (
      call('encode_image', images),
      call('encode_text', tokens),
      call('logit_scale'),
    )

  images = jnp.asarray(pixels.numpy().transpose(0, 2, 3, 1))
  return run(converted.variables, images, jnp.asarray(ids.numpy(), jnp.int32))


def unit(x):
  return x / x.norm(dim=-1, keepdim=True)


def assert_same_model(tiny, converted, theirs, batch=2):
  """Embeddings and logits of a model against transformers'."""
  config = theirs.config
  generator = torch.Generator().manual_seed(2)
  side = config.vision_config.image_size
  pixels = torch.randn((batch, 3, side, side), generator=generator)
  ids = random_texts(batch + 1, config.text_config)
  with torch.no_grad():
    out = theirs(pixel_values=pixels, input_ids=ids)
  image, text, scale = encode(converted, pixels, ids)
  assert_near(image, unit(out.image_embeds))
  assert_near(text, unit(out.text_embeds))
  assert_near(
    image @ text.T, out.logits_per_image / theirs.logit_scale.exp().detach()
  )
  limited = theirs.logit_scale.exp().clamp(max=100).detach()
  np.testing.assert_allclose(scale, limited.numpy(), rtol=1e-6)


TINY_CLIP = {
  'projection_dim': 10,
  'text_config': {
    'vocab_size': 41,
    'hidden_size': 8,
    'intermediate_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'max_position_embeddings': 11,
    'bos_token_id': 39,
    'eos_token_id': 40,
  },
  'vision_config': {
    'hidden_size': 12,
    'intermediate_size': 36,
    'num_hidden_layers': 2,
    'num_attention_heads': 3,
    'image_size': 24,
    'patch_size': 8,
  },
}


def clip(torch_models, config=None):
  config = transformers.CLIPConfig(**config or {})
  return torch_models.randomise(transformers.CLIPModel(config))


def test_tiny_clip_equals_transformers(torch_models, tiny, tmp_path):
  theirs = clip(torch_models, TINY_CLIP)
  theirs.save_pretrained(tmp_path / 'clip')
  converted = convert.load_source(tmp_path / 'clip')
  assert converted.architecture['image_encoder'] == 'clip_vit'
  assert not converted.architecture['projector_bias']
  assert_same_model(tiny, converted, theirs, batch=3)
  convert.convert(tmp_path / 'clip', tmp_path / 'ours')
  again = convert.load_source(tmp_path / 'ours')
  jax.tree.map(
    np.testing.assert_array_equal, again.variables, converted.variables
  )


def test_a_clip_with_another_activation(torch_models, tiny, tmp_path):
  config = TINY_CLIP | {
    'vision_config': TINY_CLIP['vision_config'] | {'hidden_act': 'gelu'}
  }
  theirs = clip(torch_models, config)
  theirs.save_pretrained(tmp_path / 'clip')
  assert_same_model(tiny, convert.load_source(tmp_path / 'clip'), theirs)
  record = tmp_path / 'clip' / 'config.json'
  record.write_text(record.read_text().replace('"gelu"', '"relu"'))
  with pytest.raises(ModelError, match='hidden_act'):
    convert.load_source(tmp_path / 'clip')


@pytest.mark.slow
def test_full_size_clip_equals_transformers(torch_models, tiny, tmp_path):
  theirs = clip(torch_models)
  theirs.save_pretrained(tmp_path / 'clip')
  converted = convert.load_source(tmp_path / 'clip')
  assert converted.tokenizer == 'clip'
  assert_same_model(tiny, converted, theirs)
