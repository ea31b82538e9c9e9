"""PAMR beside an independent form of it, pixel by pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax.evaluation import pamr

DILATIONS = (1, 2, 5)


def made(iterations, dilations):
  return functools.partial(
    pamr.pamr, iterations=iterations, dilations=dilations
  )


def by_pixel(rgb, scores, iterations, dilations):
  """One image, float64, by the definition alone."""
  height, width = rgb.shape[:2]

  def at(x, row, column):
    return x[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]

  steps = [
    (d * y, d * x)
    for d in dilations
    for y in (-1, 0, 1)
    for x in (-1, 0, 1)
    if y or x
  ]
  weights = np.empty((height, width, len(steps)))
  for r in range(height):
    for c in range(width):
      around = np.array([at(rgb, r + y, c + x) for y, x in steps])
      whole = np.concatenate([around, [rgb[r, c]] * len(dilations)])
      unit = 1e-8 + 0.1 * whole.std(0, ddof=1)
      logits = -(np.abs(around - rgb[r, c]) / unit).mean(-1)
      share = np.exp(logits - logits.max())
      weights[r, c] = share / share.sum()
  for _ in range(iterations):
    scores = np.array(
      [
        [
          sum(
            w * at(scores, r + y, c + x)
            for w, (y, x) in zip(weights[r, c], steps, strict=True)
          )
          for c in range(width)
        ]
        for r in range(height)
      ]
    )
  return scores


def random_images(sizes, canvas, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  rgb = rng.random((len(sizes), *canvas, 3), np.float32)
  scores = rng.random((len(sizes), *canvas, classes), np.float32)
  valid = np.zeros((len(sizes), *canvas), bool)
  for mask, (height, width) in zip(valid, sizes, strict=True):
    mask[:height, :width] = True
  return rgb, scores, valid


def test_it_is_the_definition_for_images_of_several_sizes():
  sizes = [(6, 9), (8, 5), (8, 9)]
  rgb, scores, valid = random_images(sizes, (8, 9))
  refine = made(3, DILATIONS)
  got = np.asarray(jax.jit(refine)(rgb, scores, valid))
  for i, (height, width) in enumerate(sizes):
    want = by_pixel(
      rgb[i, :height, :width].astype(np.float64),
      scores[i, :height, :width].astype(np.float64),
      3,
      DILATIONS,
    )
    np.testing.assert_allclose(got[i, :height, :width], want, rtol=0, atol=2e-5)


def test_what_lies_beyond_a_image_changes_nothing():
  rgb, scores, valid = random_images([(5, 6)], (7, 8))
  refine = jax.jit(made(2, DILATIONS))
  one = refine(rgb, scores, valid)
  other = refine(
    np.where(valid[..., None], rgb, 9.0),
    np.where(valid[..., None], scores, np.nan),
    valid,
  )
  np.testing.assert_array_equal(one[:, :5, :6], other[:, :5, :6])


def test_scores_follow_an_edge_of_the_image_and_keep_their_sum():
  # The image's edge is at column 6, that of the scores at column 8.
  rgb = np.zeros((1, 12, 12, 3), np.float32)
  rgb[:, :, 6:] = 1.0
  rgb += 0.02 * np.random.default_rng(0).random(rgb.shape, np.float32)
  first = (np.arange(12) < 8).astype(np.float32)
  scores = np.broadcast_to(first[:, None], (1, 12, 12, 1))
  scores = np.concatenate([scores, 1 - scores], -1)
  valid = np.ones((1, 12, 12), bool)
  refine = jax.jit(made(20, (1, 2)))
  got = np.asarray(refine(rgb, scores, valid))
  np.testing.assert_allclose(got.sum(-1), 1.0, atol=1e-5)
  wrong_before = (scores.argmax(-1) != (np.arange(12) >= 6)).mean()
  wrong_after = (got.argmax(-1) != (np.arange(12) >= 6)).mean()
  assert wrong_after < wrong_before / 2


def test_a_image_of_one_colour_is_no_exception():
  rgb = np.ones((1, 4, 4, 3), np.float32)
  scores = np.random.default_rng(0).random((1, 4, 4, 2), np.float32)
  refine = jax.jit(made(1, (1,)))
  assert jnp.isfinite(refine(rgb, scores, np.ones((1, 4, 4), bool))).all()
