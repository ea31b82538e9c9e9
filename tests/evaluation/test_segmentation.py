"""Zero-shot segmentation: each released step by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import embeddings
from groupvit_jax.evaluation import resize, scoring, segmentation
from groupvit_jax.evaluation.config import SegmentConfig

segment = jax.jit(
  segmentation.segment, static_argnames=('size', 'config', 'output_size')
)


def random_regions(seed=0, b=2, g=3, e=6, c=7, grid=(3, 4)):
  keys = jax.random.split(jax.random.key(seed), 4)
  normal = jax.random.normal
  return {
    'image': embeddings.unit_norm(normal(keys[0], (b, e))),
    'embeddings': embeddings.unit_norm(normal(keys[1], (b, g, e))),
    'stages': (jax.nn.softmax(3 * normal(keys[2], (b, *grid, g))),),
  }, embeddings.unit_norm(normal(keys[3], (c, e)))


def released_labels(regions, text, scale, size, threshold=None, top_k=5):
  """The released steps in plain numpy, picture by picture.

  NVlabs/GroupViT segmentation/evaluation/group_vit_seg.py.
  """
  labels = []
  maps = np.asarray(resize.resize_maps(regions['stages'][-1], size))
  text = np.asarray(text)
  for image, groups, soft in zip(
    np.asarray(regions['image']),
    np.asarray(regions['embeddings']),
    maps,
    strict=True,
  ):
    one_hot = np.eye(soft.shape[-1])[soft.argmax(-1)]
    logits = scale * groups @ text.T
    p1 = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kept = np.argsort(-(text @ image))[:top_k]
    p2 = np.zeros_like(p1)
    p2[:, kept] = p1[:, kept] / p1[:, kept].sum(-1, keepdims=True)
    score = p1 * p2
    pixels = one_hot @ score
    if threshold is not None:
      limit = min(threshold, score.max())
      background = (pixels.max(-1) < limit).astype(float)
      pixels = np.concatenate([background[..., None], pixels], -1)
    labels.append(pixels.argmax(-1))
  return np.stack(labels)


def test_default_config_is_the_released_one():
  assert dataclasses.asdict(SegmentConfig()) == {
    'top_k': 5,
    'group_softmax': True,
    'gated_softmax': True,
    'one_hot': True,
    'background_threshold': None,
    'relative_threshold': True,
    'constant_background': False,
    'class_thresholds': None,
    'threshold_cosines': False,
    'learned_background': False,
    'background_prompts': False,
    'scale': None,
    'mode': 'whole',
    'short_side': None,
    'long_side': None,
    'window': None,
    'stride': None,
  }


@pytest.mark.parametrize('threshold', [None, 0.05, 0.35, 0.95])
def test_labels_follow_the_released_steps(threshold):
  config = SegmentConfig(background_threshold=threshold)
  for seed in range(5):
    regions, text = random_regions(seed)
    got = segment(regions, text, 4.0, size=(9, 16), config=config)
    want = released_labels(regions, text, 4.0, (9, 16), threshold)
    np.testing.assert_array_equal(got, want)


def test_maps_are_enlarged_as_torch_does_without_aligned_corners():
  maps = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
  got = resize.resize_maps(maps, (1, 4))
  np.testing.assert_allclose(got.ravel(), [0.0, 1.0, 3.0, 4.0], rtol=1e-6)


def test_groups_are_decided_after_enlarging():
  # Group 1 wins 2 of 3 tokens, but between them the enlarged maps give group 0
  # the larger part: deciding on the token grid would give 6 pixels to group 1.
  soft = jnp.array([[0.45, 0.55], [0.9, 0.1], [0.45, 0.55]]).reshape(1, 1, 3, 2)
  got = resize.pixel_groups(soft, (1, 9))
  np.testing.assert_array_equal(got[0, 0], [1, 1, 0, 0, 0, 0, 0, 1, 1])


def test_gate_lets_only_the_pictures_top_classes_through():
  text = jnp.eye(4)
  image = embeddings.unit_norm(jnp.array([[3.0, 2.0, 1.0, 0.0]]))
  groups = embeddings.unit_norm(jnp.array([[[0.1, 0.2, 0.0, 1.0]]]))
  gated = scoring.group_scores(image, groups, text, 5.0, SegmentConfig(top_k=2))
  np.testing.assert_array_equal(gated[0, 0, 2:], [0.0, 0.0])
  assert gated[0, 0].argmax() == 1
  free = scoring.group_scores(
    image, groups, text, 5.0, SegmentConfig(top_k=None)
  )
  assert free[0, 0].argmax() == 3


def test_score_is_the_product_of_the_two_softmaxes():
  regions, text = random_regions()

  def score(**kw):
    config = SegmentConfig(**kw)
    return scoring.group_scores(
      regions['image'], regions['embeddings'], text, 7.0, config
    )

  p1 = score(gated_softmax=False, top_k=None)
  p2 = score(group_softmax=False)
  np.testing.assert_allclose(score(), p1 * p2, rtol=1e-5)
  np.testing.assert_allclose(p2.sum(-1), 1.0, rtol=1e-5)
  assert ((p2 > 0).sum(-1) == 5).all()
  cosine = score(group_softmax=False, gated_softmax=False, top_k=None)
  np.testing.assert_allclose(cosine, regions['embeddings'] @ text.T, atol=1e-6)


def test_config_scale_replaces_the_learned_one():
  regions, text = random_regions()
  args = regions['image'], regions['embeddings'], text
  fixed = scoring.group_scores(*args, 3.0, SegmentConfig(scale=20.0))
  np.testing.assert_allclose(fixed, scoring.group_scores(*args, 20.0))


@pytest.mark.parametrize('threshold', [None, 0.2])
def test_looking_groups_up_equals_scoring_every_pixel(threshold):
  config = SegmentConfig(background_threshold=threshold)
  regions, text = random_regions(3)
  fast = segmentation.segment(regions, text, 9.0, (12, 12), config)
  scores = segmentation.segment_scores(regions, text, 9.0, (12, 12), config)
  assert scores.shape == (2, 12, 12, 7 + (threshold is not None))
  np.testing.assert_array_equal(fast, scores.argmax(-1))


def test_soft_maps_mix_the_groups_scores():
  regions, text = random_regions(4)
  config = SegmentConfig(one_hot=False)
  scores = segmentation.segment_scores(regions, text, 9.0, (3, 4), config)
  groups = scoring.group_scores(
    regions['image'], regions['embeddings'], text, 9.0
  )
  want = np.einsum('bhwg,bgc->bhwc', regions['stages'][0], groups)
  np.testing.assert_allclose(scores, want, rtol=1e-4, atol=1e-6)
  labels = segmentation.segment(regions, text, 9.0, (3, 4), config)
  np.testing.assert_array_equal(labels, want.argmax(-1))


def test_scores_are_enlarged_to_the_size_of_the_truth():
  regions, text = random_regions(5)
  got = segmentation.segment(regions, text, 9.0, (6, 8), output_size=(13, 11))
  scores = segmentation.segment_scores(regions, text, 9.0, (6, 8))
  want = resize.resize_maps(scores, (13, 11)).argmax(-1)
  np.testing.assert_array_equal(got, want)


def test_relative_threshold_always_finds_something():
  regions, text = random_regions(6)
  strict = SegmentConfig(background_threshold=1.0, relative_threshold=False)
  assert (segmentation.segment(regions, text, 1.0, (6, 8), strict) == 0).all()
  relative = dataclasses.replace(strict, relative_threshold=True)
  args = regions['image'], regions['embeddings'], text, 1.0, relative
  best = scoring.group_scores(*args).max((1, 2))
  found = segmentation.segment_scores(regions, text, 1.0, (6, 8), relative)
  # The strongest group is above its own score, so its pixels are labelled.
  strongest = (found[..., 1:].max(-1) == best[:, None, None]).any((1, 2))
  labels = segmentation.segment(regions, text, 1.0, (6, 8), relative)
  np.testing.assert_array_equal((labels > 0).any((1, 2)), strongest)


def test_a_constant_background_competes_as_a_class():
  regions, text = random_regions(7)
  config = SegmentConfig(background_threshold=0.35, relative_threshold=False)
  constant = dataclasses.replace(config, constant_background=True)
  args = regions['image'], regions['embeddings'], text, 9.0
  groups = scoring.group_scores(*args, constant)
  table = segmentation.with_background(groups, constant)
  np.testing.assert_array_equal(table[..., 0], np.float32(0.35))
  np.testing.assert_array_equal(table[..., 1:], groups)
  released = segmentation.with_background(groups, config)
  lost = groups.max(-1) < np.float32(0.35)
  assert lost.any() and not lost.all()
  np.testing.assert_array_equal(released[..., 0], lost)
  # At the size of the decisions it is the same; between pixels it is not.
  args = regions, text, 9.0, (6, 8)
  one, two = (segment(*args, config=c) for c in (config, constant))
  np.testing.assert_array_equal(one, two)
  one, two = (
    segment(*args, config=c, output_size=(61, 83)) for c in (config, constant)
  )
  assert (np.asarray(one) != two).any()


def test_numpy_and_jax_obey_one_rule_of_the_background():
  groups = np.random.default_rng(0).random((3, 4, 5), np.float32)
  for options in ({}, {'constant_background': True}):
    config = SegmentConfig(background_threshold=0.9, **options)
    host = segmentation.with_background(groups, config)
    assert isinstance(host, np.ndarray)
    device = segmentation.with_background(jnp.asarray(groups), config)
    np.testing.assert_array_equal(host, device)


def test_config_refuses_what_makes_no_sense():
  with pytest.raises(ValueError, match='top_k must be at least 1'):
    SegmentConfig(top_k=0)
  with pytest.raises(ValueError, match=r'background_threshold is a share in 0'):
    SegmentConfig(background_threshold=95)
