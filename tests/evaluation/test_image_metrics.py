"""CLIP's metrics by hand values, and those that scikit-learn has against it."""

import numpy as np
import pytest

from groupvit_jax.evaluation import image_metrics

RNG = np.random.default_rng(0)


def one_hot(labels, classes):
  return np.eye(classes)[np.asarray(labels)]


def test_mean_per_class_weighs_classes_alike():
  labels = np.array([0, 0, 0, 1])
  scores = one_hot([0, 0, 1, 1], 3)  # the third class does not occur
  assert image_metrics.accuracy(scores, labels) == 0.75
  assert image_metrics.mean_per_class(scores, labels) == (2 / 3 + 1) / 2


def test_mean_of_top1_and_top5():
  scores = np.tile(np.arange(10.0)[::-1], (4, 1))
  labels = np.array([0, 4, 5, 9])
  # Of four, one is first and two are among the first five.
  assert image_metrics.mean_top1_top5(scores, labels) == (0.25 + 0.5) / 2
  constant = np.zeros((2, 10))
  assert image_metrics.mean_top1_top5(constant, np.array([0, 5])) == 0.5


def test_roc_auc_by_hand():
  scores = np.array([[0, 1.0], [0, 2.0], [0, 2.0], [0, 3.0]])
  labels = np.array([0, 1, 0, 1])
  # Pairs of a positive and a negative: three in order, one tie.
  assert image_metrics.roc_auc(scores, labels) == 3.5 / 4
  with pytest.raises(ValueError, match='both occur'):
    image_metrics.roc_auc(scores, np.zeros(4, int))


def test_roc_auc_is_scikit_learns():
  metrics = pytest.importorskip('sklearn.metrics')
  labels = RNG.integers(0, 2, 200)
  scores = RNG.integers(0, 9, (200, 2)).astype(float)
  wanted = metrics.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
  assert image_metrics.roc_auc(scores, labels) == pytest.approx(wanted)


def test_11_point_precision_by_hand():
  # In order of scores: right, wrong, right, and one that does not count.
  scores = np.array([[0.9], [0.8], [0.7], [0.85]])
  labels = np.array([[1], [-1], [1], [0]])
  # Recalls to .5 at precision 1, above at 2 / 3.
  wanted = (6 * 1 + 5 * 2 / 3) / 11
  assert image_metrics.map_11_point(scores, labels) == pytest.approx(wanted)
  perfect = 2 * one_hot([0, 1, 2], 3) - 1
  assert image_metrics.map_11_point(perfect, perfect.astype(int)) == 1


def test_a_perfect_classifier_has_every_metric_at_one():
  labels = np.array([0, 1, 1, 0])
  scores = one_hot(labels, 2)
  for name, metric in image_metrics.METRICS.items():
    if name != 'map_11_point':
      assert metric(scores, labels) == 1, name
