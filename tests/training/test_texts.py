"""Texts once, cut, with few rows of the vocabulary: equal to the whole form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.gvit_s import get_config
from groupvit_jax import sharding
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib
from groupvit_jax.training import texts

TINY = (
  'demo,batch=8,size=16,patch=8,width=16,model.num_heads=1,depths=1x0,'
  'text.width=16,text.num_heads=1,joint.embed_dim=8,tokens=3x0,groups=3x0,'
  'text.context_length=40,optimizer.warmup_steps=1,steps=50,optimizer.eps=1e-2'
)
VOCABULARY, END = 2000, 1999


def make_batch(seed, long=()):
  """A batch of texts of 3 to 11 tokens, of which many are equal.

  `long`: columns of texts, the caption first, that have 33 to 40 tokens.
  """
  rng = np.random.default_rng(seed)
  choice = np.zeros((2, 12, 40), np.int32)
  for row, kind in zip(
    choice.reshape(-1, 40), [0] * 12 + [1] * 12, strict=True
  ):
    length = rng.integers(*((2, 11), (32, 40))[kind])
    row[:length] = rng.integers(1, 60 + 40 * seed, length)
    row[length] = END
  kind = np.isin(np.arange(4), long).astype(int)
  return {
    'image': rng.integers(0, 255, (8, 16, 16, 3)).astype(np.uint8),
    'tokens': choice[kind, rng.integers(0, 12, (8, 4))],
  }


@pytest.mark.parametrize(
  ('long', 'shapes'),
  [
    # Of two devices, each with 4 images and 16 texts; in parts of 4 and of 2.
    ((), {'short': (24, 16)}),
    ((0,), {'short': (16, 16), 'long': (8, 40)}),
    ((1, 2, 3), {'short': (8, 16), 'long': (16, 40)}),
    ((0, 1, 2, 3), {'long': (20, 40)}),
  ],
)
def test_each_text_is_there_once_at_the_length_of_its_kind(long, shapes):
  tokens = make_batch(0, long)['tokens']
  out = texts.distinct(tokens, 2)
  assert {name: out[name].shape for name in out if name != 'which'} == shapes
  for device in range(2):
    mine = slice(4 * device, 4 * device + 4)
    own = [np.split(out[name], 2)[device] for name in shapes]
    rows = [list(row[: row.argmax() + 1]) for each in own for row in each]
    for text, row in zip(
      tokens[mine].reshape(-1, 40), out['which'][mine].flat, strict=True
    ):
      assert rows[row] == list(text[: text.argmax() + 1])
    kinds = np.unique(tokens[mine].reshape(-1, 40), axis=0)
    assert len(np.unique(out['which'][mine])) == len(kinds)


def test_texts_stay_together_where_apart_they_have_more_tokens():
  tokens = np.eye(20, dtype=np.int32)[[9, 10, 11, 18], None]
  out = texts.distinct(tokens, 1)  # not 3 x 16 and, in parts of 2, 2 x 20
  assert out['long'].shape == (4, 20) and 'short' not in out
  assert (out['long'][out['which']] == tokens).all()


def test_texts_stay_together_where_one_device_has_the_short_ones():
  tokens = np.eye(20, dtype=np.int32)[np.arange(16) % 8].reshape(8, 2, 20)
  tokens[4:, :, 18] = 2  # the second device's texts end there
  out = texts.distinct(tokens, 2)  # not 8 x 16 and 8 x 20 on each
  assert out['long'].shape == (16, 20) and 'short' not in out


def test_lengths_are_few():
  found = {texts.bucket(length, 77) for length in range(1, 78)}
  assert found == {8, 16, 32, 48, 77}
  assert texts.bucket(9, 12) == 12


def test_steps_change_what_whole_texts_change(mesh8):
  options = 'joint.projector_width=8,optimizer.clip_norm=0.1'
  config, mesh = get_config(f'{TINY},{options}'), mesh8
  task = task_lib.make(config, VOCABULARY, mesh)
  tx, _ = state_lib.make_optimizer(config)
  whole = state_lib.create_state(task, tx, config, mesh)
  # A step donates its state.
  ours = jax.jit(lambda state: jax.tree.map(jnp.copy, state))(whole)
  metrics_class = state_lib.make_train_metrics(task, whole, config)
  step = state_lib.make_train_step(task, tx, metrics_class, mesh)
  complete = texts.Texts(mesh, state_lib.used_rows(ours, config))

  def run(state, batch):
    rows = {k: batch.pop(k) for k in ('rows',) if k in batch}
    batch = sharding.shard_batch(batch, mesh) | sharding.replicate(rows, mesh)
    metrics = sharding.replicate(metrics_class.empty(), mesh)
    return step(state, metrics, batch)

  # Captions are long and nouns short; then the other way round.
  for seed, long in enumerate([(0,), (1, 2, 3)]):
    batch = make_batch(seed, long)
    completed = complete(batch)
    assert completed['rows'].shape == (256,)
    assert {'short', 'long'} < completed.keys()
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
  config = get_config(f'{TINY},optimizer.name=adamw')
  assert state_lib.used_rows(state_lib.TrainState(*[None] * 5), config) is None
  assert 'rows' not in texts.Texts(sharding.make_mesh())(make_batch(0))


def test_many_used_rows_are_no_part():
  batch, mesh = make_batch(0), sharding.make_mesh()
  assert 'rows' not in texts.Texts(mesh, np.zeros(END + 1, bool) | True)(batch)
  assert 'rows' not in texts.Texts(mesh, np.zeros(400, bool))(
    {'tokens': np.minimum(batch['tokens'], 399)}
  )
