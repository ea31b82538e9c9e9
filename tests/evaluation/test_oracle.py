"""The oracle's majority labels, by hand and against a plain loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.evaluation import benchmark_counts, metrics


def test_each_group_takes_the_majority_class_of_its_pixels():
  groups = jnp.array([[[0, 0, 0, 1, 1, 2]]])
  label = jnp.array([[[3, 3, 1, 1, 255, 255]]])
  counts = benchmark_counts.group_class_counts(groups, label, 3, 4)
  np.testing.assert_array_equal(
    counts[0], [[0, 1, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0]]
  )
  confusion = np.asarray(benchmark_counts.oracle_confusion(counts))
  want = np.zeros((4, 4), int)
  want[3, 3], want[1, 3], want[1, 1] = 2, 1, 1
  np.testing.assert_array_equal(confusion, want)


def test_agrees_with_a_plain_loop_over_pictures_and_groups():
  rng = np.random.default_rng(0)
  groups = rng.integers(0, 6, (5, 8, 8))
  label = rng.integers(0, 4, (5, 8, 8))
  label[rng.random(label.shape) < 0.2] = 255
  mask = np.array([1, 1, 0, 1, 1], np.float32)
  want = np.zeros((4, 4), int)
  for b in np.flatnonzero(mask):
    for g in range(6):
      inside = label[b][(groups[b] == g) & (label[b] != 255)]
      histogram = np.bincount(inside, minlength=4)
      want[:, histogram.argmax()] += histogram
  counts = benchmark_counts.group_class_counts(
    jnp.asarray(groups), jnp.asarray(label), 6, 4, jnp.asarray(mask)
  )
  np.testing.assert_array_equal(benchmark_counts.oracle_confusion(counts), want)


def test_groups_that_follow_the_classes_are_perfect_and_one_group_is_not():
  label = jnp.asarray(np.random.default_rng(1).integers(0, 4, (3, 8, 8)))
  right = benchmark_counts.group_class_counts((label + 1) % 4, label, 4, 4)
  assert metrics.miou(benchmark_counts.oracle_confusion(right)) == 1.0
  one = benchmark_counts.group_class_counts(jnp.zeros_like(label), label, 4, 4)
  assert metrics.miou(benchmark_counts.oracle_confusion(one)) < 0.3


def test_usage_is_a_share_of_the_counted_pixels():
  counts = jnp.array([[[2, 1], [1, 0]], [[0, 0], [0, 0]]], jnp.int32)
  np.testing.assert_allclose(
    benchmark_counts.usage(counts), [[0.75, 0.25], [0.0, 0.0]]
  )


def test_effective_number_of_groups():
  share = jnp.array(
    [[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]
  )
  got = np.asarray(benchmark_counts.effective_number(share))
  assert got == pytest.approx([4.0, 1.0, 2.0], rel=1e-6)
