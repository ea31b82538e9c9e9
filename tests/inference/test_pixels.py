"""Labels, scores and groups at a picture's own size, from scored groups."""

import jax
import numpy as np
import pytest

from groupvit_jax.inference import result
from groupvit_jax.inference.field import Field, Window

SIZES = [(24, 40), (13, 17), (61, 90), (24, 41), (1, 3)]


def enlarge(scores, size):
  """[h, w, k] to `size`, by another implementation."""
  return np.asarray(
    jax.image.resize(
      scores, (*size, scores.shape[-1]), 'linear', antialias=False
    )
  )


def blobs(rng, height, width, groups):
  """A map of groups with regions and borders, as networks make them."""
  coarse = rng.normal(size=(6, 8, groups)).astype(np.float32)
  return enlarge(coarse, (height, width)).argmax(-1).astype(np.uint8)


def table(rng, groups, classes, background=False):
  scores = rng.random((groups, classes), np.float32)
  scores[:, rng.permutation(classes)[5:]] = 0  # beyond the gate
  if not background:
    return scores
  lost = scores.max(-1, keepdims=True) < 0.9
  return np.concatenate([lost.astype(np.float32), scores], -1)


def whole(seed=0, classes=12, background=False):
  rng = np.random.default_rng(seed)
  window = Window(
    0, 0, table(rng, 6, classes, background), blobs(rng, 24, 40, 6), None, None,
    (),
  )  # fmt: skip
  return Field((24, 40), (window,))


def sliding(seed=0, classes=12, background=False, soft=False):
  rng = np.random.default_rng(seed)
  windows = []
  for top in (0, 4):
    for left in (0, 10, 20):
      maps = rng.dirichlet(np.full(6, 0.3), (20, 20)).astype(np.float32)
      windows.append(
        Window(
          top,
          left,
          table(rng, 6, classes, background),
          None if soft else blobs(rng, 20, 20, 6),
          maps if soft else None,
          0.3 if soft and background else None,
          (),
        )
      )
  return Field((24, 40), tuple(windows))


def dense(field):
  """Scores [h, w, k] by going through windows and pixels one by one."""
  total = np.zeros((*field.size, field.num_classes))
  count = np.zeros((*field.size, 1))
  for window in field.windows:
    for y in range(window.size[0]):
      for x in range(window.size[1]):
        if window.maps is None:
          scores = window.table[window.groups[y, x]]
        else:
          scores = window.maps[y, x] @ window.table
          if window.limit is not None:
            scores[0] = float(scores[1:].max() < window.limit)
        total[window.top + y, window.left + x] += scores
        count[window.top + y, window.left + x] += 1
  return (total / count).astype(np.float32)


FIELDS = {
  'whole': whole,
  'whole, background': lambda: whole(1, background=True),
  'one class': lambda: whole(2, classes=1),
  'one class, background': lambda: whole(3, classes=1, background=True),
  'sliding': lambda: sliding(4),
  'sliding, background': lambda: sliding(5, background=True),
  'soft': lambda: sliding(6, soft=True),
  'soft, background': lambda: sliding(7, background=True, soft=True),
}


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', FIELDS)
def test_labels_are_enlarged_scores_then_argmax(name, size):
  field = FIELDS[name]()
  expected = enlarge(dense(field), size)
  scores = result.scores(field, size)
  np.testing.assert_allclose(scores.transpose(1, 2, 0), expected, atol=1e-5)
  labels = result.labels(field, size)
  assert labels.dtype == np.int32
  np.testing.assert_array_equal(labels, scores.argmax(0))
  won = np.concatenate(list(result.winning_scores(field, labels)))
  np.testing.assert_allclose(won, scores.max(0), atol=1e-6)


def test_mixing_happens_and_matters():
  # Between a group of class 0 and one of class 1, a third class may win.
  scores = np.array([[1, 0, 0.7], [0, 1, 0.7]], np.float32)
  groups = np.array([[0, 1]], np.uint8)
  field = Field((1, 2), (Window(0, 0, scores, groups, None, None, ()),))
  labels = result.labels(field, (1, 10))
  assert labels[0].tolist() == [0, 0, 0, 0, 2, 2, 1, 1, 1, 1]


def test_small_steps_give_the_same(monkeypatch):
  for name in FIELDS:
    field, size = FIELDS[name](), (61, 90)
    labels = result.labels(field, size)
    scores = result.scores(field, size)
    monkeypatch.setattr(result, 'CHUNK', 5000)
    np.testing.assert_array_equal(result.labels(field, size), labels)
    np.testing.assert_array_equal(result.scores(field, size), scores)
    monkeypatch.undo()


def test_many_windows_are_told_apart():
  # 40 windows of 255 groups each have more combinations than 64 bits count.
  rng = np.random.default_rng(0)
  windows = tuple(
    Window(
      0,
      left,
      rng.random((255, 3), np.float32),
      rng.integers(0, 255, (2, 41), np.uint8),
      None,
      None,
      (),
    )
    for left in range(40)
  )
  field = Field((2, 80), windows)
  states, scores = field.states()
  np.testing.assert_allclose(scores[states], dense(field), atol=1e-6)


def test_scores_of_many_classes_are_not_held(monkeypatch):
  # Labels of 2,000 x 3,000 pixels and 1,000 classes would need 24 GB of scores.
  field = whole(8, classes=1000)
  held = []
  mix = result.mix
  monkeypatch.setattr(
    result,
    'mix',
    lambda *a: held.append(mix(*a)) or held[-1],
  )
  labels = result.labels(field, (2000, 3000))
  assert labels.shape == (2000, 3000)
  assert max(x.nbytes for x in held) < 100e6


def test_groups_of_a_whole_picture():
  rng = np.random.default_rng(0)
  maps = rng.random((6, 8, 5), np.float32)
  window = Window(
    0, 0, np.ones((5, 1), np.float32), np.zeros((24, 32), np.uint8), None, None,
    (maps,),
  )  # fmt: skip
  field = Field((24, 32), (window,))
  groups = result.groups(field, (61, 90), 0)
  expected = enlarge(maps, (61, 90)).argmax(-1)
  assert (groups == expected).mean() > 0.999  # but for ties in rounding
  assert groups.dtype == np.int32


def test_groups_of_windows_have_numbers_of_their_own():
  def window(left):
    maps = np.zeros((4, 4, 3), np.float32)
    maps[:, :2, 1] = maps[:, 2:, 2] = 1
    groups = np.zeros((8, 8), np.uint8)
    return Window(
      0, left, np.ones((3, 1), np.float32), groups, None, None, (maps,)
    )

  field = Field((8, 12), (window(0), window(4)))
  # The windows overlap in columns 4 to 8 and share them half and half.
  row = result.groups(field, (8, 12), 0)[3].tolist()
  assert row == [1, 1, 1, 1, 2, 2, 4, 4, 5, 5, 5, 5]
