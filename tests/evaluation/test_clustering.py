"""Models without groups, evaluated by grouping their patch features."""

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.cluster

from groupvit_jax import sharding
from groupvit_jax.evaluation import clustering

WHOLE = {'mode': 'whole', 'window': None, 'stride': None}


def make_evaluator(runs, grouping, count=6, **options):
  return runs.evaluator(
    runs.bands(count, widths=(8,)),
    options=WHOLE,
    grouping=grouping,
    boundary=False,
    **options,
  )


@pytest.mark.parametrize('name', clustering.GROUPINGS)
def test_perfect_and_worst_features(runs, stubs, name):
  stub = stubs.Stub(grouped=False)
  # Images have three classes; spectral clustering has to be told.
  grouping = clustering.Grouping(name, 3 if name == 'spectral' else 4)
  runner = make_evaluator(runs, grouping)
  figures = dict(runner.run(stub.predict_fns, stubs.PERFECT))
  assert figures['miou'] == figures['oracle_miou'] == 1.0
  figures = dict(runner.run(stub.predict_fns, stubs.WORST))
  assert figures['miou'] == 0.0 and figures['oracle_miou'] == 1.0
  assert stub.traces['regions'] == 1
  images = np.stack([x.image for x in runs.bands(2, widths=(8,))])
  shown = runner.predict(stub.predict_fns, stubs.PERFECT, images)
  np.testing.assert_array_equal(shown['prediction'], images[..., 0])
  assert len(shown['groups']) == 1


def test_too_few_groups_cannot_be_perfect(runs, stubs):
  runner = make_evaluator(runs, clustering.Grouping('kmeans', 2))
  fns = stubs.Stub(grouped=False).predict_fns
  # Three classes an image, two groups.
  assert dict(runner.run(fns, stubs.PERFECT))['oracle_miou'] < 1.0


@pytest.mark.parametrize('name', ['kmeans', 'mean_shift', 'spectral'])
def test_clusters_are_separated_and_seeded(name):
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(3), 20)
  features = np.eye(3, 16)[labels] + 0.05 * rng.normal(size=(60, 16))
  features /= np.linalg.norm(features, axis=-1, keepdims=True)
  group = clustering.GROUPINGS[name]
  got = group(features, 3, 0)
  pairs = {(t, g) for t, g in zip(labels, got, strict=True)}
  assert len(pairs) == len(set(got)) == 3  # one cluster for each centre
  np.testing.assert_array_equal(got, group(features, 3, 0))


@pytest.mark.parametrize('name', clustering.GROUPINGS)
def test_equal_and_few_features_are_grouped_as_well(name):
  group = clustering.GROUPINGS[name]
  equal = np.ones((12, 4)) / 2
  assert group(equal, 8, 0).shape == (12,)
  few = np.eye(3, 4)
  found = group(few, 8, 0)
  assert found.shape == (3,) and found.min() >= 0


def test_mean_shift_finds_its_own_number(monkeypatch):
  # More than it is told: the maps grow to a power of two, once.
  labels = np.repeat(np.arange(5), 6)
  features = np.eye(5, 8)[labels][None].astype(np.float32)

  def regions_fn(variables, images):
    return {
      'image': jnp.ones((1, 8)),
      'embeddings': jnp.asarray(features),
      'stages': (),
      'grid': (5, 6),
    }

  monkeypatch.setitem(clustering.GROUPINGS, 'known', lambda *_: labels)
  group = clustering.Grouping('known', 4)
  got = group(regions_fn, None, np.zeros((1, 5, 6, 3)))
  assert got['embeddings'].shape == (1, 8, 8)
  assert got['stages'][0].shape == (1, 5, 6, 8)
  points = np.eye(3)[[0, 1, 2] * 10]
  assert len(set(clustering.mean_shift(points, 1, 0))) == 3


@pytest.mark.parametrize('spread', [0.05, 0.2, 0.3])
def test_mean_shift_is_that_of_sklearn(spread):
  rng = np.random.default_rng(3)
  points = np.eye(3, 6)[rng.integers(0, 3, 40)]
  points += spread * rng.normal(size=points.shape)
  found = clustering.mean_shift_clusters(points)
  expected = sklearn.cluster.MeanShift().fit_predict(points)
  np.testing.assert_array_equal(found, expected)
  assert len(set(found)) > 1


def test_padding_is_in_no_group():
  """An image in a larger padded shape is grouped as it is alone."""
  rng = np.random.default_rng(2)
  tokens = rng.normal(size=(2, 4, 6, 5)).astype(np.float32)

  def regions_fn(variables, images, sizes=None):
    height, width = images.shape[1:3]
    found = jnp.asarray(tokens)[: len(images), :height, :width]
    regions = {
      'image': jnp.ones((len(images), 5)),
      'embeddings': found.reshape(len(images), height * width, 5),
      'stages': (),
      'grid': (height, width),
    }
    return regions if sizes is None else regions | {'grids': sizes}

  group = clustering.Grouping('kmeans', 3)
  sizes = np.array([[3, 4], [4, 6]])
  padded = group(regions_fn, None, np.zeros((2, 4, 6, 3)), sizes)
  alone = group(regions_fn, None, np.zeros((1, 3, 4, 3)))
  maps = padded['stages'][0]
  np.testing.assert_array_equal(maps[0, :3, :4], alone['stages'][0][0])
  assert not maps[0, 3:].any() and not maps[0, :, 4:].any()
  np.testing.assert_allclose(padded['embeddings'][0], alone['embeddings'][0])
  np.testing.assert_array_equal(maps[1].sum(-1), np.ones((4, 6)))
  np.testing.assert_array_equal(padded['grids'], sizes)


def test_region_embedding_is_the_mean_of_unit_features_at_unit_length(
  monkeypatch,
):
  features = np.random.default_rng(1).normal(size=(1, 6, 5)).astype(np.float32)
  assigned = np.array([0, 0, 1, 1, 1, 3])

  def regions_fn(variables, images):
    return {
      'image': jnp.ones((1, 5)),
      'embeddings': jnp.asarray(features),
      'stages': (),
      'grid': (2, 3),
    }

  monkeypatch.setitem(clustering.GROUPINGS, 'known', lambda *_: assigned)
  group = clustering.Grouping('known', 4)
  got = group(regions_fn, None, np.zeros((1, 2, 3, 3)))
  unit = features[0] / np.linalg.norm(features[0], axis=-1, keepdims=True)
  mean = unit[2:5].mean(0)
  np.testing.assert_allclose(
    got['embeddings'][0, 1], mean / np.linalg.norm(mean), rtol=1e-5
  )
  np.testing.assert_array_equal(got['embeddings'][0, 2], np.zeros(5))
  (maps,) = got['stages']
  assert maps.shape == (1, 2, 3, 4)
  np.testing.assert_array_equal(maps[0].argmax(-1), [[0, 0, 1], [1, 1, 3]])
  np.testing.assert_array_equal(maps.sum(-1), np.ones((1, 2, 3)))


def test_the_same_on_eight_devices(runs, stubs, mesh8):
  fns, grouping = stubs.Stub(grouped=False).predict_fns, 'kmeans'
  one, eight = (
    make_evaluator(
      runs, clustering.Grouping(grouping), 11, mesh=mesh, batch_size=1
    ).evaluate(fns, variables)
    for mesh, variables in (
      (None, stubs.PERFECT),
      (mesh8, sharding.replicate(stubs.PERFECT, mesh8)),
    )
  )
  np.testing.assert_array_equal(one.confusion_matrix, eight.confusion_matrix)


def test_says_what_is_wrong(runs, stubs):
  with pytest.raises(ValueError, match=r"Unknown grouping 'watershed'.*kmeans"):
    clustering.Grouping('watershed')
  runner = make_evaluator(runs, clustering.Grouping('kmeans'))
  with pytest.raises(ValueError, match='This model groups by itself'):
    runner.evaluate(stubs.Stub().predict_fns, stubs.PERFECT)
