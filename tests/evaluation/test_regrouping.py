"""Groups remade from tokens, by hand and on images of two kinds of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.evaluation import regions as regions_lib
from groupvit_jax.evaluation import regrouping
from groupvit_jax.evaluation.config import SegmentConfig

KMEANS = SegmentConfig(regroup='kmeans')


def blobs(kinds, spread=0.1, seed=0):
  """Unit vectors around an axis for each kind."""
  rng = np.random.default_rng(seed)
  points = np.eye(4)[kinds] + spread * rng.normal(size=(*np.shape(kinds), 4))
  return np.float32(points / np.linalg.norm(points, axis=-1, keepdims=True))


def clusters(points, real=None, **options):
  real = np.ones(points.shape[:2], bool) if real is None else real
  return np.asarray(regrouping.kmeans(points, real, **options))


def partition(labels):
  return {frozenset(np.flatnonzero(labels == i)) for i in np.unique(labels)}


def test_kmeans_finds_separate_clusters_in_every_image():
  kinds = np.array([[0, 0, 1, 2, 2, 2, 1, 3], [3, 1, 1, 1, 0, 2, 2, 0]])
  found = clusters(blobs(kinds), number=4)
  for row, kind in zip(found, kinds, strict=True):
    assert partition(row) == partition(kind)
  # The farthest are told apart first, and more centres than points are legal.
  assert len(np.unique(clusters(blobs(kinds)[:1], number=2))) == 2
  assert len(np.unique(clusters(blobs(kinds)[:1, :3], number=8))) == 3
  equal = np.broadcast_to(blobs(0), (1, 5, 4))
  assert len(np.unique(clusters(equal, number=3))) == 1


def test_rounds_lower_the_distance_to_the_centres():
  points = np.random.default_rng(1).normal(size=(1, 60, 4)).astype(np.float32)
  points /= np.linalg.norm(points, axis=-1, keepdims=True)

  def likeness(rounds):
    (found,) = clusters(points, number=5, rounds=rounds)
    return sum(np.linalg.norm(points[0, found == i].sum(0)) for i in range(5))

  assert likeness(0) < likeness(1) < likeness(10)


def test_what_is_not_real_makes_no_centre():
  kinds = np.array([[0, 1, 0, 1, 2, 3]])
  points = blobs(kinds)
  real = kinds < 2
  found = clusters(points, real, number=2)[0]
  assert partition(found[:4]) == partition(kinds[0, :4])
  np.testing.assert_array_equal(found[:4], clusters(points[:, :4], number=2)[0])


def one_stage(kinds, count=2):
  """Regions on a grid; the learned groups are nonsense."""
  tokens = blobs(kinds.reshape(len(kinds), -1))
  maps = jax.nn.softmax(
    jax.random.normal(jax.random.key(0), (*kinds.shape, count))
  )
  return {
    'image': jnp.ones((len(kinds), 4)) / 2,
    'embeddings': jnp.zeros((len(kinds), count, 4)),
    'stages': (maps,),
    'tokens': jnp.asarray(tokens),
  }


def test_groups_are_the_clusters_of_tokens():
  kinds = np.array([[[0, 0, 1], [0, 1, 1]], [[2, 3, 3], [2, 2, 2]]])
  found = one_stage(kinds)
  learned = regions_lib.as_regions(found, (2, 3))
  remade = regrouping.apply(learned, KMEANS)
  *kept, new = (np.asarray(stage[:, 0]) for stage in remade.stages)
  np.testing.assert_array_equal(kept[0], found['stages'][0])
  assert remade.tokens is None
  for i, row in enumerate(kinds):
    assert partition(new[i].argmax(-1).ravel()) == partition(row.ravel())
    assert set(np.unique(new[i])) == {0, 1}
    for g in range(2):
      total = found['tokens'][i][new[i, ..., g].ravel() == 1].sum(0)
      np.testing.assert_allclose(
        remade.embeddings[i, 0, g], total / np.linalg.norm(total), rtol=1e-5
      )
  assert regrouping.apply(learned, SegmentConfig()) is learned
  three = SegmentConfig(regroup='kmeans', regroup_number=3)
  assert regrouping.apply(learned, three).embeddings.shape == (2, 1, 3, 4)


def test_padding_changes_nothing():
  kinds = np.array([[[0, 0, 1], [0, 1, 1]]])
  alone = regions_lib.as_regions(one_stage(kinds), (2, 3))
  padded = np.pad(kinds, ((0, 0), (0, 2), (0, 1)), constant_values=3)
  found = one_stage(padded) | {'grids': jnp.array([[2, 3]])}
  inside = np.zeros(padded.shape, bool)
  inside[:, :2, :3] = True
  found['tokens'] = (
    found['tokens'].at[inside.reshape(1, -1)].set(one_stage(kinds)['tokens'][0])
  )
  padded = regions_lib.as_regions(found, (4, 4), np.array([[2, 3]]))
  alone, padded = (regrouping.apply(x, KMEANS) for x in (alone, padded))
  np.testing.assert_allclose(padded.embeddings, alone.embeddings, atol=1e-6)
  np.testing.assert_array_equal(
    padded.stages[-1][:, :, :2, :3], alone.stages[-1]
  )


def test_of_two_stages_the_first_ones_groups_are_grouped():
  # Four groups of the first stage, of which the last is nowhere the strongest.
  first = np.array([[[[0.7, 0, 0.1, 0.2], [0, 0.6, 0.2, 0.2]],
                     [[0.1, 0, 0.9, 0.0], [0, 0.5, 0.1, 0.4]]]])  # fmt: skip
  found = one_stage(np.array([[[0, 1], [0, 3]]]))
  found['stages'] = (jnp.asarray(first), found['stages'][0])
  remade = regrouping.apply(regions_lib.as_regions(found, (2, 2)), KMEANS)
  maps = np.asarray(remade.stages[-1][0, 0])
  assert partition(maps.argmax(-1).ravel()) == partition([0, 1, 0, 1])
  np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-6)
  tokens = found['tokens'][0]
  total = tokens[0] + tokens[2]  # the fourth counts for no mean
  group = maps[0, 0].argmax()
  np.testing.assert_allclose(
    remade.embeddings[0, 0, group], total / np.linalg.norm(total), rtol=1e-5
  )
  every = regrouping.of_tokens(regions_lib.as_regions(found, (2, 2)))
  np.testing.assert_array_equal(every.stages[-1][:, 0], jnp.float32(first))


def test_every_token_may_be_a_region():
  found = one_stage(np.array([[[0, 0, 1], [0, 1, 1]]]))
  every = regrouping.of_tokens(regions_lib.as_regions(found, (2, 3)))
  np.testing.assert_array_equal(every.stages[0][0, 0].reshape(6, 6), np.eye(6))
  np.testing.assert_array_equal(every.embeddings[:, 0], found['tokens'])


def test_what_cannot_be_regrouped_is_said():
  found = one_stage(np.array([[[0, 0, 1], [0, 1, 1]]]))
  del found['tokens']
  with pytest.raises(ValueError, match='no token embeddings'):
    regrouping.apply(regions_lib.as_regions(found, (2, 3)), KMEANS)
  with pytest.raises(ValueError, match='regroup is one of none, kmeans'):
    SegmentConfig(regroup='meanshift')
  with pytest.raises(ValueError, match='learned_background is of the model'):
    SegmentConfig(
      regroup='kmeans', learned_background=True, background_threshold=1e-6
    )
