"""The probe is scikit-learn's, on one device and on eight; the search."""

import jax
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.evaluation import linear_probe

linear_model = pytest.importorskip(
  'sklearn.linear_model', reason="needs scikit-learn, of the 'train' extra"
)


def data(classes, n=90, d=6):
  rng = np.random.default_rng(classes)
  labels = np.arange(n) % classes
  centres = rng.normal(size=(classes, d))
  features = centres[labels] + rng.normal(size=(n, d))
  return features.astype(np.float32), labels


@pytest.mark.parametrize('classes', [2, 5])
@pytest.mark.parametrize('strength', [1e-2, 0.316, 10.0])
def test_coefficients_are_scikit_learns(classes, strength):
  features, labels = data(classes)
  theirs = linear_model.LogisticRegression(
    C=strength, max_iter=10_000, tol=1e-10
  ).fit(features.astype(np.float64), labels)
  ours = linear_probe.fit(features, labels, classes, strength)
  weights, bias = ours.weights, ours.bias
  if classes == 2:  # one vector, of the second class against the first
    weights, bias = weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
  np.testing.assert_allclose(weights.T, theirs.coef_, rtol=0, atol=1e-5)
  intercept = theirs.intercept_ - theirs.intercept_.mean() * (classes > 2)
  np.testing.assert_allclose(bias, intercept, rtol=0, atol=1e-5)
  assert ours.steps < linear_probe.MAX_STEPS
  assert (ours.scores(features).argmax(1) == theirs.predict(features)).all()
  # Outside, numbers stay in single precision.
  assert jax.numpy.ones(1).dtype == np.float32


def test_of_several_labels_each_is_a_probe_of_its_own():
  """Examples that do not count for a class are left out of its probe."""
  features, _ = data(3)
  labels = np.random.default_rng(0).integers(-1, 2, (len(features), 3))
  ours = linear_probe.fit(features, labels, 3, 0.316)
  for i, label in enumerate(labels.T):
    counted = label != 0
    theirs = linear_model.LogisticRegression(C=0.316, tol=1e-10).fit(
      features[counted].astype(np.float64), label[counted]
    )
    for x, y in (
      (ours.weights[:, i], theirs.coef_[0]),
      (ours.bias[i], theirs.intercept_[0]),
    ):
      np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)
  chosen = linear_probe.few_shot(labels, 2, seed=0)
  assert ((labels[chosen] == 1).sum(0) >= 2).all() and len(chosen) <= 6


def test_eight_devices_find_the_same():
  features, labels = data(3, n=91)
  one = linear_probe.fit(features, labels, 3, 1.0)
  eight = linear_probe.fit(features, labels, 3, 1.0, mesh=sharding.make_mesh())
  np.testing.assert_allclose(eight.weights, one.weights, rtol=0, atol=1e-7)
  np.testing.assert_allclose(eight.bias, one.bias, rtol=0, atol=1e-7)
  again = linear_probe.fit(features, labels, 3, 1.0, start=one)
  assert again.steps <= 2
  np.testing.assert_allclose(again.weights, one.weights, rtol=0, atol=1e-7)


@pytest.mark.parametrize('peak', [-6.0, -0.5, 2.125, 6.0])
def test_the_search_finds_a_peak_of_the_grid(peak):
  tried = []

  def fit_at(strength, last):
    tried.append(strength)
    assert (last is None) == (len(tried) == 1)
    return strength

  best, scores = linear_probe.search(
    fit_at, lambda strength: -abs(np.log10(strength) - peak)
  )
  assert np.log10(best) == pytest.approx(peak)
  assert len(tried) == len(set(tried)) == len(scores) <= 7 + 2 * 4
  np.testing.assert_allclose(np.log10(tried[:7]), [-6, -4, -2, 0, 2, 4, 6])


def test_of_equal_scores_the_strongest_penalty_wins():
  best, _ = linear_probe.search(lambda c, last: c, lambda c: 1.0)
  assert best == pytest.approx(1e-6)


def test_shots_are_nested_and_equal_by_class():
  labels = np.array([0, 1, 2] * 5)
  one, four = (linear_probe.few_shot(labels, k, seed=1) for k in (1, 4))
  assert set(one) <= set(four)
  assert np.bincount(labels[four]).tolist() == [4, 4, 4]
  assert set(one) != set(linear_probe.few_shot(labels, 1, seed=2))
  for names, message in (
    ((), 'class 0 has 5'),
    (('a cat', *'bc'), "'a cat' has"),
  ):
    with pytest.raises(ValueError, match=message):
      linear_probe.few_shot(labels, 6, 0, names)
