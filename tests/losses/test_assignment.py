"""Balance, sharpness and statistics of assignments, by hand and at edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.losses.assignment import (
  assignment_statistics,
  balance_loss,
  sharpness_loss,
)

B, G, N = 2, 4, 8
UNIFORM = np.full((B, G, N), 1 / G, np.float32)
COLLAPSED = np.zeros((B, G, N), np.float32)
COLLAPSED[:, 1] = 1
# Token n belongs to group n % G.
EVEN = np.tile(np.eye(G, dtype=np.float32)[:, np.arange(N) % G], (B, 1, 1))
# Each image is one group, two groups in the batch.
ONE_EACH = np.zeros((B, G, N), np.float32)
ONE_EACH[0, 0] = ONE_EACH[1, 3] = 1


@pytest.mark.parametrize(
  'soft, balance, sharpness',
  [
    (UNIFORM, 0, np.log(G)),
    (COLLAPSED, np.log(G), 0),
    (EVEN, 0, 0),
    (ONE_EACH, np.log(2), 0),
  ],
  ids=['uniform', 'collapsed', 'even', 'one_each'],
)
def test_hand_values_with_finite_gradients(soft, balance, sharpness):
  soft = jnp.asarray(soft)
  for loss, expected in [(balance_loss, balance), (sharpness_loss, sharpness)]:
    value, grad = jax.value_and_grad(loss)(soft)
    np.testing.assert_allclose(value, expected, atol=1e-6)
    assert np.isfinite(grad).all()


def test_a_random_assignment_equals_plain_numpy():
  logits = np.random.default_rng(0).normal(size=(B, G, N))
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  mean = p.mean(axis=(0, 2))
  soft = jnp.asarray(p, jnp.float32)
  expected = np.log(G) + np.sum(mean * np.log(mean))
  np.testing.assert_allclose(balance_loss(soft), expected, atol=1e-6)
  expected = -np.mean(np.sum(p * np.log(p), axis=1))
  np.testing.assert_allclose(sharpness_loss(soft), expected, rtol=1e-5)


def test_descent_spreads_and_sharpens():
  logits = jax.random.normal(jax.random.key(0), (B, G, N))
  logits = logits.at[:, 0].add(3.0)  # nearly collapsed

  def loss(logits):
    soft = jax.nn.softmax(logits, axis=1)
    return balance_loss(soft) + 0.3 * sharpness_loss(soft)

  def step(logits, _):
    return logits - 3.0 * jax.grad(loss)(logits), None

  before = assignment_statistics(jax.nn.softmax(logits, axis=1))
  logits, _ = jax.lax.scan(step, logits, length=200)
  after = assignment_statistics(jax.nn.softmax(logits, axis=1))
  assert after['groups_in_use'] > before['groups_in_use'] + 1
  assert after['entropy'] < before['entropy']


@pytest.mark.parametrize(
  'soft, in_use, winning, per_image, largest, entropy',
  [
    (COLLAPSED, 1, 1, 1, 1, 0),
    (EVEN, G, G, G, 1 / G, 0),
    (ONE_EACH, 2, 2, 1, 0.5, 0),
    (0.5 * EVEN + 0.5 * UNIFORM, G, G, G, 1 / G, None),
  ],
  ids=['collapsed', 'even', 'one_each', 'soft'],
)
def test_statistics_by_hand(soft, in_use, winning, per_image, largest, entropy):
  if entropy is None:
    entropy = -(0.625 * np.log(0.625) + 3 * 0.125 * np.log(0.125))
  actual = jax.jit(assignment_statistics)(jnp.asarray(soft))
  expected = {
    'groups_in_use': in_use,
    'groups_winning': winning,
    'groups_per_image': per_image,
    'largest_share': largest,
    'entropy': entropy,
  }
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)


def test_a_group_that_wins_under_one_percent_does_not_count():
  soft = np.zeros((1, G, 400), np.float32)
  soft[0, 0, :397], soft[0, 1, 397:] = 1, 1  # 3 of 400 tokens: 0.75 %
  assert assignment_statistics(jnp.asarray(soft))['groups_winning'] == 1
  soft[0, 0, 396], soft[0, 1, 396] = 0, 1  # 4 of 400: 1 %
  assert assignment_statistics(jnp.asarray(soft))['groups_winning'] == 2
