"""Static shapes for images and class lists: filling up changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import embeddings
from groupvit_jax.evaluation import regions, scoring
from groupvit_jax.evaluation import resize as resize_lib
from groupvit_jax.evaluation.config import SegmentConfig

CONFIGS = {
  'released': SegmentConfig(),
  'narrow gate': SegmentConfig(top_k=2),
  'no gate': SegmentConfig(top_k=None),
  'wide gate': SegmentConfig(top_k=7),  # between the classes and their filling
  'one softmax': SegmentConfig(gated_softmax=False),
  'other softmax': SegmentConfig(group_softmax=False, top_k=2),
  'cosines': SegmentConfig(group_softmax=False, gated_softmax=False, top_k=2),
}


def normal(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def unit(*shape, seed):
  return embeddings.unit_norm(normal(*shape, seed=seed))


@pytest.mark.parametrize('name', list(CONFIGS))
@pytest.mark.parametrize('fill', [0.0, np.nan, 'image'])
def test_filled_up_classes_take_no_part(name, fill):
  image, groups = unit(2, 6, seed=1), unit(2, 3, 6, seed=2)
  text = unit(6, 6, seed=3)
  # The very image is the most tempting class there can be.
  rows = (
    jnp.stack(4 * [image[0]]) if fill == 'image' else jnp.full((4, 6), fill)
  )
  filled = jnp.concatenate([text[:3], rows, text[3:]])
  valid = jnp.asarray([1, 1, 1, 0, 0, 0, 0, 1, 1, 1], bool)
  encoded = regions.Regions(image, groups, (), None, None)
  expected, scores = (
    scoring.score(encoded, classes, CONFIGS[name]).classes
    for classes in (
      scoring.ClassEmbeddings(text, 9.0),
      scoring.ClassEmbeddings(filled, 9.0, valid),
    )
  )
  np.testing.assert_allclose(scores[..., valid], expected, rtol=1e-5, atol=1e-7)
  lowest = -1 if name == 'cosines' else 0
  np.testing.assert_array_equal(scores[..., ~valid], lowest)


SIZES_IN = [(5, 7), (3, 4), (1, 1), (4, 2), (5, 7)]
SIZES_OUT = [(20, 28), (11, 13), (6, 9), (2, 5), (5, 7)]


def test_maps_of_each_image_resize_as_alone_and_compile_once():
  maps = np.array(normal(5, 5, 7, 3))
  for image, (h, w) in zip(maps, SIZES_IN, strict=True):
    image[h:], image[:, w:] = np.nan, np.nan
  maps, traced = jnp.asarray(maps), []

  @jax.jit
  def resize(maps, sizes_in, sizes_out):
    traced.append(1)
    return resize_lib.resize_maps(maps, sizes_in, sizes_out, (20, 28))

  def run(order):
    pick = jnp.asarray(order)
    return resize(
      maps[pick], jnp.asarray(SIZES_IN)[pick], jnp.asarray(SIZES_OUT)[pick]
    )

  resized = np.asarray(run([0, 1, 2, 3, 4]))
  run([4, 3, 2, 1, 0])
  assert len(traced) == 1
  for i, ((h, w), (y, x)) in enumerate(zip(SIZES_IN, SIZES_OUT, strict=True)):
    alone = jax.image.resize(
      maps[i : i + 1, :h, :w], (1, y, x, 3), 'linear', antialias=False
    )
    np.testing.assert_allclose(resized[i, :y, :x], alone[0], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(resized[i, y:], 0)
    np.testing.assert_array_equal(resized[i, :, x:], 0)


def test_a_map_doubled_by_hand():
  maps = jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1)
  wide = resize_lib.resize_maps(
    maps, jnp.asarray([[1, 2]]), jnp.asarray([[1, 4]]), (1, 6)
  )
  np.testing.assert_allclose(wide.ravel(), [0, 0.25, 0.75, 1, 0, 0], atol=1e-6)
