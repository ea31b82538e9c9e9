"""Boundary IoU, mask probing and the rest against other implementations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics

from groupvit_jax.evaluation import counts as counts_lib
from groupvit_jax.evaluation import labelling, metrics, resize
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions
from groupvit_jax.evaluation.scoring import ClassEmbeddings, score
from groupvit_jax.evaluation.sizes import Shapes

CLASSES = 5


def blobs(rng, size, classes=CLASSES, scale=6):
  """A label map with regions."""
  coarse = rng.integers(0, classes, (scale, scale))
  rows, columns = (np.arange(n) * scale // n for n in size)
  return coarse[rows][:, columns]


def band(mask, width):
  """Cheng et al.: what eroding a mask `width` times takes away."""
  eroded = scipy.ndimage.binary_erosion(
    mask, np.ones((3, 3)), iterations=width, border_value=0
  )
  return mask & ~eroded


SIZES = [(40, 56), (33, 48), (21, 20), (40, 9)]


def test_bands_are_what_erosion_takes_away():
  rng = np.random.default_rng(0)
  labels = np.full((len(SIZES), 40, 56), 255)
  for place, size in zip(labels, SIZES, strict=True):
    place[: size[0], : size[1]] = blobs(rng, size)
  widths = [round(0.05 * math.hypot(*size)) for size in SIZES]
  assert len(set(widths)) > 2
  found = jax.jit(metrics.bands)(
    jnp.asarray(labels), jnp.asarray(SIZES), jnp.asarray(widths)
  )
  for (height, width), label, own, d in zip(
    SIZES, labels, np.asarray(found), widths, strict=True
  ):
    label = label[:height, :width]
    want = np.zeros_like(label, bool)
    for c in range(CLASSES):
      want |= band(label == c, d)
    np.testing.assert_array_equal(own[:height, :width], want)


def test_boundary_iou_follows_its_definition():
  rng = np.random.default_rng(1)
  labels = np.full((3, 40, 56), 255)
  predictions = np.zeros((3, 40, 56), int)
  sizes = [*SIZES[:2], (1, 1)]
  both, union = np.zeros(CLASSES), np.zeros(CLASSES)
  for i, size in enumerate(sizes[:2]):
    true = blobs(rng, size, 4)
    true[rng.random(size) < 0.02] = 255
    guess = np.roll(true, 2, axis=1)
    guess[guess == 255] = 3
    labels[i, : size[0], : size[1]] = true
    predictions[i, : size[0], : size[1]] = guess
    for c in range(CLASSES):
      a, b = (band(x == c, metrics.width(size)) for x in (true, guess))
      both[c] += (a & b & (true != 255)).sum()
      union[c] += ((a | b) & (true != 255)).sum()
  counts = metrics.counts(
    jnp.asarray(labels),
    jnp.asarray(predictions),
    jnp.asarray(sizes),
    jnp.asarray([metrics.width(size) for size in sizes]),
    CLASSES,
    jnp.asarray([1.0, 1.0, 0.0]),
  )
  found = metrics.boundary_iou(np.asarray(counts))
  np.testing.assert_allclose(found[:4], both[:4] / union[:4])
  assert (found[:4] < 1).all() and np.isnan(found[4])
  assert metrics.mean_of_present(found) == pytest.approx(found[:4].mean())


def test_the_width_is_that_of_the_original():
  assert metrics.width((375, 500)) == 12
  assert metrics.width((3, 4)) == 1


def test_best_groups_against_sklearn():
  rng = np.random.default_rng(2)
  true, groups = (rng.integers(0, n, (2, 12, 13)) for n in (4, 3))
  counts = metrics.joint_counts(
    jnp.asarray(groups), jnp.asarray(true), (3, CLASSES)
  )
  # Two windows of one image.
  shown, total = np.asarray(counts_lib.best_group_jaccard(counts[None]))
  want = np.zeros(CLASSES)
  for label, group in zip(true, groups, strict=True):
    for c in range(4):
      want[c] += max(
        sklearn.metrics.jaccard_score(
          (label == c).ravel(), (group == g).ravel()
        )
        for g in range(3)
      )
  np.testing.assert_array_equal(shown, [2, 2, 2, 2, 0])
  np.testing.assert_allclose(total / counts_lib.JACCARD_UNIT, want, atol=2e-5)


def test_shares_are_rounded_in_whole_numbers():
  """No way of dividing floats, which depends on the batch, rounds them."""
  rng = np.random.default_rng(0)
  whole = np.append(rng.integers(1, 2**20, 2000), [1, 3, 200_000, 200_000])
  part = np.append((rng.random(2000) * whole[:2000]).astype(int), [1, 2, 1, 0])
  # Two classes, of which the group holds part and whole - part.
  counts = np.stack([part, whole - part], -1)[:, None, None]
  for got, (a, b) in zip(
    jax.vmap(counts_lib.best_group_jaccard)(jnp.asarray(counts)[:, None]),
    counts[:, 0, 0].tolist(),
    strict=True,
  ):
    want = [(200_000 * x + a + b) // (2 * (a + b)) for x in (a, b)]
    np.testing.assert_array_equal(got[1], want)


def test_frequency_weighted_iou_against_sklearn():
  rng = np.random.default_rng(3)
  true = rng.choice(4, 500, p=[0.6, 0.3, 0.1, 0])
  guess = np.where(rng.random(500) < 0.3, rng.integers(0, 4, 500), true)
  confusion = sklearn.metrics.confusion_matrix(true, guess, labels=range(5))
  want = sklearn.metrics.jaccard_score(
    true, guess, labels=range(4), average='weighted'
  )
  assert metrics.frequency_weighted_iou(confusion) == pytest.approx(want)
  assert np.isnan(metrics.frequency_weighted_iou(np.zeros((2, 2))))


def test_effective_number_of_groups():
  share = jnp.array([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
  found = np.asarray(counts_lib.effective_number(share))
  assert found == pytest.approx([4.0, 1.0, 2.0], rel=1e-6)


@pytest.mark.parametrize('step', [2**20, 300])
def test_enlarging_by_rows_is_enlarging(monkeypatch, step):
  monkeypatch.setattr(resize, '_CPU_STEP', step)
  rng = np.random.default_rng(4)
  scores = rng.random((2, 9, 11, 3), np.float32)
  olds, news = [(9, 11), (7, 5)], [(23, 17), (4, 20)]
  found = resize.upsample(
    jnp.asarray(scores),
    resize.upsampling(olds, news, (24, 20)),
    lambda x: (x[..., 0], x.argmax(-1)),
  )
  for i, (old, new) in enumerate(zip(olds, news, strict=True)):
    alone = jax.image.resize(
      scores[i, : old[0], : old[1]], (*new, 3), 'linear', antialias=False
    )
    own = [np.asarray(x)[i, : new[0], : new[1]] for x in found]
    np.testing.assert_allclose(own[0], alone[..., 0], atol=1e-6)
    np.testing.assert_array_equal(own[1], alone.argmax(-1))


def test_classes_that_no_window_lets_through_are_left_out():
  scores = np.zeros((2, 2, 3, 9), np.float32)
  scores[0, 0, :, [4, 7]], scores[0, 1, 1, [4, 8]] = 0.5, 0.25
  scores[1, :, :, [3, 5]] = 0.125
  merged = merge(scores, SegmentConfig(top_k=2))
  np.testing.assert_array_equal(
    merged.classes, [[0, 1, 4, 7, 8, 9], [0, 1, 3, 5, 9, 9]]
  )
  np.testing.assert_array_equal(merged.left_out, [3, 3])
  whole = merge(scores, SegmentConfig(top_k=None))
  np.testing.assert_array_equal(whole.classes, 2 * [range(9)])
  np.testing.assert_array_equal(
    merged.scores[0, ..., :5], whole.scores[0][..., [0, 1, 4, 7, 8]]
  )
  np.testing.assert_array_equal(merged.scores[0, ..., 5], 0)


def merge(scores, config):
  """Two windows of three regions, one pixel each, side by side."""
  maps = jnp.broadcast_to(jnp.eye(3), (2, 2, 1, 3, 3))
  places = jnp.broadcast_to(jnp.array([[0, 0, 1, 3], [0, 3, 1, 3]]), (2, 2, 4))
  grids = jnp.broadcast_to(jnp.array([1, 3]), (2, 2, 2))
  found = Regions(jnp.zeros((2, 2, 1)), None, (maps,), grids, places)
  return labelling.merge_windows(
    found,
    labelling.Scores(jnp.asarray(scores)),
    Shapes(window=(1, 3), full=True, count=2, scaled=(1, 6)),
    config,
  )


RULES = (
  'confusion',
  'oracle',
  'class_list',
  'tokens',
  'learned',
  'learned_oracle',
)


def test_a_diagnosis_compares_rules_by_hand():
  """Four tokens of one pixel each; two learned groups that mix them up."""
  label = jnp.array([[[0, 0, 1, 2]]])
  tokens = jnp.eye(4)[jnp.array([0, 0, 1, 2])]
  # The first three are one group; the other looks like class 3, not there.
  groups = jnp.array([[1.0, 0.2, 0, 0], [0, 0, 0.6, 0.8]])
  maps = jnp.eye(2)[jnp.array([0, 0, 0, 1])]
  found = Regions(
    image=jnp.ones((1, 1, 4)) / 2,
    embeddings=groups[None, None],
    stages=(maps[None, None, None],),
    grids=jnp.array([[[1, 4]]]),
    places=jnp.array([[[0, 0, 1, 4]]]),
    tokens=tokens[None, None],
  )
  true = counts_lib.GroundTruth(
    label, jnp.array([[1, 4]]), jnp.array([1]), None, jnp.ones(1)
  )

  def labels(config):
    counts = counts_lib.Counter(config, 4, False).count(
      found,
      ClassEmbeddings(jnp.eye(4), 10.0),
      true,
      Shapes((1, 4), True, 1, (1, 4)),
      None,
    )
    # The first pixel of class 0 stands for both.
    return {
      name: [int(matrix[t].argmax()) for t in (0, 1, 2)]
      for name, matrix in counts.items()
      if name in RULES
    }

  by_groups = labels(SegmentConfig(top_k=None))
  assert by_groups == {
    'confusion': [0, 0, 3],
    'oracle': [0, 0, 2],
    'class_list': [0, 0, 2],
    'tokens': [0, 1, 2],
  }
  by_tokens = labels(
    SegmentConfig(top_k=None, regroup='kmeans', regroup_number=3)
  )
  assert by_tokens == {
    'confusion': [0, 1, 2],
    'oracle': [0, 1, 2],
    'class_list': [0, 1, 2],
    'tokens': [0, 1, 2],
    'learned': [0, 0, 3],
    'learned_oracle': [0, 0, 2],
  }


def test_no_class_of_an_image_may_compete():
  """Then all that has a background is background, and nothing is NaN."""
  cosines = jax.random.normal(jax.random.key(0), (2, 1, 3, 4))
  found = Regions(jnp.ones((2, 1, 4)), cosines, (), None, None)
  valid = jnp.array([[True, False, True, False], [False] * 4])
  classes = ClassEmbeddings(jnp.eye(4), 5.0, valid)
  for threshold in (None, 0.5):
    config = SegmentConfig(background_threshold=threshold, top_k=2)
    scores = np.asarray(score(found, classes, config).classes)
    assert np.isfinite(scores).all()
    assert (scores[1].argmax(-1) == 0).all()
    assert set(scores[0, ..., -4:].argmax(-1).ravel()) <= {0, 2}
