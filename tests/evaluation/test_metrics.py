"""Confusion matrices, IoU, top-k and recall against hand values and sklearn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from groupvit_jax import sharding
from groupvit_jax.evaluation import metrics

CLASSES = 5


def random_maps(seed, shape=(8, 6, 7)):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, CLASSES, shape)
  label[rng.random(shape) < 0.1] = metrics.IGNORE
  return label, rng.integers(0, CLASSES, shape)


def confusion(label, prediction, mask=None):
  mask = None if mask is None else jnp.asarray(mask)
  return metrics.joint_counts(
    jnp.asarray(label), jnp.asarray(prediction), (CLASSES, CLASSES), mask
  ).sum(0)


def test_confusion_and_iou_agree_with_sklearn():
  label, prediction = random_maps(0)
  valid = label != metrics.IGNORE
  got = confusion(label, prediction)
  want = sklearn.metrics.confusion_matrix(
    label[valid], prediction[valid], labels=range(CLASSES)
  )
  np.testing.assert_array_equal(got, want)
  jaccard = sklearn.metrics.jaccard_score(
    label[valid], prediction[valid], average=None
  )
  np.testing.assert_allclose(metrics.iou(got), jaccard, rtol=1e-12)
  assert metrics.miou(got) == pytest.approx(jaccard.mean())
  accuracy = sklearn.metrics.accuracy_score(label[valid], prediction[valid])
  assert metrics.pixel_accuracy(got) == pytest.approx(accuracy)
  balanced = sklearn.metrics.balanced_accuracy_score(
    label[valid], prediction[valid]
  )
  assert metrics.mean_accuracy(got) == pytest.approx(balanced)


def test_rows_are_labels_and_columns_predictions():
  got = confusion(np.array([[0, 0, 1]]), np.array([[2, 2, 1]]))
  assert got[0, 2] == 2
  assert got[1, 1] == 1
  assert got.sum() == 3


def test_masked_examples_equal_the_subset_without_them():
  label, prediction = random_maps(1)
  mask = np.array([1, 0, 1, 1, 0, 1, 1, 0], np.float32)
  kept = mask.astype(bool)
  np.testing.assert_array_equal(
    confusion(label, prediction, mask),
    confusion(label[kept], prediction[kept]),
  )


def test_classes_absent_from_labels_and_predictions_leave_the_mean():
  # As mmseg: class 3 occurs nowhere; class 2 is only predicted, so it counts 0.
  counts = np.zeros((4, 4), np.int64)
  counts[0, 0], counts[1, 1], counts[0, 2] = 3, 5, 1
  assert np.isnan(metrics.iou(counts)[3])
  assert metrics.miou(counts) == pytest.approx((0.75 + 1.0 + 0.0) / 3)
  assert metrics.miou(counts, [1, 3]) == 1.0
  assert np.isnan(metrics.miou(counts, [3]))
  # mAcc is over the classes of the ground truth alone: 0 and 1.
  assert metrics.mean_accuracy(counts) == pytest.approx((0.75 + 1.0) / 2)


def test_nothing_counted_is_nan_not_an_error():
  counts = np.zeros((3, 3), np.int64)
  assert np.isnan(metrics.miou(counts))
  assert np.isnan(metrics.pixel_accuracy(counts))
  assert np.isnan(metrics.mean_accuracy(counts))


def test_counting_is_the_same_on_eight_devices(mesh8):
  label, prediction = random_maps(3)
  mask = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
  batch = sharding.shard_batch((label, prediction, mask), mesh8)
  count = jax.jit(lambda b: confusion(*b))
  np.testing.assert_array_equal(
    count(batch), confusion(label, prediction, mask)
  )
  # Pixels stay where they are: only tables are summed over the devices.
  assert 'all-gather' not in count.lower(batch).compile().as_text()


def test_top_k_agrees_with_sklearn():
  rng = np.random.default_rng(4)
  scores = rng.normal(size=(50, 6)).astype(np.float32)
  label = rng.integers(0, 6, 50)
  for k in (1, 3, 5):
    got = metrics.top_k_correct(jnp.asarray(scores), jnp.asarray(label), k)
    want = sklearn.metrics.top_k_accuracy_score(label, scores, k=k)
    assert float(got.mean()) == pytest.approx(want)


def test_constant_scores_are_no_success():
  got = metrics.top_k_correct(jnp.zeros((4, 4)), jnp.arange(4), 1)
  np.testing.assert_array_equal(got, [True, False, False, False])


def test_recall_by_hand():
  scores = jnp.array([[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]])
  present = jnp.array([[1, 0, 1, 0], [0, 0, 1, 1]], bool)
  np.testing.assert_allclose(metrics.recall(scores, present), [0.5, 1.0])
  none = jnp.zeros((2, 4), bool)
  np.testing.assert_allclose(metrics.recall(scores, none), [0.0, 0.0])
