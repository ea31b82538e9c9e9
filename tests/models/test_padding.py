"""A padded image gives what it gives alone, whatever lies in its padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.models import patches

PADDED = (24, 32)  # pixels, in patches of 4: 6 by 8 tokens, trained on 4 by 4
SIZES = ((24, 32), (9, 30), (16, 16))
# Kernels of .3: at .02 the groups would hardly differ.
RELEASED = {'init_std': 0.3}
TIED = RELEASED | {
  'group_residual': False,
  'pre_assign_attn': False,
  'center_keys': True,
  'depths': (2, 0),
  'num_group_tokens': (6, 0),
  'num_output_groups': (6, 0),
}
ENCODERS = {
  'released': lambda tiny: tiny.image_encoder(**RELEASED),
  'soft': lambda tiny: tiny.image_encoder(**RELEASED, assignment='soft'),
  'tied': lambda tiny: tiny.image_encoder(**TIED),
  # No stage groups: the regions are tokens, and pooling is over them.
  'ungrouped': lambda tiny: tiny.image_encoder(
    **RELEASED, depths=(2,), num_group_tokens=(0,), num_output_groups=(0,)
  ),
  'vit': lambda tiny: tiny.vit_encoder(**RELEASED),
  'clip_vit': lambda tiny: tiny.clip_vit_encoder(),
}


def perturbed(variables):
  """No parameter at a constant, behind which padding could hide."""
  leaves, structure = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(5), len(leaves))
  noisy = [
    leaf + 0.1 * jnp.abs(jax.random.normal(key, leaf.shape))
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  return jax.tree.unflatten(structure, noisy)


def pad(images, sizes, fill):
  """Every image cut to its size in the top left corner, `fill` around it."""
  padded = np.full(images.shape, fill, np.float32)
  for row, image, (h, w) in zip(padded, images, sizes, strict=True):
    row[:h, :w] = image[:h, :w]
  return jnp.asarray(padded)


class Padded:
  """A model, its regions of padded images, and how often it was traced."""

  def __init__(self, tiny, encoder):
    self._tiny = tiny
    self.model = tiny.dual(encoder)
    self.images = np.asarray(tiny.images(3, *PADDED))
    variables = tiny.init(self.model, tiny.images(), tiny.tokens())
    self.variables = perturbed(variables)
    self.traced = 0

    def regions(variables, images, sizes):
      self.traced += 1
      return self.model.apply(
        variables, images, sizes, method='encode_regions'
      ) | {
        'encoded': self.model.apply(
          variables, images, sizes, method='encode_image'
        )
      }

    self._regions = jax.jit(regions)

  def regions(self, sizes, fill=np.nan):
    images = pad(self.images, sizes, fill)
    return self._regions(self.variables, images, jnp.asarray(sizes))

  def alone(self, i, size):
    image = self.images[i : i + 1, : size[0], : size[1]]
    return self._tiny.apply(
      self.model, self.variables, jnp.asarray(image), method='encode_regions'
    )


@pytest.fixture(scope='module', params=list(ENCODERS))
def padded(request, tiny):
  return Padded(tiny, ENCODERS[request.param](tiny))


def test_a_padded_image_is_as_it_is_alone(tiny, padded):
  regions = padded.regions(SIZES)
  assert regions['embeddings'].dtype == jnp.float32
  for i, size in enumerate(SIZES):
    alone = padded.alone(i, size)
    (h, w) = grid = size[0] // 4, size[1] // 4
    assert tuple(regions['grids'][i]) == grid == alone['grid']
    tiny.assert_near(regions['image'][i], alone['image'][0])
    tiny.assert_near(regions['encoded'][i], alone['image'][0])
    for maps, expected in zip(regions['stages'], alone['stages'], strict=True):
      tiny.assert_near(maps[i, :h, :w], expected[0])
      np.testing.assert_array_equal(maps[i, h:], 0)
      np.testing.assert_array_equal(maps[i, :, w:], 0)
    embeddings = regions['embeddings'][i]
    if not alone['stages']:  # they are tokens
      embeddings = np.asarray(embeddings).reshape(6, 8, -1)
      np.testing.assert_array_equal(embeddings[h:], 0)
      np.testing.assert_array_equal(embeddings[:, w:], 0)
      embeddings = embeddings[:h, :w].reshape(h * w, -1)
    tiny.assert_near(embeddings, alone['embeddings'][0])


def test_what_lies_in_the_padding_changes_nothing(padded):
  nothing = padded.regions(SIZES, 0.0)
  for fill in (np.nan, np.inf, 1e30):
    jax.tree.map(
      np.testing.assert_array_equal, padded.regions(SIZES, fill), nothing
    )


def test_no_size_compiles_anew(padded):
  before = padded.regions(SIZES)['image']
  others = ((4, 4), (24, 8), (13, 32))
  assert np.abs(padded.regions(others)['image'] - before).max() > 1e-3
  assert padded.traced == 1


def test_sizes_of_the_whole_padded_shape_change_nothing(tiny, padded):
  regions = padded.regions(3 * (PADDED,))
  images = jnp.asarray(padded.images)
  plain = tiny.apply(
    padded.model, padded.variables, images, method='encode_regions'
  )
  assert 'grids' not in plain
  for name in ('image', 'embeddings', 'stages'):
    jax.tree.map(tiny.assert_near, regions[name], plain[name])


def test_sizes_outside_the_padded_shape_count_as_its_border(padded):
  regions = padded.regions(((1, 99), (24, 32), (-3, 8)), 0.0)
  assert regions['grids'].tolist() == [[1, 8], [6, 8], [1, 2]]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(regions))


def test_padding_takes_no_part_in_training(tiny):
  """Noise on: gradients are as without what lies in the padding, and finite."""
  model = tiny.image_encoder(**TIED)
  images = np.asarray(tiny.images(3, *PADDED))
  variables = tiny.init(model, tiny.images())

  @jax.jit
  def gradient(variables, images):
    def loss(variables):
      pooled, out = model.apply(
        variables,
        images,
        train=True,
        sizes=jnp.asarray(SIZES),
        rngs=tiny.RNGS,
      )
      return (pooled**2).sum(), out['noisy_assignments']

    return jax.grad(loss, has_aux=True)(variables)

  (clean, maps), (dirty, _) = (
    gradient(variables, pad(images, SIZES, fill)) for fill in (0.0, np.nan)
  )
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(clean))
  mask = patches.token_mask(jnp.asarray(SIZES) // 4, (6, 8))
  tiny.assert_near(maps[0].sum(axis=1), mask)


@pytest.mark.parametrize('trained', [(4, 4), (3, 5), (1, 1)])
def test_positions_of_each_image_are_those_of_its_grid(tiny, trained):
  positions = jax.random.normal(jax.random.key(0), (1, np.prod(trained), 5))
  grids = [(6, 8), (4, 4), (1, 1), (2, 7), (5, 3), (3, 5)]
  each = jax.jit(patches.resize_positions, static_argnums=(1, 2))(
    positions, trained, (6, 8), jnp.asarray(grids)
  )
  assert np.isfinite(each).all()
  for x, (h, w) in zip(each.reshape(-1, 6, 8, 5), grids, strict=True):
    expected = patches.resize_positions(positions, trained, (h, w))
    tiny.assert_near(x[:h, :w].reshape(1, h * w, 5), expected, atol=2e-6)
    if (h, w) == trained:
      np.testing.assert_array_equal(x[:h, :w].reshape(1, h * w, 5), positions)


def test_masks_are_row_major_and_see_what_is_no_token():
  mask = patches.token_mask(jnp.asarray([[2, 1], [1, 3]]), (2, 3))
  assert mask.astype(int).tolist() == [[1, 0, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0]]
  keys = patches.key_mask(mask, before=1, after=2)
  assert keys.shape == (2, 1, 1, 9)
  assert keys[0, 0, 0].astype(int).tolist() == [1, 1, 0, 0, 1, 0, 0, 1, 1]
  assert patches.key_mask(patches.token_mask(None, (2, 3))) is None
