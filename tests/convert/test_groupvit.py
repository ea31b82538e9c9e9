"""The logits that transformers published for the released GroupViTs.

Opt-in, with the released weights: GROUPVIT_WEIGHTS names a folder with any of
group_vit_gcc_yfcc_30e-879422e0.pth, group_vit_gcc_redcap_30e-3dd09a76.pth, and
000000039769.jpg of COCO (two cats).
"""

import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from groupvit_jax import convert
from groupvit_jax.convert import load
from groupvit_jax.models import build
from groupvit_jax.text import make_tokenizer

WEIGHTS = os.environ.get('GROUPVIT_WEIGHTS')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'published'),
  [
    ('group_vit_gcc_yfcc_30e-879422e0.pth', (13.3523, 6.3629)),
    ('group_vit_gcc_redcap_30e-3dd09a76.pth', (16.1873, 8.6230)),
  ],
)
def test_published_logits_of_the_two_cats(name, published):
  """transformers, convert_groupvit_nvlab_to_hf.py; CLIP's preprocessing."""
  if not WEIGHTS or not (pathlib.Path(WEIGHTS) / name).exists():
    pytest.skip(f'set GROUPVIT_WEIGHTS to a folder with {name}')
  folder = pathlib.Path(WEIGHTS)
  converted = convert.load_source(folder / name)
  image = Image.open(folder / '000000039769.jpg').convert('RGB')
  scale = 224 / min(image.size)
  size = [round(side * scale) for side in image.size]
  image = image.resize(size, Image.Resampling.BICUBIC)
  left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
  image = image.crop((left, top, left + 224, top + 224))
  # The published logits were made with CLIP's mean and deviation.
  mean, std = (np.array(load.CLIP[k], np.float32) for k in ('mean', 'std'))
  images = (np.asarray(image, np.float32) / 255 - mean) / std
  texts = ['a photo of a cat', 'a photo of a dog']
  tokens = make_tokenizer('clip')(texts)
  model = build.build(converted.architecture)
  variables = converted.variables

  def apply(method, *args):
    return model.apply(variables, *args, method=method)

  image = apply('encode_image', jnp.asarray(images[None]))
  cosines = image @ apply('encode_text', jnp.asarray(tokens)).T
  logits = cosines[0] * apply('logit_scale')
  np.testing.assert_allclose(logits, published, rtol=0, atol=1e-3)
