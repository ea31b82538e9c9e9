"""Zero-shot segmentation: each released step by hand, the evaluator by design.

Stubs that are right by design must score exactly 1, the worst exactly 0.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from stub_models import (
  GROUPS,
  NAMES,
  PERFECT,
  TEMPLATES,
  WORST,
  Stub,
  batches,
  tokenizer,
)

from groupvit_jax import sharding
from groupvit_jax.evaluation import segmentation, soft_maps, zero_shot
from groupvit_jax.evaluation.segmentation import SegmentConfig
from groupvit_jax.evaluation.segmentation_evaluator import SegmentationEvaluator

segment = jax.jit(
  segmentation.segment, static_argnames=('size', 'config', 'output_size')
)


def make_evaluator(batches_fn=None, **kwargs):
  return SegmentationEvaluator(
    batches_fn or batches(),
    kwargs.pop('class_names', NAMES),
    tokenizer,
    TEMPLATES,
    label_groups=kwargs.pop('label_groups', GROUPS),
    **kwargs,
  )


def random_regions(seed=0, b=2, g=3, e=6, c=7, grid=(3, 4)):
  keys = jax.random.split(jax.random.key(seed), 4)
  normal = jax.random.normal
  return {
    'image': zero_shot.unit(normal(keys[0], (b, e))),
    'embeddings': zero_shot.unit(normal(keys[1], (b, g, e))),
    'stages': (jax.nn.softmax(3 * normal(keys[2], (b, *grid, g))),),
  }, zero_shot.unit(normal(keys[3], (c, e)))


def released_labels(regions, text, scale, size, threshold=None, top_k=5):
  """The released steps in plain numpy, picture by picture.

  NVlabs/GroupViT segmentation/evaluation/group_vit_seg.py.
  """
  labels = []
  maps = np.asarray(soft_maps.resize_maps(regions['stages'][-1], size))
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
  got = soft_maps.resize_maps(maps, (1, 4))
  np.testing.assert_allclose(got.ravel(), [0.0, 1.0, 3.0, 4.0], rtol=1e-6)


def test_groups_are_decided_after_enlarging():
  # Group 1 wins 2 of 3 tokens, but between them the enlarged maps give group 0
  # the larger part: deciding on the token grid would give 6 pixels to group 1.
  soft = jnp.array([[0.45, 0.55], [0.9, 0.1], [0.45, 0.55]]).reshape(1, 1, 3, 2)
  got = soft_maps.pixel_groups(soft, (1, 9))
  np.testing.assert_array_equal(got[0, 0], [1, 1, 0, 0, 0, 0, 0, 1, 1])


def test_gate_lets_only_the_pictures_top_classes_through():
  text = jnp.eye(4)
  image = zero_shot.unit(jnp.array([[3.0, 2.0, 1.0, 0.0]]))
  groups = zero_shot.unit(jnp.array([[[0.1, 0.2, 0.0, 1.0]]]))
  gated = segmentation.group_scores(
    image, groups, text, 5.0, SegmentConfig(top_k=2)
  )
  np.testing.assert_array_equal(gated[0, 0, 2:], [0.0, 0.0])
  assert gated[0, 0].argmax() == 1
  free = segmentation.group_scores(
    image, groups, text, 5.0, SegmentConfig(top_k=None)
  )
  assert free[0, 0].argmax() == 3


def test_score_is_the_product_of_the_two_softmaxes():
  regions, text = random_regions()

  def score(**kw):
    config = SegmentConfig(**kw)
    return segmentation.group_scores(
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
  fixed = segmentation.group_scores(*args, 3.0, SegmentConfig(scale=20.0))
  np.testing.assert_allclose(fixed, segmentation.group_scores(*args, 20.0))


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
  groups = segmentation.group_scores(
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
  want = soft_maps.resize_maps(scores, (13, 11)).argmax(-1)
  np.testing.assert_array_equal(got, want)


def test_relative_threshold_always_finds_something():
  regions, text = random_regions(6)
  strict = SegmentConfig(background_threshold=1.0, relative_threshold=False)
  assert (segmentation.segment(regions, text, 1.0, (6, 8), strict) == 0).all()
  relative = dataclasses.replace(strict, relative_threshold=True)
  args = regions['image'], regions['embeddings'], text, 1.0, relative
  best = segmentation.group_scores(*args).max((1, 2))
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
  groups = segmentation.group_scores(*args, constant)
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


def test_a_perfect_model_scores_exactly_one():
  figures = dict(make_evaluator().run(Stub().predict_fns, PERFECT))
  for name in (
    'miou',
    'miou_things',
    'miou_grounds',
    'pixel_accuracy',
    'mean_accuracy',
    'oracle_miou',
    'oracle_miou_things',
    'oracle_miou_grounds',
    'image_recall',
    *(f'iou/{name}' for name in NAMES),
  ):
    assert figures[name] == 1.0, name
  assert figures['images'] == 8


def test_the_worst_model_scores_zero_but_its_oracle_is_perfect():
  figures = dict(make_evaluator().run(Stub().predict_fns, WORST))
  assert figures['miou'] == 0.0
  assert figures['miou_things'] == 0.0
  assert figures['pixel_accuracy'] == 0.0
  assert figures['image_recall'] < 1.0
  # Its borders are right, only the words are not: a labelling error.
  assert figures['oracle_miou'] == 1.0
  assert figures['oracle_miou_things'] == 1.0


def test_figures_agree_with_sklearn_on_an_imperfect_model():
  start = batches(num_images=6, batch_size=3, size=12)
  noise = np.random.default_rng(0).random((6, 12, 12)) < 0.3

  def noisy():
    for i, batch in enumerate(start()):
      image = batch['image'].copy()
      image[noise[3 * i : 3 * i + 3]] = 2
      label = batch['label'].copy()
      label[:, 0] = 255
      yield {**batch, 'image': image, 'label': label}

  stub = Stub()
  evaluator = make_evaluator(noisy)
  result = evaluator.evaluate(stub.predict_fns, PERFECT)
  truth, prediction = [], []
  for batch in noisy():
    truth.append(batch['label'])
    prediction.append(
      evaluator.predict(stub.predict_fns, PERFECT, batch['image'])['prediction']
    )
  truth, prediction = np.concatenate(truth), np.concatenate(prediction)
  valid = truth != 255
  want = sklearn.metrics.confusion_matrix(
    truth[valid], prediction[valid], labels=range(len(NAMES))
  )
  np.testing.assert_array_equal(result.confusion_matrix, want)
  figures = dict(result.figures())
  jaccard = sklearn.metrics.jaccard_score(
    truth[valid], prediction[valid], average=None
  )
  assert figures['miou'] == pytest.approx(jaccard.mean())
  assert figures['miou_things'] == pytest.approx(jaccard[3:].mean())
  assert 0.0 < figures['miou'] < 1.0


def test_padded_examples_and_ignored_pixels_count_nothing():
  # 5 pictures in batches of 4: three padded rows with wrong truth.
  padded = make_evaluator(batches(num_images=5, batch_size=4))
  exact = make_evaluator(batches(num_images=5, batch_size=1))
  stub = Stub()
  for variables in (PERFECT, WORST):
    a = padded.evaluate(stub.predict_fns, variables)
    b = exact.evaluate(stub.predict_fns, variables)
    np.testing.assert_array_equal(a.confusion_matrix, b.confusion_matrix)
    np.testing.assert_array_equal(
      a.oracle_confusion_matrix, b.oracle_confusion_matrix
    )
    np.testing.assert_allclose(a.group_usage, b.group_usage, rtol=1e-6)
    assert a.image_recall == pytest.approx(b.image_recall)
    assert a.images == b.images == 5
  assert a.confusion_matrix.sum() == 5 * 8 * 8


def test_classes_that_do_not_occur_leave_the_means():
  def two_classes():
    yield {
      'image': np.full((2, 4, 4, 3), 3, np.uint8),
      'label': np.full((2, 4, 4), 3, np.int32),
    }

  evaluator = make_evaluator(two_classes)
  figures = dict(evaluator.run(Stub().predict_fns, PERFECT))
  assert figures['miou'] == 1.0
  assert figures['iou/dog'] == 1.0
  assert 'iou/grass' not in figures
  assert 'miou_grounds' not in figures
  assert all(np.isfinite(value) for value in figures.values())


def test_background_class_is_the_first_and_has_no_prompt():
  names = ('background', *NAMES)
  start = batches(num_images=4, batch_size=4)

  def shifted():
    for batch in start():
      yield {**batch, 'label': batch['label'] + 1}

  config = SegmentConfig(background_threshold=0.9)
  evaluator = make_evaluator(shifted, class_names=names, config=config)
  assert dict(evaluator.run(Stub().predict_fns, PERFECT))['miou'] == 1.0


def test_group_statistics_by_hand():
  def halves():  # each picture is half dog, half boat
    image = np.zeros((2, 4, 4, 3), np.uint8)
    image[:, :, :2], image[:, :, 2:] = 3, 4
    yield {'image': image, 'label': image[..., 0].astype(np.int32)}

  evaluator = make_evaluator(halves)
  result = evaluator.evaluate(Stub().predict_fns, PERFECT)
  np.testing.assert_allclose(result.group_usage, [0, 0, 0, 0.5, 0.5, 0, 0])
  figures = dict(result.figures())
  assert figures['groups_in_use'] == pytest.approx(2.0)
  assert figures['groups_winning'] == 2.0
  assert figures['groups_per_image'] == pytest.approx(2.0)
  assert figures['largest_share'] == pytest.approx(0.5)


def test_nothing_recompiles_between_evaluations():
  stub = Stub()
  evaluator = make_evaluator(batches(num_images=9, batch_size=4))
  for variables in (PERFECT, WORST, PERFECT):
    dict(evaluator.run(stub.predict_fns, variables))
  # The model is traced once for three passes of three batches.
  assert stub.traces['regions'] == 1
  assert evaluator._measure._cache_size() == 1
  # As a training loop calls it: variables live on the device.
  on_device = jax.device_put(PERFECT)
  dict(evaluator.run(stub.predict_fns, on_device))
  size = evaluator._measure._cache_size()
  traces = dict(stub.traces)
  dict(evaluator.run(stub.predict_fns, on_device))
  assert evaluator._measure._cache_size() == size
  assert stub.traces == traces


def test_eight_devices_give_the_same_counts_to_the_last_pixel(mesh8):
  stub = Stub()
  start = batches(num_images=13, batch_size=8)
  one = make_evaluator(start).evaluate(stub.predict_fns, WORST)
  evaluator = make_evaluator(start, mesh=mesh8)
  eight = evaluator.evaluate(stub.predict_fns, WORST)
  np.testing.assert_array_equal(one.confusion_matrix, eight.confusion_matrix)
  np.testing.assert_array_equal(
    one.oracle_confusion_matrix, eight.oracle_confusion_matrix
  )
  np.testing.assert_allclose(one.group_usage, eight.group_usage, rtol=1e-6)
  evaluator.evaluate(stub.predict_fns, PERFECT)
  assert evaluator._measure._cache_size() == 1


def test_predict_works_on_a_mesh_with_any_number_of_pictures(mesh8):
  variables = sharding.replicate(PERFECT, mesh8)
  images = next(iter(batches(num_images=3, batch_size=3)()))['image']
  evaluator = make_evaluator(mesh=mesh8)
  shown = evaluator.predict(Stub().predict_fns, variables, images)
  np.testing.assert_array_equal(shown['prediction'], images[..., 0])


def test_predict_gives_labels_and_the_groups_of_every_stage():
  stub = Stub()
  images = next(iter(batches(size=6)()))['image']
  shown = make_evaluator().predict(stub.predict_fns, PERFECT, images)
  np.testing.assert_array_equal(shown['prediction'], images[..., 0])
  first, final = shown['groups']
  np.testing.assert_array_equal(first, 2 * images[..., 0].astype(int))
  np.testing.assert_array_equal(final, images[..., 0])


def test_says_what_is_wrong_with_the_data():
  stub = Stub()

  def labelled(value):
    def start():
      yield {
        'image': np.zeros((1, 4, 4, 3), np.uint8),
        'label': np.full((1, 4, 4), value, np.int32),
      }

    return start

  with pytest.raises(ValueError, match='Truth holds label 7, but there are 7'):
    make_evaluator(labelled(7)).evaluate(stub.predict_fns, PERFECT)
  with pytest.raises(ValueError, match='No pixel of the evaluation set counts'):
    make_evaluator(labelled(255)).evaluate(stub.predict_fns, PERFECT)
  with pytest.raises(ValueError, match='gave no batches'):
    make_evaluator(lambda: iter(())).evaluate(stub.predict_fns, PERFECT)
  with pytest.raises(ValueError, match=r"names classes that .*\['horse'\]"):
    make_evaluator(label_groups={'things': ['dog', 'horse']})
  with pytest.raises(ValueError, match='this model does not group'):
    make_evaluator().evaluate(Stub(grouped=False).predict_fns, PERFECT)
