"""The multi-label loss in all its forms against numpy, chunks and devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import sharding
from groupvit_jax.losses.contrastive import contrastive_loss
from groupvit_jax.losses.multi_label import multi_label_loss

BATCH, GROUPS, NOUNS, WIDTH = 16, 4, 3, 8
FORMS = list(
  itertools.product(['released', 'paper'], [False, True], [False, True])
)
each_form = pytest.mark.parametrize('form, matched, with_ids', FORMS)


def inputs(tiny, matched=False, with_ids=False):
  groups = (GROUPS,) if matched else ()
  image = tiny.unit(0, BATCH, *groups, WIDTH)
  nouns = tiny.unit(1, BATCH, NOUNS, WIDTH)
  ids = np.random.default_rng(2).integers(-1, 9, (BATCH, NOUNS), dtype=np.int32)
  return image, nouns, np.float32(7.0), ids if with_ids else None


@functools.cache
def compiled(**options):
  def loss(image, nouns, scale, ids):
    return multi_label_loss(image, nouns, scale, noun_ids=ids, **options)

  return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))


def value_and_grads(*args, **options):
  return compiled(**options)(*jax.tree.map(jnp.asarray, args))


def plain(image, nouns, scale, ids, form):
  """The definition, row by row, in float64."""
  image, nouns = image.astype(np.float64), nouns.astype(np.float64)
  batch, k, width = nouns.shape
  groups = image.reshape(batch, -1, width)
  texts = nouns.reshape(-1, width)
  logits = np.empty((batch, batch * k))
  positive = np.zeros(logits.shape, bool)
  for i, t in np.ndindex(logits.shape):
    logits[i, t] = scale * max(g @ texts[t] for g in groups[i])
    positive[i, t] = i == t // k
  same = np.zeros(logits.shape, bool)
  if ids is not None:
    same = np.array([[t in row for t in ids.reshape(-1)] for row in ids])

  def rows(logits, positive, same):
    losses = []
    for row, mask, left_out in zip(logits, positive, same, strict=True):
      e = np.exp(row - row.max())
      if ids is None:
        of_all = e.sum()  # the row's other positives are contrasted too
      elif form == 'released':
        of_all = e[mask] + e[~left_out].sum()
      else:
        of_all = e[mask].sum() + e[~left_out].sum()
      if form == 'released':
        losses.append(-np.log(e[mask] / of_all).mean())
      else:
        losses.append(-np.log(e[mask].sum() / of_all))
    return np.mean(losses)

  return 0.5 * (
    rows(logits, positive, same) + rows(logits.T, positive.T, same.T)
  )


def test_one_image_by_hand(tiny):
  # Text to image has one column and costs nothing; image to text chooses
  # among its two nouns with p = sigmoid(2) and 1 - p.
  image, nouns = jnp.array([[1.0, 0.0]]), jnp.eye(2)[None]
  p = 1 / (1 + np.exp(-2.0))
  released = multi_label_loss(image, nouns, 2.0)
  tiny.assert_close(released, -0.25 * (np.log(p) + np.log(1 - p)))
  paper = multi_label_loss(image, nouns, 2.0, form='paper')
  tiny.assert_close(paper, 0.0)


def test_each_noun_takes_its_best_group_by_hand(tiny):
  # Two images of two groups; every noun equals one group of its image.
  groups = jnp.eye(4).reshape(2, 2, 4)
  loss = multi_label_loss(groups, groups, 2.0)
  to_text = np.log(2 * np.exp(2.0) + 2) - 2
  to_image = np.log(np.exp(2.0) + 1) - 2
  tiny.assert_close(loss, 0.5 * (to_text + to_image))


@each_form
def test_equals_plain_numpy(tiny, form, matched, with_ids):
  args = inputs(tiny, matched, with_ids)
  loss, _ = value_and_grads(*args, form=form)
  tiny.assert_close(loss, plain(*args, form))


@each_form
def test_chunks_change_nothing(tiny, form, matched, with_ids):
  args = inputs(tiny, matched, with_ids)
  actual = value_and_grads(*args, form=form, chunk_size=7)
  tiny.assert_close(actual, value_and_grads(*args, form=form))


@pytest.mark.parametrize('with_ids', [False, True])
def test_chunks_count_groups(with_ids):
  batch, groups, nouns, width, chunk_size = 512, 64, 2, 8, 256

  def loss(image, nouns, scale, ids):
    ids = ids if with_ids else None
    return multi_label_loss(
      image, nouns, scale, noun_ids=ids, chunk_size=chunk_size
    )

  shape = jax.ShapeDtypeStruct
  step = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(
    shape((batch, groups, width), jnp.float32),
    shape((batch, nouns, width), jnp.float32),
    shape((), jnp.float32),
    shape((batch, nouns), jnp.int32),
  )
  memory = step.compile().memory_analysis()
  cosines = 4 * batch * chunk_size  # bytes of a chunk, groups included
  assert memory.temp_size_in_bytes < 16 * cosines  # all at once: 256 times


def assert_eight_devices_equal_one(
  tiny, mesh, form, matched, with_ids, **options
):
  image, nouns, scale, ids = inputs(tiny, matched, with_ids)
  expected = value_and_grads(image, nouns, scale, ids, form=form)
  image, nouns, ids = sharding.shard_batch((image, nouns, ids), mesh)
  actual = value_and_grads(
    image, nouns, scale, ids, form=form, mesh=mesh, **options
  )
  tiny.assert_close(actual, expected)


@each_form
def test_eight_devices_equal_one(tiny, mesh8, form, matched, with_ids):
  assert_eight_devices_equal_one(tiny, mesh8, form, matched, with_ids)


@pytest.mark.parametrize('with_ids', [False, True])
def test_eight_devices_in_chunks_equal_one(tiny, mesh8, with_ids):
  assert_eight_devices_equal_one(
    tiny, mesh8, 'released', True, with_ids, chunk_size=7
  )


@pytest.mark.parametrize('form', ['released', 'paper'])
def test_one_noun_is_the_contrastive_loss(tiny, form):
  image, nouns, scale, _ = map(jnp.asarray, inputs(tiny, with_ids=True))
  tiny.assert_close(
    multi_label_loss(image, nouns[:, :1], scale, form=form),
    contrastive_loss(image, nouns[:, 0], scale),
  )


@each_form
def test_extreme_logits_are_finite(tiny, form, matched, with_ids):
  x, y, _, ids = inputs(tiny, matched, with_ids)
  scale = np.float32(100)
  for image, nouns in [(x, y), (0 * x, y), (x, 0 * y)]:  # 0: empty groups
    for options in ({}, {'chunk_size': 7}):
      result = value_and_grads(image, nouns, scale, ids, form=form, **options)
      assert all(np.isfinite(r).all() for r in jax.tree.leaves(result))


@pytest.mark.parametrize('form', ['released', 'paper'])
def test_an_equal_id_in_another_image_is_not_pushed_away(tiny, form):
  # Two images of the same thing, each named by the same word: perfect
  # embeddings cost log 2 as distinct texts and nothing as one text.
  same = jnp.ones((2, 1, 1))
  tiny.assert_close(
    multi_label_loss(same[:, 0], same, 9.0, form=form), np.log(2)
  )
  for word in (5, -5):
    ids = jnp.array([[word], [word]])
    loss = multi_label_loss(same[:, 0], same, 9.0, form=form, noun_ids=ids)
    tiny.assert_close(loss, 0.0)


def test_an_unknown_form_is_refused(tiny):
  image, nouns, scale, _ = inputs(tiny)
  with pytest.raises(ValueError, match="'soft'; choose 'released' or 'paper'"):
    value_and_grads(image, nouns, scale, None, form='soft')
