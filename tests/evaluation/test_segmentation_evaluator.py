"""The evaluator of segmentation, by design.

Stubs that are right by design must score exactly 1, the worst exactly 0.
"""

import jax
import numpy as np
import pytest
import sklearn.metrics

from groupvit_jax import sharding
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.segmentation_evaluator import SegmentationEvaluator


def make_evaluator(stubs, batches_fn=None, **kwargs):
  return SegmentationEvaluator(
    batches_fn or stubs.batches(),
    kwargs.pop('class_names', stubs.NAMES),
    stubs.tokenizer,
    stubs.TEMPLATES,
    label_groups=kwargs.pop('label_groups', stubs.GROUPS),
    **kwargs,
  )


def test_a_perfect_model_scores_exactly_one(stubs):
  figures = dict(
    make_evaluator(stubs).run(stubs.Stub().predict_fns, stubs.PERFECT)
  )
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
    *(f'iou/{name}' for name in stubs.NAMES),
  ):
    assert figures[name] == 1.0, name
  assert figures['images'] == 8


def test_the_worst_model_scores_zero_but_its_oracle_is_perfect(stubs):
  figures = dict(
    make_evaluator(stubs).run(stubs.Stub().predict_fns, stubs.WORST)
  )
  assert figures['miou'] == 0.0
  assert figures['miou_things'] == 0.0
  assert figures['pixel_accuracy'] == 0.0
  assert figures['image_recall'] < 1.0
  # Its borders are right, only the words are not: a labelling error.
  assert figures['oracle_miou'] == 1.0
  assert figures['oracle_miou_things'] == 1.0


def test_figures_agree_with_sklearn_on_an_imperfect_model(stubs):
  start = stubs.batches(num_images=6, batch_size=3, size=12)
  noise = np.random.default_rng(0).random((6, 12, 12)) < 0.3

  def noisy():
    for i, batch in enumerate(start()):
      image = batch['image'].copy()
      image[noise[3 * i : 3 * i + 3]] = 2
      label = batch['label'].copy()
      label[:, 0] = 255
      yield {**batch, 'image': image, 'label': label}

  stub = stubs.Stub()
  evaluator = make_evaluator(stubs, noisy)
  result = evaluator.evaluate(stub.predict_fns, stubs.PERFECT)
  truth, prediction = [], []
  for batch in noisy():
    truth.append(batch['label'])
    prediction.append(
      evaluator.predict(stub.predict_fns, stubs.PERFECT, batch['image'])[
        'prediction'
      ]
    )
  truth, prediction = np.concatenate(truth), np.concatenate(prediction)
  valid = truth != 255
  want = sklearn.metrics.confusion_matrix(
    truth[valid], prediction[valid], labels=range(len(stubs.NAMES))
  )
  np.testing.assert_array_equal(result.confusion_matrix, want)
  figures = dict(result.figures())
  jaccard = sklearn.metrics.jaccard_score(
    truth[valid], prediction[valid], average=None
  )
  assert figures['miou'] == pytest.approx(jaccard.mean())
  assert figures['miou_things'] == pytest.approx(jaccard[3:].mean())
  assert 0.0 < figures['miou'] < 1.0


def test_padded_examples_and_ignored_pixels_count_nothing(stubs):
  # 5 pictures in batches of 4: three padded rows with wrong truth.
  padded = make_evaluator(stubs, stubs.batches(num_images=5, batch_size=4))
  exact = make_evaluator(stubs, stubs.batches(num_images=5, batch_size=1))
  stub = stubs.Stub()
  for variables in (stubs.PERFECT, stubs.WORST):
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


def test_classes_that_do_not_occur_leave_the_means(stubs):
  def two_classes():
    yield {
      'image': np.full((2, 4, 4, 3), 3, np.uint8),
      'label': np.full((2, 4, 4), 3, np.int32),
    }

  evaluator = make_evaluator(stubs, two_classes)
  figures = dict(evaluator.run(stubs.Stub().predict_fns, stubs.PERFECT))
  assert figures['miou'] == 1.0
  assert figures['iou/dog'] == 1.0
  assert 'iou/grass' not in figures
  assert 'miou_grounds' not in figures
  assert all(np.isfinite(value) for value in figures.values())


def test_background_class_is_the_first_and_has_no_prompt(stubs):
  names = ('background', *stubs.NAMES)
  start = stubs.batches(num_images=4, batch_size=4)

  def shifted():
    for batch in start():
      yield {**batch, 'label': batch['label'] + 1}

  config = SegmentConfig(background_threshold=0.9)
  evaluator = make_evaluator(stubs, shifted, class_names=names, config=config)
  assert (
    dict(evaluator.run(stubs.Stub().predict_fns, stubs.PERFECT))['miou'] == 1.0
  )


def test_group_statistics_by_hand(stubs):
  def halves():  # each picture is half dog, half boat
    image = np.zeros((2, 4, 4, 3), np.uint8)
    image[:, :, :2], image[:, :, 2:] = 3, 4
    yield {'image': image, 'label': image[..., 0].astype(np.int32)}

  evaluator = make_evaluator(stubs, halves)
  result = evaluator.evaluate(stubs.Stub().predict_fns, stubs.PERFECT)
  np.testing.assert_allclose(result.group_usage, [0, 0, 0, 0.5, 0.5, 0, 0])
  figures = dict(result.figures())
  assert figures['groups_in_use'] == pytest.approx(2.0)
  assert figures['groups_winning'] == 2.0
  assert figures['groups_per_image'] == pytest.approx(2.0)
  assert figures['largest_share'] == pytest.approx(0.5)


def test_nothing_recompiles_between_evaluations(stubs):
  stub = stubs.Stub()
  evaluator = make_evaluator(stubs, stubs.batches(num_images=9, batch_size=4))
  for variables in (
    stubs.PERFECT,
    stubs.WORST,
    stubs.PERFECT,
  ):
    dict(evaluator.run(stub.predict_fns, variables))
  # The model is traced once for three passes of three batches.
  assert stub.traces['regions'] == 1
  assert evaluator._measure._cache_size() == 1
  # As a training loop calls it: variables live on the device.
  on_device = jax.device_put(stubs.PERFECT)
  dict(evaluator.run(stub.predict_fns, on_device))
  size = evaluator._measure._cache_size()
  traces = dict(stub.traces)
  dict(evaluator.run(stub.predict_fns, on_device))
  assert evaluator._measure._cache_size() == size
  assert stub.traces == traces


def test_eight_devices_give_the_same_counts_to_the_last_pixel(stubs, mesh8):
  stub = stubs.Stub()
  start = stubs.batches(num_images=13, batch_size=8)
  one = make_evaluator(stubs, start).evaluate(stub.predict_fns, stubs.WORST)
  evaluator = make_evaluator(stubs, start, mesh=mesh8)
  eight = evaluator.evaluate(stub.predict_fns, stubs.WORST)
  np.testing.assert_array_equal(one.confusion_matrix, eight.confusion_matrix)
  np.testing.assert_array_equal(
    one.oracle_confusion_matrix, eight.oracle_confusion_matrix
  )
  np.testing.assert_allclose(one.group_usage, eight.group_usage, rtol=1e-6)
  evaluator.evaluate(stub.predict_fns, stubs.PERFECT)
  assert evaluator._measure._cache_size() == 1


def test_predict_works_on_a_mesh_with_any_number_of_pictures(stubs, mesh8):
  variables = sharding.replicate(stubs.PERFECT, mesh8)
  images = next(iter(stubs.batches(num_images=3, batch_size=3)()))['image']
  evaluator = make_evaluator(stubs, mesh=mesh8)
  shown = evaluator.predict(stubs.Stub().predict_fns, variables, images)
  np.testing.assert_array_equal(shown['prediction'], images[..., 0])


def test_predict_gives_labels_and_the_groups_of_every_stage(stubs):
  stub = stubs.Stub()
  images = next(iter(stubs.batches(size=6)()))['image']
  shown = make_evaluator(stubs).predict(stub.predict_fns, stubs.PERFECT, images)
  np.testing.assert_array_equal(shown['prediction'], images[..., 0])
  first, final = shown['groups']
  np.testing.assert_array_equal(first, 2 * images[..., 0].astype(int))
  np.testing.assert_array_equal(final, images[..., 0])


def test_says_what_is_wrong_with_the_data(stubs):
  stub = stubs.Stub()

  def labelled(value):
    def start():
      yield {
        'image': np.zeros((1, 4, 4, 3), np.uint8),
        'label': np.full((1, 4, 4), value, np.int32),
      }

    return start

  with pytest.raises(ValueError, match='Truth holds label 7, but there are 7'):
    make_evaluator(stubs, labelled(7)).evaluate(stub.predict_fns, stubs.PERFECT)
  with pytest.raises(ValueError, match='No pixel of the evaluation set counts'):
    make_evaluator(stubs, labelled(255)).evaluate(
      stub.predict_fns, stubs.PERFECT
    )
  with pytest.raises(ValueError, match='gave no batches'):
    make_evaluator(stubs, lambda: iter(())).evaluate(
      stub.predict_fns, stubs.PERFECT
    )
  with pytest.raises(ValueError, match=r"names classes that .*\['horse'\]"):
    make_evaluator(stubs, label_groups={'things': ['dog', 'horse']})
  with pytest.raises(ValueError, match='this model does not group'):
    make_evaluator(stubs).evaluate(
      stubs.Stub(grouped=False).predict_fns, stubs.PERFECT
    )
