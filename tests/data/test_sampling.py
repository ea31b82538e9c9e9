"""The position decides the example and all chance, without memory."""

import numpy as np
import pytest

from groupvit_jax.data import sampling


@pytest.mark.parametrize('n', [1, 2, 3, 7, 48, 100, 1000, 4097])
def test_every_epoch_is_a_permutation(n):
  shuffle = sampling.EpochShuffle(n, seed=3)
  for epoch in range(3):
    indices = shuffle(epoch * n + np.arange(n))
    np.testing.assert_array_equal(np.sort(indices), np.arange(n))


def test_epochs_and_seeds_differ():
  n = 1000
  first = sampling.EpochShuffle(n, 0)(np.arange(2 * n)).reshape(2, n)
  other = sampling.EpochShuffle(n, 1)(np.arange(n))
  # Two random permutations agree in one place on average.
  assert (first[0] == first[1]).sum() < 12
  assert (first[0] == other).sum() < 12
  assert (first[0] == np.arange(n)).sum() < 12


def test_order_is_random_access():
  shuffle = sampling.EpochShuffle(97, 5)
  together = shuffle(np.arange(400))
  alone = [int(shuffle(np.array([p]))[0]) for p in range(400)]
  np.testing.assert_array_equal(together, alone)
  np.testing.assert_array_equal(
    shuffle(np.arange(10).reshape(2, 5)), together[:10].reshape(2, 5)
  )


def test_order_is_pinned():
  """Changing the order would silently change every resumed run."""
  np.testing.assert_array_equal(
    sampling.EpochShuffle(10, 0)(np.arange(10)), [4, 7, 1, 3, 6, 8, 5, 0, 9, 2]
  )
  np.testing.assert_allclose(
    sampling.uniform(1, sampling.CROP, [2], 2)[0],
    [0.8473097424080658, 0.7129148104160665],
  )


def test_places_are_uniform():
  """Each example comes first about equally often; neighbours are unrelated."""
  n, epochs = 20, 4000
  positions = np.arange(n * epochs).reshape(epochs, n)
  indices = sampling.EpochShuffle(n, 9)(positions)
  for place in (0, 7, n - 1):
    counts = np.bincount(indices[:, place], minlength=n)
    chi = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi < 50  # 19 degrees of freedom: p is about 1e-4
  large = sampling.EpochShuffle(100_000, 0)(np.arange(20_000))
  assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.03
  assert abs(np.corrcoef(np.arange(20_000), large)[0, 1]) < 0.03


def test_huge_source_starts_at_once():
  n = 27_000_000
  indices = sampling.EpochShuffle(n, 0)(10 * n + np.arange(4096))
  assert len(set(indices.tolist())) == 4096
  assert indices.min() >= 0 and indices.max() < n


def test_empty_source_is_an_error():
  with pytest.raises(ValueError, match='source is empty'):
    sampling.EpochShuffle(0, 0)


def test_uniform_numbers():
  u = sampling.uniform(0, sampling.CROP, np.arange(2000), 10)
  assert u.shape == (2000, 10) and u.min() >= 0 and u.max() < 1
  assert abs(u.mean() - 0.5) < 0.01 and abs(u.std() - 12**-0.5) < 0.01
  assert np.abs(np.corrcoef(u.T) - np.eye(10)).max() < 0.1
  assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.1
  for other in (
    sampling.uniform(1, sampling.CROP, np.arange(2000), 10),
    sampling.uniform(0, sampling.FLIP, np.arange(2000), 10),
    sampling.uniform(0, sampling.CROP, np.arange(2000, 4000), 10),
  ):
    assert not np.isin(u, other).any()
  np.testing.assert_array_equal(
    u[5:9, :3], sampling.uniform(0, sampling.CROP, np.arange(5, 9), 3)
  )


def test_processes_partition_the_global_batch():
  whole = sampling.Positions(start=40, batch_size=12)
  for count in (1, 2, 3):
    parts = [
      sampling.Positions(40, 12 // count, i, count) for i in range(count)
    ]
    assert {p.global_batch for p in parts} == {whole.global_batch}
    for number in (0, 1, 5):
      joined = np.concatenate([p.batch(number) for p in parts])
      np.testing.assert_array_equal(joined, whole.batch(number))


LENGTHS = (7, 0, 31, 5, 18, 2, 40)


@pytest.mark.parametrize('turns', [(1, 1), (4, 1), (4, 5), (9, 2), (64, 8)])
@pytest.mark.parametrize('window', [3, 8, 1000])
def test_streams_see_each_sample_once_an_epoch(turns, window):
  order = sampling.StreamOrder(LENGTHS, 5, sampling.Turns(*turns), window)
  n = sum(LENGTHS)
  epochs = order(np.arange(3 * n)).reshape(3, n)
  for epoch in epochs:
    assert sorted(epoch.tolist()) == list(range(n))
  if turns[0] * turns[1] < n:
    assert (epochs[0] != epochs[1]).any()
  # A pure function: any position alone, in any order.
  places = np.array([200, 3, 77, 3])
  np.testing.assert_array_equal(order(places), epochs.ravel()[places])


@pytest.fixture
def streams():
  """Fifty shards of 20 samples in 4 streams, for batches of 40."""
  turns = sampling.Turns(4, 10)
  return sampling.StreamOrder([20] * 50, 0, turns, window=10)


def test_processes_read_their_own_few_shards_and_know_which(streams):
  shards = [set(), set()]
  for number in range(20):
    for process in range(2):
      where = sampling.Positions(0, 20, process, 2).batch(number)
      said = streams.upcoming(int(where[0]), 20)
      assert set((streams(where) // 20).tolist()) <= set(said)
      assert len(said) <= 6
      shards[process] |= set(said)
  # All but those that are cut between streams.
  assert len(shards[0] & shards[1]) <= 2


def test_a_stand_in_is_near_and_depends_on_the_position_alone(streams):
  window = streams(np.arange(400, 440)).tolist()
  assert {streams.stand_in(405, k) for k in range(1, 5)} <= set(window[:10])
  ours = {streams.stand_in(position, 1) for position in range(400, 440)}
  assert ours <= set(window) and len(ours) > 15
  far = {streams.stand_in(405, k) for k in range(5, 60)}
  assert far <= set(window) and far - set(window[:10])


@pytest.mark.parametrize('turns', [(1, 1), (4, 2)])
def test_a_mixture_keeps_weights_and_epochs(turns):
  turns = sampling.Turns(*turns)
  sizes, weights = (30, 500, 100), (5, 2, 1)
  orders = [
    sampling.EpochShuffle(30, 0),
    sampling.StreamOrder([200, 300], 0, turns, 20),
    sampling.EpochShuffle(100, 0),
  ]
  ingredients = [
    sampling.Ingredient(order, size, shards, weight)
    for order, size, shards, weight in zip(
      orders, sizes, (1, 2, 1), weights, strict=True
    )
  ]
  mixed = sampling.MixedOrder(ingredients, 1, turns)
  drawn = mixed(np.arange(8192 * turns.streams))
  of = np.searchsorted(np.cumsum(sizes), drawn, 'right')
  counts = np.bincount(of).tolist()
  assert counts == [share * turns.streams for share in (5120, 2048, 1024)]
  # Each source goes through its own epochs: no sample twice before all once.
  second = np.bincount(drawn[of == 1] - 30, minlength=500)
  assert second.max() - second.min() <= 1
  assert 30 <= mixed.stand_in(int(np.flatnonzero(of == 1)[0]), 3) < 530
  upcoming = mixed.upcoming(0, 8)
  assert sorted(upcoming) == [1, 2]
  with pytest.raises(ValueError, match='at least a thousandth'):
    sampling.MixedOrder(
      [sampling.Ingredient(orders[0], 30, 1, w) for w in (1, 1e-6)], 0, turns
    )
