"""From pixels to tokens: the convolution, and positions as torch resizes."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.models import patches

BICUBIC = pathlib.Path(__file__).parents[1] / 'testdata' / 'bicubic.npz'


def convolution(images, kernel):
  y = jax.lax.conv_general_dilated(
    images,
    kernel,
    kernel.shape[:2],
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return y.reshape(y.shape[0], -1, y.shape[-1])


def test_patch_embed_is_the_strided_convolution(tiny):
  images = tiny.normal(2, 11, 14, 3)
  embed = patches.PatchEmbed((11, 14), 4, 6)
  variables = tiny.init(embed, images)
  params = variables['params']
  x = convolution(images, params['kernel']) + params['bias']
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1) + 1e-5)[..., None]
  tiny.assert_near(embed.apply(variables, images), x + params['positions'])


@pytest.mark.parametrize('size', [(11, 14), (15, 9)])
def test_clip_embed_puts_the_class_token_first(tiny, size):
  """Its position is never resized."""
  images = tiny.normal(2, *size, 3)
  embed = patches.ClipEmbed((11, 14), 4, 6)
  variables = tiny.init(embed, images)
  params = variables['params']
  tokens = embed.apply(variables, images)
  assert tokens.shape == (2, 7, 6)
  first = params['class_token'] + params['positions'][0]
  tiny.assert_near(tokens[:, 0], np.stack([first, first]))
  x = convolution(images, params['kernel'])
  grid = size[0] // 4, size[1] // 4
  rest = patches.resize_positions(params['positions'][None, 1:], (2, 3), grid)
  tiny.assert_near(tokens[:, 1:], x + rest)


def test_pixels_are_computed_with_in_the_given_dtype(tiny):
  images = tiny.normal(1, 8, 8, 3)
  for module in (patches.PatchEmbed, patches.ClipEmbed):
    embed = module(8, 4, 6, jnp.bfloat16)
    variables = tiny.init(embed, images)
    assert embed.apply(variables, images).dtype == jnp.bfloat16


def test_an_image_smaller_than_a_patch_is_refused():
  with pytest.raises(ValueError, match='3x9 pixels is smaller than one patch'):
    patches.grid_size((3, 9), 4)


@pytest.mark.parametrize('size', ['7x5', '3x9', '4x4', '2x3', '1x1', '14x21'])
def test_positions_resize_as_torch(tiny, size):
  with np.load(BICUBIC) as golden:
    x, expected = jnp.asarray(golden['input']), golden[size]
  grid = tuple(map(int, size.split('x')))
  y = patches.resize_positions(x.reshape(1, 24, -1), (4, 6), grid)
  tiny.assert_near(y.reshape(expected.shape), expected)


def test_positions_of_the_trained_grid_are_untouched(tiny):
  x = tiny.normal(1, 24, 5)
  assert patches.resize_positions(x, (4, 6), (4, 6)) is x
