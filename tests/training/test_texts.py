"""Texts once, cut, with few rows of the vocabulary: equal to the whole form."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib
from groupvit_jax.training import texts

pytestmark = pytest.mark.usefixtures('quick_compilation')

CONFIG = pathlib.Path(__file__).parents[2] / 'configs/gvit_s.py'
TINY = (
  'demo,batch=8,size=16,patch=8,width=16,model.num_heads=1,depths=1x0,'
  'text.width=16,text.num_heads=1,joint.embed_dim=8,tokens=3x0,groups=3x0,'
  'optimizer.warmup_steps=1,steps=50,optimizer.eps=1e-2'
)
VOCABULARY, END = 2000, 1999


def make_batch(seed):
  """Batches of texts of 3 to 11 tokens, of which many are equal."""
  rng = np.random.default_rng(seed)
  choice = np.zeros((12, 20), np.int32)
  for row in choice:
    length = rng.integers(2, 11)
    row[:length] = rng.integers(1, 60 + 40 * seed, length)
    row[length] = END
  return {
    'image': rng.integers(0, 255, (8, 16, 16, 3)).astype(np.uint8),
    'tokens': choice[rng.integers(0, 12, (8, 4))],
  }


def test_distinct_texts_are_those_of_the_batch():
  tokens = make_batch(0)['tokens']
  out = texts.distinct(tokens, 8)
  rows, which = out['distinct'], out['which']
  assert rows.shape == (16, 16)  # 12 or less of 32, in parts of 8; 11 tokens
  assert (rows[which] == tokens[..., :16]).all() and not tokens[..., 16:].any()
  assert len(np.unique(which)) == len(np.unique(tokens.reshape(-1, 20), axis=0))


@pytest.mark.parametrize(
  'options', ['', 'joint.projector_width=8,optimizer.clip_norm=0.1']
)
def test_steps_change_what_whole_texts_change(options):
  get_config = runpy.run_path(str(CONFIG))['get_config']
  config = get_config(','.join(filter(None, [TINY, options])))
  mesh = sharding.make_mesh()
  task = task_lib.make(config, VOCABULARY, mesh)
  tx, _ = state_lib.make_optimizer(config)
  whole = state_lib.create_state(task, tx, config, mesh)
  # A step donates its state.
  ours = jax.jit(lambda state: jax.tree.map(jnp.copy, state))(whole)
  metrics_class = state_lib.make_train_metrics(task, whole, config)
  step = state_lib.make_train_step(task, tx, metrics_class, mesh)
  complete = texts.Texts(state_lib.used_rows(ours, config))

  def run(state, batch):
    rows = {k: batch.pop(k) for k in ('rows',) if k in batch}
    batch = sharding.shard_batch(batch, mesh) | sharding.replicate(rows, mesh)
    metrics = sharding.replicate(metrics_class.empty(), mesh)
    return step(state, metrics, batch)

  for seed in (0, 1, 2):
    batch = make_batch(seed)
    completed = complete(batch)
    assert completed['rows'].shape == (256,)
    whole, expected = run(whole, batch)
    ours, metrics = run(ours, completed)
    for name, value in expected.compute().items():
      np.testing.assert_allclose(metrics.compute()[name], value, rtol=2e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-3),
    (ours.params, ours.batch_stats),
    (whole.params, whole.batch_stats),
  )
  # A resumed run knows the rows from the optimizer's moments; of the padding
  # behind the end token there are none.
  again = state_lib.used_rows(ours, config)
  assert (again | (np.arange(VOCABULARY) == 0) == complete.used).all()


def test_a_table_that_is_decayed_is_changed_as_a_whole():
  get_config = runpy.run_path(str(CONFIG))['get_config']
  config = get_config(f'{TINY},optimizer.name=adamw')
  assert state_lib.used_rows(state_lib.TrainState(*[None] * 5), config) is None
  assert 'rows' not in texts.Texts(None)(make_batch(0))


def test_many_used_rows_are_no_part():
  batch = make_batch(0)
  assert 'rows' not in texts.Texts(np.zeros(END + 1, bool) | True)(batch)
  assert 'rows' not in texts.Texts(np.zeros(400, bool))(
    {'tokens': np.minimum(batch['tokens'], 399)}
  )
