"""The released optimisation, against its definition spelled out in Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from groupvit_jax.training import optimizer

# Released: 30 epochs of 6,997 steps, of which 2 are warm-up.
WARMUP, TOTAL = 2 * 6_997, 30 * 6_997


def released_rates(updates, base, warmup, total, init, end):
  """The rate each update uses when a scheduler is stepped after it."""
  rate, rates = init if warmup else base, []
  for u in range(updates):
    rates.append(rate)
    if u < warmup:
      rate = init + u * (base - init) / warmup
    elif u < total:
      rate = end + 0.5 * (base - end) * (1 + math.cos(math.pi * u / total))
    else:
      rate = end
  return rates


@pytest.mark.parametrize('warmup', [0, 1, 4])
def test_schedule_equals_a_scheduler_stepped_after_the_update(warmup):
  arguments = (1.6e-3, warmup, 20, 4e-6, 4e-5)
  schedule = optimizer.make_schedule(*arguments)
  expected = released_rates(25, *arguments)
  actual = jax.vmap(schedule)(jnp.arange(25))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_schedule_at_the_released_steps():
  schedule = optimizer.make_schedule(1.6e-3, WARMUP, TOTAL)
  slope = (1.6e-3 - 4e-6) / WARMUP
  for update, rate in [
    (0, 4e-6),
    (1, 4e-6),
    (2, 4e-6 + slope),
    (WARMUP, 1.6e-3 - slope),
    (WARMUP + 1, 1.58295e-3),
    (TOTAL // 2 + 1, 8.2e-4),
    (TOTAL + 1, 4e-5),
    (2 * TOTAL, 4e-5),
  ]:
    np.testing.assert_allclose(schedule(update), rate, rtol=2e-5)


def parameters():
  return {
    'encoder': {
      'pos_embed': jnp.ones((1, 4, 3)),
      'group_token': jnp.ones((1, 2, 3)),
      'dense': {'kernel': jnp.ones((3, 3)), 'bias': jnp.ones(3)},
      'heads': {'kernel': jnp.ones((3, 3)), 'bias': jnp.ones((3, 1))},
      'norm': {'scale': jnp.ones(3), 'bias': jnp.ones(3)},
    },
    'token_embedding': {'embedding': jnp.ones((5, 3))},
    'logit_scale': jnp.ones(()),
  }


DECAYED = {
  'encoder': {
    'pos_embed': True,
    'group_token': True,
    'dense': {'kernel': True, 'bias': False},
    'heads': {'kernel': True, 'bias': False},
    'norm': {'scale': False, 'bias': False},
  },
  'token_embedding': {'embedding': True},
  'logit_scale': True,
}


def test_decay_mask_follows_the_released_rule():
  assert optimizer.decay_mask(parameters()) == DECAYED


def test_without_gradients_only_decayed_parameters_shrink():
  params = parameters()
  adamw = optimizer.make_optimizer(0.1)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = adamw.update(zeros, adamw.init(params), params)
  params = optax.apply_updates(params, updates)
  expected = jax.tree.map(lambda d: 1 - 0.1 * 0.05 if d else 1.0, DECAYED)
  jax.tree.map(
    lambda p, e: np.testing.assert_allclose(p, e, rtol=1e-6), params, expected
  )


@pytest.mark.parametrize('clip_norm', [5.0, None])
def test_updates_equal_adamw_written_out(clip_norm):
  rng = np.random.default_rng(0)
  p = rng.normal(size=(3, 2))
  gradients = [rng.normal(size=(3, 2)) * size for size in (10, 0.1, 10)]
  params, m, v = {'kernel': jnp.asarray(p, jnp.float32)}, 0, 0
  adamw = optimizer.make_optimizer(1e-2, clip_norm=clip_norm)
  state = adamw.init(params)
  for t, g in enumerate(gradients, start=1):
    updates, state = adamw.update({'kernel': jnp.asarray(g)}, state, params)
    params = optax.apply_updates(params, updates)
    if clip_norm:
      g = g * min(1, clip_norm / np.linalg.norm(g))
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    root = np.sqrt(v / (1 - 0.999**t)) + 1e-8
    p = p * (1 - 1e-2 * 0.05) - 1e-2 * m / (1 - 0.9**t) / root
  np.testing.assert_allclose(params['kernel'], p, rtol=1e-5)


def test_muon_orthogonalises_kernels_and_nothing_else():
  params = parameters()
  rng = np.random.default_rng(0)
  gradients = jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params
  )
  muon = optimizer.make_optimizer(
    0.1, name='muon', weight_decay=0.0, clip_norm=None
  )
  updates, _ = muon.update(gradients, muon.init(params), params)
  kernel = updates['encoder']['dense']['kernel']
  # Newton-Schulz brings singular values near 1; scaled to AdamW's size.
  singular = np.linalg.svd(kernel, compute_uv=False) / (0.1 * 0.2 * 3**0.5)
  assert singular.min() > 0.5 and singular.max() < 1.3
  # The first step of Adam (with Nesterov's momentum) has one size throughout.
  table = np.abs(updates['token_embedding']['embedding'])
  np.testing.assert_allclose(table, table[0, 0], rtol=1e-3)


def test_muon_decays_kernels_alone():
  params = parameters()
  muon = optimizer.make_optimizer(0.1, name='muon')
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = muon.update(zeros, muon.init(params), params)
  decayed = jax.tree.map(lambda u: bool(jnp.abs(u).max() > 0), updates)
  nothing = jax.tree.map(lambda d: False, DECAYED)
  expected = nothing | {'encoder': dict(nothing['encoder'])}
  for name in ('dense', 'heads'):
    expected['encoder'][name] = {'kernel': True, 'bias': False}
  assert decayed == expected


def test_an_unknown_optimizer_names_the_known():
  with pytest.raises(ValueError, match="'sgd'; choose one of .'adamw', 'muon'"):
    optimizer.make_optimizer(0.1, name='sgd')
