"""Building blocks against plain numpy, torch's conventions and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.models import layers


def plain_attention(q, k, v, heads, mask):
  out = np.zeros_like(q)
  size = q.shape[-1] // heads
  for h in range(heads):
    s = slice(h * size, (h + 1) * size)
    logits = q[:, :, s] @ k[:, :, s].transpose(0, 2, 1) / np.sqrt(size)
    weights = np.where(mask, np.exp(logits), 0)
    weights /= weights.sum(-1, keepdims=True)
    out[:, :, s] = weights @ v[:, :, s]
  return out


def test_norms_are_exact_far_from_zero(tiny):
  x = jnp.asarray(
    np.random.default_rng(0).normal(100, 1, (64, 32)), jnp.float32
  )
  double = np.asarray(x, np.float64)
  norm = layers.layer_norm(jnp.float32)
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  centred = double - double.mean(1, keepdims=True)
  plain = centred / np.sqrt(centred.var(1, keepdims=True) + 1e-5)
  # 100 has an ulp of 7.6e-6; the fast variance would be off by 9e-3.
  tiny.assert_near(y, plain, atol=3e-5)

  norm = layers.BatchNorm()
  variables = norm.init(jax.random.key(0), x, False)
  y, _ = norm.apply(variables, x, True, mutable='batch_stats')
  centred = double - double.mean(0)
  tiny.assert_near(y, centred / np.sqrt(centred.var(0) + 1e-5), atol=3e-5)


@pytest.mark.parametrize('masked', [False, True])
def test_attend_is_plain_attention(tiny, masked):
  q, k, v = (
    tiny.normal(2, 5, 6),
    tiny.normal(2, 7, 6, seed=1),
    tiny.normal(2, 7, 6, seed=2),
  )
  mask = np.tri(5, 7, 2, dtype=bool) if masked else None
  plain = plain_attention(
    *map(np.asarray, (q, k, v)), 3, True if mask is None else mask
  )
  mask = None if mask is None else jnp.asarray(mask)
  tiny.assert_near(layers.attend(q, k, v, 3, mask), plain)


def test_attention_needs_a_width_that_the_heads_divide(tiny):
  with pytest.raises(ValueError, match='width 6 is not divisible.*heads 4'):
    layers.Attention(4).init(jax.random.key(0), tiny.normal(1, 2, 6))


def test_softmax_is_float32_under_bfloat16(tiny):
  x = tiny.normal(1, 3, 4).astype(jnp.bfloat16)
  jaxpr = jax.make_jaxpr(lambda x: layers.attend(x, x, x, 2))(x)
  assert 'f32[1,2,3,3] = exp' in str(jaxpr)
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16


def test_bfloat16_keeps_parameters_and_comes_near_float32(tiny):
  x = tiny.normal(2, 5, 8)
  exact, rounded = layers.Block(2), layers.Block(2, dtype=jnp.bfloat16)
  variables = tiny.init(rounded, x.astype(jnp.bfloat16))
  dtypes = {p.dtype for p in jax.tree.leaves(variables)}
  assert dtypes == {jnp.dtype('float32')}
  y = rounded.apply(variables, x.astype(jnp.bfloat16))
  assert y.dtype == jnp.bfloat16
  tiny.assert_near(y.astype(jnp.float32), exact.apply(variables, x), atol=0.05)


def test_dropped_paths_are_whole_examples_and_the_rest_is_scaled_up(tiny):
  x = tiny.normal(500, 2, 4)
  block = layers.Block(2)
  variables = tiny.init(block, x)
  drops = layers.drop_paths(jax.random.key(0), (0.0, 0.25), len(x))
  kept = np.asarray(drops.kept)
  assert kept[0].all() and 0.65 < kept[1].mean() < 0.85
  never, drop = (jax.tree.map(lambda x, i=i: x[i], drops) for i in (0, 1))
  whole = block.apply(variables, x)
  tiny.assert_near(block.apply(variables, x, drop=never), whole)
  y = block.apply(variables, x, drop=drop)
  tiny.assert_near(y[~kept[1].any(0)], x[~kept[1].any(0)])
  # Zero weights of the MLP leave the attention's branch alone.
  params = variables['params']
  out = jax.tree.map(jnp.zeros_like, params['mlp']['fc2'])
  only = {'params': {**params, 'mlp': {**params['mlp'], 'fc2': out}}}
  branch = block.apply(only, x) - x
  expected = np.where(kept[1, 0, :, None, None], branch / 0.75, 0)
  tiny.assert_near(block.apply(only, x, drop=drop) - x, expected)


def test_remat_and_scanned_blocks_change_neither_output_nor_gradient(tiny):
  images = tiny.images(4)
  rngs = {'drop_path': jax.random.key(3)}
  results = []
  for platform, remat in (('cpu', False), ('cpu', True), ('tpu', True)):
    model = tiny.vit_encoder(depth=3, drop_path_rate=0.5, remat=remat)
    variables = tiny.init(model, images)

    def loss(variables, model=model):
      pooled, _ = model.apply(variables, images, train=True, rngs=rngs)
      return jnp.square(pooled - 1).mean()

    with sharding.traced_for(platform):
      # By hand: autodiff with remat marks the block in the jaxpr.
      jaxpr = str(jax.make_jaxpr(jax.grad(loss))(variables))
      assert ('remat' in jaxpr) == remat
      assert ('scan' in jaxpr) == (remat and platform == 'tpu')
      results.append(jax.jit(jax.value_and_grad(loss))(variables))
  for result in results[1:]:
    jax.tree.map(tiny.assert_near, results[0], result)


def test_a_step_lowered_for_a_tpu_holds_no_barriers_of_cpus(tiny):
  images = tiny.images(2)
  model = tiny.vit_encoder()
  variables = tiny.init(model, images)

  def loss(variables):
    return model.apply(variables, images)[0].sum()

  def barriers(platform):
    step = jax.jit(sharding.traced_for(platform)(jax.grad(loss)))
    lowered = step.trace(variables).lower(lowering_platforms=(platform,))
    return lowered.as_text().count('optimization_barrier')

  assert barriers('cpu') and not barriers('tpu')


def test_batch_norm_normalises_and_keeps_torch_statistics(tiny):
  x = 3 + 2 * tiny.normal(6, 5, 4)
  norm = layers.BatchNorm()
  variables = tiny.init(norm, x, True)
  tiny.assert_near(variables['batch_stats']['mean'], 0)  # init is no step
  y, updates = norm.apply(variables, x, True, mutable=['batch_stats'])
  rows = np.asarray(x).reshape(30, 4)
  plain = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
  tiny.assert_near(y.reshape(30, 4), plain)
  stats = updates['batch_stats']
  tiny.assert_near(stats['mean'], 0.1 * rows.mean(0))
  tiny.assert_near(stats['var'], 0.9 + 0.1 * rows.var(0, ddof=1))
  y = norm.apply(updates | {'params': variables['params']}, x, False)
  tiny.assert_near(y, (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5))


def test_batch_norm_of_one_row_is_finite(tiny):
  norm = layers.BatchNorm()
  x = tiny.normal(1, 4)
  variables = tiny.init(norm, x, True)
  y, updates = norm.apply(variables, x, True, mutable=['batch_stats'])
  assert all(np.isfinite(a).all() for a in jax.tree.leaves((y, updates)))
