"""The learned background: its loss, and that it is not there when off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.gvit_s import get_config
from groupvit_jax.convert import export
from groupvit_jax.losses.background import background_loss
from groupvit_jax.models import build
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib

ON = 'loss.background_weight=0.5'
SMALL = (
  'size=16,patch=8,width=16,depths=1x0,model.num_heads=2,batch=4,'
  'text.width=16,text.depth=1,text.num_heads=2,joint.embed_dim=16'
)


def unit(rng, *shape):
  x = rng.standard_normal(shape).astype(np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def random_batch(b=8, g=3, k=2, e=6, seed=0):
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, 5, (b, k)).astype(np.int32)
  return unit(rng, b, g, e), unit(rng, b, k, e), ids


def plain(groups, nouns, token, scale, ids):
  """The definition, pair by pair."""
  present, absent = [], []
  for i, own in enumerate(ids):
    level = groups[i] @ token[:-1] + token[-1]
    margin = [
      [(groups[i] @ n - level).max() for n in nouns[j]] for j in range(len(ids))
    ]
    margin = scale * np.array(margin)
    present.append(np.log1p(np.exp(-margin[i])).mean())
    foreign = ~np.isin(ids, own)
    absent.append(np.log1p(np.exp(margin[foreign])).mean())
  return (np.mean(present) + np.mean(absent)) / 2


def test_the_loss_is_its_definition_chunked_and_sharded(mesh8):
  groups, nouns, ids = random_batch()
  token = np.random.default_rng(1).standard_normal(7).astype(np.float32) / 3
  want = plain(groups, nouns, token, 5.0, ids)
  for options in ({}, {'chunk_size': 3}, {'mesh': mesh8}):
    loss = jax.jit(
      functools.partial(background_loss, noun_ids=jnp.asarray(ids), **options)
    )
    np.testing.assert_allclose(loss(groups, nouns, token, 5.0), want, rtol=1e-5)


def test_it_finds_the_level_between_what_is_there_and_what_is_not():
  # Nouns are axes; every image has groups at .7 of its own two and .3 of all
  # others: level .5 parts them, wherever the vector points.
  axes = np.eye(8, dtype=np.float32)
  own = np.array([[i, (i + 1) % 8] for i in range(8)], np.int32)
  groups = np.full((8, 2, 8), 0.3, np.float32)
  for i, pair in enumerate(own):
    groups[i, 0, pair[0]] = groups[i, 1, pair[1]] = 0.7
  arrays = map(jnp.asarray, (groups, axes[own]))
  objective = functools.partial(
    background_loss, *arrays, logit_scale=20.0, noun_ids=jnp.asarray(own)
  )
  token = jnp.zeros(9)
  optimizer = optax.adam(0.02)

  @jax.jit
  def step(token, opt_state):
    value, gradient = jax.value_and_grad(objective)(token)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(token, updates), opt_state, value

  state, values = optimizer.init(token), []
  for _ in range(150):
    token, state, value = step(token, state)
    values.append(float(value))
  assert values[-1] < 0.2 < values[0]
  level = np.asarray(groups @ token[:-1] + token[-1])
  assert (np.abs(level - 0.5) < 0.1).all()


@functools.cache
def first(options):
  """A task, its first variables and a batch."""
  config = get_config(','.join(filter(None, ['demo', SMALL, options])))
  task = task_lib.make(config, 50)
  rng = np.random.default_rng(0)
  batch = {
    name: jnp.asarray(rng.integers(1, 40, x.shape), x.dtype)
    for name, x in state_lib.abstract_batch(config, 4).items()
  }
  return task, jax.jit(task.init)(jax.random.key(0), batch), batch


def made(options):
  """The same, in dictionaries that a test may change."""
  return jax.tree.map(lambda x: x, first(options))


def gradient(options):
  task, variables, batch = made(options)

  def objective(params):
    value, (_, metrics) = task.loss_fn(
      {**variables, 'params': params}, batch, jax.random.key(1)
    )
    return value, metrics

  run = jax.jit(jax.value_and_grad(objective, has_aux=True))
  (value, metrics), gradients = run(variables['params'])
  return variables, value, metrics, gradients


def test_off_there_is_nothing_and_on_all_else_is_as_before():
  variables, value, metrics, gradients = gradient('')
  with_it, larger, further, trained = gradient(ON)
  assert 'background' not in metrics
  token = with_it['params'].pop('background_token')
  assert token.shape == (17,) and not token.any()
  jax.tree.map(np.testing.assert_array_equal, with_it, variables)
  np.testing.assert_allclose(
    larger, value + 0.5 * further['background'], rtol=1e-6
  )
  # The token learns, and nothing else learns anything from it.
  assert jnp.abs(trained.pop('background_token')).sum() > 0
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    trained,
    gradients,
  )


def test_regions_tell_how_near_each_group_is_to_it():
  task, variables, batch = made(ON)
  token = jnp.arange(17.0) / 17
  variables['params']['background_token'] = token
  regions = jax.jit(task.predict_fns['regions'])(variables, batch['image'])
  want = regions['embeddings'] @ token[:-1] + token[-1]
  np.testing.assert_allclose(regions['background'], want, rtol=1e-5)
  off, variables, _ = made('')
  assert 'background' not in jax.eval_shape(
    off.predict_fns['regions'], variables, batch['image']
  )


def test_an_architecture_names_it_only_where_it_is_on():
  off, on = (
    task_lib.architecture(get_config(arg), 50) for arg in ('demo', f'demo,{ON}')
  )
  assert on == off | {'learned_background': True}
  assert not build.build(off).learned_background
  assert build.build(on).learned_background
  # The config of a run from before it existed.
  old = get_config('demo').to_dict()
  del old['loss']['background_weight']
  assert task_lib.architecture(old, 50) == off
  assert 'it has learned a background' in export.inexpressible(on)


def test_it_cannot_be_learned_without_nouns():
  config = get_config(f'demo,nouns=0,{ON}')
  with pytest.raises(ValueError, match='a background is learned from nouns'):
    config_lib.check(config)
