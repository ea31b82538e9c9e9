"""Scores and labels: each released step by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import embeddings
from groupvit_jax.evaluation import labelling, regions, resize, scoring
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.sizes import Shapes


def score(found, text, scale, config=SegmentConfig(), valid=None):
  """Scores b g k of what predict_fns['regions'] returns."""
  encoded = regions.as_regions(found, found['stages'][-1].shape[1:3])
  classes = scoring.ClassEmbeddings(text, scale, valid)
  return scoring.score(encoded, classes, config).classes[:, 0]


def segment(found, text, scale, size, config=SegmentConfig(), output_size=None):
  """Labels b h w by the engine."""
  encoded = regions.as_regions(found, size)
  classes = scoring.ClassEmbeddings(text, scale)
  scores = scoring.score(encoded, classes, config)
  output = None
  if output_size is not None:
    count = len(found['image'])
    output = resize.upsampling(
      [size] * count, [output_size] * count, output_size
    )
  return labelling.label(
    encoded, scores, Shapes(size, True, 1, size), output, config
  )


def plain(
  plain_segmentation,
  found,
  text,
  scale,
  size,
  config=SegmentConfig(),
  output_size=None,
):
  """The same in numpy."""
  labels = []
  for i in range(len(found['image'])):
    own = jax.tree.map(lambda x, i=i: x[i : i + 1], found)
    scores = np.float32(
      plain_segmentation.pixel_scores(own, text, scale, size, config)
    )
    labels.append(
      plain_segmentation.resized(scores, output_size or size).argmax(-1)
    )
  return np.stack(labels)


def random_regions(seed=0, b=2, g=3, e=6, c=7, grid=(3, 4)):
  keys = jax.random.split(jax.random.key(seed), 4)
  normal = jax.random.normal
  return {
    'image': embeddings.unit_norm(normal(keys[0], (b, e))),
    'embeddings': embeddings.unit_norm(normal(keys[1], (b, g, e))),
    'stages': (jax.nn.softmax(3 * normal(keys[2], (b, *grid, g))),),
  }, embeddings.unit_norm(normal(keys[3], (c, e)))


def test_default_config_is_the_released_one():
  switches = ('group_softmax', 'gated_softmax', 'one_hot', 'relative_threshold')
  released = SegmentConfig(top_k=5, **dict.fromkeys(switches, True))
  assert released == SegmentConfig()


CASES = {
  'released': {},
  'low threshold': {'background_threshold': 0.05},
  'threshold': {'background_threshold': 0.35},
  'high threshold': {'background_threshold': 0.95},
  'constant': {'background_threshold': 0.35, 'constant_background': True},
  'absolute': {'background_threshold': 0.3, 'relative_threshold': False},
  'soft': {'one_hot': False},
  'soft, background': {'one_hot': False, 'background_threshold': 0.1},
  'logits': {'one_hot': False, 'mix_logits': True},
  'logits, background': {
    'one_hot': False,
    'mix_logits': True,
    'background_threshold': 0.1,
  },
  'cosines': {'group_softmax': False, 'gated_softmax': False},
  'no gate': {'top_k': None},
}


@pytest.mark.parametrize('output_size', [None, (13, 21)])
@pytest.mark.parametrize('case', CASES)
def test_labels_follow_the_released_steps(
  plain_segmentation, case, output_size
):
  config = SegmentConfig(**CASES[case])
  for seed in range(3):
    found, text = random_regions(seed)
    arguments = found, text, 4.0, (9, 16), config, output_size
    np.testing.assert_array_equal(
      segment(*arguments), plain(plain_segmentation, *arguments)
    )


def test_mixed_logits_are_those_of_mixed_cosines():
  found, text = random_regions()
  config = SegmentConfig(one_hot=False, mix_logits=True, top_k=None)
  encoded = regions.as_regions(found, (3, 4))
  scores = scoring.score(encoded, scoring.ClassEmbeddings(text, 7.0), config)
  got = labelling.class_scores(
    encoded, scores, Shapes((3, 4), True, 1, (3, 4)), config
  )
  cosines = found['stages'][0] @ (found['embeddings'] @ text.T)[:, None]
  want = jax.nn.softmax(7 * cosines) ** 2
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_groups_are_decided_after_upsampling():
  # Group 1 wins 2 of 3 tokens, but between them the upsampled maps give group 0
  # the larger part: deciding on the token grid would give 6 pixels to group 1.
  soft = jnp.array([[0.45, 0.55], [0.9, 0.1], [0.45, 0.55]]).reshape(1, 1, 3, 2)
  found = {
    'image': jnp.ones((1, 2)),
    'embeddings': jnp.ones((1, 2, 2)),
    'stages': (soft,),
  }
  encoded = regions.as_regions(found, (1, 9))
  got = labelling.pixel_maps(encoded, (1, 9))
  np.testing.assert_array_equal(got[0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 1, 1])


def test_between_two_classes_a_third_may_win():
  scores = jnp.array([[1, 0, 0.7], [0, 1, 0.7]]).reshape(1, 1, 2, 3)
  pixels = labelling.PixelScores(scores, jnp.arange(3)[None], jnp.zeros(1, int))
  output = resize.upsampling([(1, 2)], [(1, 10)], (1, 10))
  labels, _ = labelling.best_classes(pixels, output, SegmentConfig())
  assert labels[0, 0].tolist() == [0, 0, 0, 0, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize('top_k', [1, None])
def test_small_scores_tie_after_mmsegs_softmax(top_k):
  """In float32 exp(x) is 1 below about 6e-8: class 0 wins."""
  found, text = random_regions(c=4)
  small = {'scale': None, 'top_k': top_k}
  scores = jnp.zeros((2, 1, 3, 4)).at[..., 2].set(2e-8)
  encoded = regions.as_regions(found, (6, 8))
  shapes = Shapes((6, 8), True, 1, (6, 8))

  def labels(value, **options):
    config = SegmentConfig(**small | options)
    given = labelling.Scores(scores / 2e-8 * value)
    return np.unique(labelling.label(encoded, given, shapes, None, config))

  assert labels(2e-8) == [2]
  assert labels(2e-8, final_softmax=True) == [0]
  assert labels(2e-7, final_softmax=True) == [2]


def test_the_final_softmax_is_over_all_classes():
  """Also over those that the gate leaves out."""
  found, text = random_regions(c=9)
  scores = labelling.Scores(jnp.zeros((2, 1, 3, 9)).at[..., 5].set(0.5))
  config = SegmentConfig(top_k=2, final_softmax=True)
  encoded = regions.as_regions(found, (3, 4))
  pixels = labelling.merge_windows(
    encoded, scores, Shapes((3, 4), True, 1, (3, 4)), config
  )
  assert pixels.scores.shape[-1] == 4
  got = labelling._softmax(pixels.scores, pixels.left_out, 0.0)
  want = jax.nn.softmax(jnp.zeros(9).at[5].set(0.5))
  np.testing.assert_allclose(got[..., 2], want[5], rtol=1e-6)


def test_gate_lets_only_the_images_top_classes_through():
  text = jnp.eye(4)
  found = {
    'image': embeddings.unit_norm(jnp.array([[3.0, 2.0, 1.0, 0.0]])),
    'embeddings': embeddings.unit_norm(jnp.array([[[0.1, 0.2, 0.0, 1.0]]])),
    'stages': (jnp.ones((1, 1, 1, 1)),),
  }
  gated = score(found, text, 5.0, SegmentConfig(top_k=2))
  np.testing.assert_array_equal(gated[0, 0, 2:], [0.0, 0.0])
  assert gated[0, 0].argmax() == 1
  free = score(found, text, 5.0, SegmentConfig(top_k=None))
  assert free[0, 0].argmax() == 3


def test_relative_threshold_always_finds_something():
  found, text = random_regions(6)
  strict = SegmentConfig(background_threshold=1.0, relative_threshold=False)
  assert (segment(found, text, 1.0, (6, 8), strict) == 0).all()
  relative = dataclasses.replace(strict, relative_threshold=True)
  assert (score(found, text, 1.0, relative)[..., 0] == 0).any(1).all()


def test_a_constant_background_competes_as_a_class():
  found, text = random_regions(7)
  config = SegmentConfig(background_threshold=0.35, relative_threshold=False)
  constant = dataclasses.replace(config, constant_background=True)
  table = score(found, text, 9.0, constant)
  np.testing.assert_array_equal(table[..., 0], np.float32(0.35))
  released = score(found, text, 9.0, config)
  lost = released[..., 1:].max(-1) < np.float32(0.35)
  assert lost.any() and not lost.all()
  np.testing.assert_array_equal(released[..., 0], lost)
  # At the size of the decisions it is the same; between pixels it is not.
  args = found, text, 9.0, (6, 8)
  one, two = (segment(*args, config=c) for c in (config, constant))
  np.testing.assert_array_equal(one, two)
  one, two = (
    segment(*args, config=c, output_size=(61, 83)) for c in (config, constant)
  )
  assert (np.asarray(one) != two).any()


def test_config_refuses_what_makes_no_sense():
  with pytest.raises(ValueError, match='top_k must be at least 1'):
    SegmentConfig(top_k=0)
  with pytest.raises(ValueError, match=r'background_threshold is a share in 0'):
    SegmentConfig(background_threshold=95)
