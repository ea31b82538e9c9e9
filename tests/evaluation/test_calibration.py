"""Thresholds from captions, and the rules that use them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.embeddings import unit_norm
from groupvit_jax.evaluation import calibration, labelling, scoring
from groupvit_jax.evaluation import regions as regions_lib
from groupvit_jax.evaluation.config import LOWEST, SegmentConfig
from groupvit_jax.evaluation.sizes import Shapes


def rule_of(config, thresholds=None, *, cosines=True, learned=False):
  """The config with these rules for the background alone."""
  return dataclasses.replace(
    config,
    background_threshold=LOWEST,
    class_thresholds=thresholds,
    threshold_cosines=cosines,
    learned_background=learned,
  )


def regions_of(cosines, rng, width=64):
  """Regions whose groups have exactly these cosines with unit vectors."""
  batch, groups, classes = cosines.shape
  text = np.eye(classes, width, dtype=np.float32)
  embeddings = np.zeros((batch, groups, width), np.float32)
  embeddings[..., :classes] = cosines
  rest = np.sqrt(np.maximum(1 - np.square(cosines).sum(-1), 0))
  embeddings[..., classes] = rest
  maps = np.zeros((batch, 1, groups, groups), np.float32)
  maps[:, 0] = np.eye(groups)  # a pixel for each group
  image = unit_norm(jnp.asarray(embeddings.mean(1)))
  regions = {'image': image, 'embeddings': jnp.asarray(embeddings)}
  return regions | {'stages': (jnp.asarray(maps),)}, jnp.asarray(text)


def labels_of(regions, text, config, scale=20.0):
  size = regions['stages'][0].shape[1:3]
  encoded = regions_lib.as_regions(regions, size)
  classes = scoring.ClassEmbeddings(text, scale)
  scores = scoring.score(encoded, classes, config)
  shapes = Shapes(size, True, 1, size)
  labels = labelling.label(encoded, scores, shapes, None, config)
  return np.asarray(labels)[:, 0]


def random_cosines(seed=0, classes=5):
  rng = np.random.default_rng(seed)
  return (rng.random((4, 6, classes)) * 0.4).astype(np.float32), rng


@pytest.mark.parametrize('relative', [True, False])
@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.9])
def test_equal_thresholds_are_the_global_one(threshold, relative):
  regions, text = regions_of(*random_cosines())
  released = SegmentConfig(
    top_k=3, background_threshold=threshold, relative_threshold=relative
  )
  rule = rule_of(released, threshold, cosines=False)
  want = labels_of(regions, text, released)
  assert (want == 0).any()
  np.testing.assert_array_equal(labels_of(regions, text, rule), want)
  each = dataclasses.replace(rule, class_thresholds=[threshold] * 5)
  np.testing.assert_array_equal(labels_of(regions, text, each), want)


def test_each_class_is_held_to_its_own_cosine():
  cosines = np.array([[[0.5, 0.1], [0.1, 0.5], [0.1, 0.3]]], np.float32)
  regions, text = regions_of(cosines, None)
  config = SegmentConfig(relative_threshold=False)
  for thresholds, want in [
    ((0.4, 0.4), [1, 2, 0]),
    ((0.6, 0.4), [0, 2, 0]),
    ((0.4, 0.2), [1, 2, 2]),
    ((0.9,), [0, 0, 0]),
  ]:
    rule = rule_of(config, thresholds)
    assert labels_of(regions, text, rule)[0].tolist() == want
  # Something is always found, as released: what comes nearest.
  rule = rule_of(SegmentConfig(), (0.9, 0.8))
  assert labels_of(regions, text, rule)[0].tolist() == [0, 2, 0]


def test_a_cosine_does_not_depend_on_the_other_classes():
  cosines, rng = random_cosines(classes=5)
  cosines[..., 0] += 0.3
  regions, text = regions_of(cosines, rng)
  config = SegmentConfig(top_k=None, relative_threshold=False)
  few, many = text[:2], text
  by_cosine = rule_of(config, 0.35)
  by_score = rule_of(config, 0.6, cosines=False)

  def found(classes, rule):
    return labels_of(regions, classes, rule, scale=5.0) == 1

  np.testing.assert_array_equal(
    found(few, by_cosine)[found(many, by_cosine)], True
  )
  assert found(many, by_cosine).any()
  assert found(few, by_score).any() and not found(many, by_score).any()


def test_a_learned_background_is_compared_with_each_group():
  cosines = np.array([[[0.5, 0.1], [0.1, 0.5], [0.1, 0.3]]], np.float32)
  regions, text = regions_of(cosines, None)
  rule = rule_of(SegmentConfig(), learned=True)
  with pytest.raises(ValueError, match='learned no background; train it with'):
    labels_of(regions, text, rule)
  regions['background'] = jnp.asarray([[0.6, 0.2, 0.2]])
  assert labels_of(regions, text, rule)[0].tolist() == [0, 2, 2]


@pytest.mark.parametrize('softmax', [True, False])
def test_refused_groups_keep_the_order_of_their_scores(softmax):
  regions, text = regions_of(*random_cosines())
  encoded = regions_lib.as_regions(regions, (1, 6))
  classes = scoring.ClassEmbeddings(text, 20.0)
  config = SegmentConfig(
    group_softmax=softmax, gated_softmax=softmax, relative_threshold=False
  )
  scores = scoring.score(encoded, classes, config).classes
  quiet = scoring.score(encoded, classes, rule_of(config, 1.0)).classes
  np.testing.assert_array_equal(quiet[..., 0], 1)  # all is background
  quiet = quiet[..., 1:]
  np.testing.assert_array_equal(quiet.argmax(-1), scores.argmax(-1))
  assert (quiet < LOWEST).all()


def test_background_words_pass_the_gate_without_taking_a_place():
  rng = np.random.default_rng(0)
  image = unit_norm(jnp.asarray(rng.standard_normal((1, 8), np.float32)))
  text = unit_norm(jnp.asarray(rng.standard_normal((5, 8), np.float32)))
  text = text.at[0].set(-image[0])  # no word could be farther
  groups = unit_norm(jnp.asarray(rng.standard_normal((1, 3, 8), np.float32)))
  plain = SegmentConfig(top_k=2)
  words = dataclasses.replace(plain, background_prompts=True)

  def passed(config):
    encoded = regions_lib.Regions(image, groups, (), None, None)
    classes = scoring.ClassEmbeddings(text, 5.0)
    scores = scoring.score(encoded, classes, config).classes
    return np.flatnonzero((np.asarray(scores) > 0).any((0, 1))).tolist()

  assert passed(words) == [0, *passed(plain)]


def test_a_scale_that_could_do_nothing_is_refused():
  for scale in (-3, 0, float('nan')):
    with pytest.raises(ValueError, match=f'above 0, .*; got {scale}'):
      SegmentConfig(scale=scale)
  assert SegmentConfig(scale=3, group_softmax=False).scale == 3


def test_a_config_whose_rules_cannot_work_is_refused():
  with pytest.raises(ValueError, match='need one_hot and a background_thresh'):
    SegmentConfig(class_thresholds=(0.5,))
  for cosines, wrong, said in (
    (True, -1.1, r'cosines in -1\.\.1; got -1.1'),
    (True, float('nan'), r'cosines in -1\.\.1; got nan'),
    (False, -0.1, r'scores in 0\.\.1; got -0.1'),
    (False, 1.5, r'scores in 0\.\.1; got 1.5'),
  ):
    with pytest.raises(ValueError, match=said):
      SegmentConfig(
        background_threshold=0.5,
        class_thresholds=(0.5, wrong),
        threshold_cosines=cosines,
      )
  with pytest.raises(ValueError, match='need one_hot'):
    rule_of(SegmentConfig(one_hot=False), 0.5)
  with pytest.raises(ValueError, match='set background_threshold to None'):
    SegmentConfig(background_prompts=True, background_threshold=0.5)
  assert rule_of(SegmentConfig(), 1).class_thresholds == (1,)
  with pytest.raises(ValueError, match='2 numbers for 3 classes'):
    scoring.check_thresholds(2, 3)


def test_captions_name_classes_in_any_form():
  found = calibration.mentions(
    [
      'Two Butterflies on a leaf.',
      ['A cactus', 'three cacti; and a t-shirt'],
      'carpets and cats',
      '',
    ],
    ['butterfly|moth', 'leaf', 'cactus', 'car', 'cat', 't shirt'],
  )
  assert found.tolist() == [
    [True, True, False, False, False, False],
    [False, False, True, False, False, True],
    [False, False, False, False, True, False],
    [False] * 6,
  ]


def test_captions_part_what_they_name_from_what_they_do_not():
  rng = np.random.default_rng(0)
  named = rng.random((300, 3)) < [0.3, 0.3, 0.01]
  centre = np.array([0.5, 0.8, 0.5])
  values = np.where(named, centre, centre - 0.3)
  values = values + 0.03 * rng.standard_normal(values.shape)
  thresholds = calibration.from_captions(values, named)
  assert 0.3 < thresholds[0] < 0.5
  assert 0.6 < thresholds[1] < 0.8
  # Next to nothing is known of the third, so it is held to what holds for all.
  common = calibration.from_captions(values, named, prior=float('inf'))[0]
  assert abs(thresholds[2] - common) < 0.1
  with pytest.raises(ValueError, match='No caption names any of the classes'):
    calibration.from_captions(values, np.zeros_like(named))


def test_the_best_value_of_a_image_leaves_empty_groups_out():
  cosines, rng = random_cosines()
  regions, text = regions_of(cosines, rng)
  maps = np.array(regions['stages'][0])
  maps[..., -1] = 0  # the last group wins nothing
  regions['stages'] = (jnp.asarray(maps),)
  encoded = regions_lib.as_regions(regions, (8, 8))
  got = calibration.best_cosines(encoded, text)
  np.testing.assert_allclose(got, cosines[:, :-1].max(1), atol=1e-6)
