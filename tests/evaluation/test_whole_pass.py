"""Whole pictures go on where they were, whatever stopped them, bit by bit."""

import numpy as np
import pytest

from groupvit_jax import errors
from groupvit_jax.evaluation import classification
from groupvit_jax.evaluation.resume import ResumeState

COUNT, BATCH = 7, 2
VECTORS = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)


def batches(done):
  """Positions of the pictures that are left, filled up by -1."""
  left = [i for i in range(COUNT) if i not in done]
  for i in range(0, len(left), BATCH):
    batch = left[i : i + BATCH]
    yield np.array(batch + [-1] * (BATCH - len(batch)))


def found(positions):
  """Of every picture its number and its vector."""
  real = positions[positions >= 0]
  counts = {'sum': np.array(real.sum()), 'images': np.array(len(real))}
  return classification.BatchOutput(positions, counts, VECTORS[positions])


def run(state, measure=found, **options):
  classification.run(batches(state.done), measure, state, **options)
  table = np.stack([state.rows[i] for i in sorted(state.rows)])
  return {name: int(x) for name, x in state.counts.items()}, table


def test_nothing_is_kept_but_in_memory():
  counts, table = run(ResumeState())
  assert counts == {'sum': 21, 'images': COUNT}
  np.testing.assert_array_equal(table, VECTORS)


@pytest.mark.parametrize('kind', ['float32', 'bfloat16'])
def test_a_resume_state_holds_vectors_to_the_last_bit(tmp_path, kind):
  import jax.numpy as jnp

  path = tmp_path / 'state.jsonl'
  vectors = VECTORS.astype(jnp.dtype(kind))
  ResumeState(path, {'a': 1}).add({'n': np.array(2)}, [4, 1], vectors[:2])
  again = ResumeState(path, {'a': 1})
  assert again.done == {1, 4} and again.counts == {'n': 2}
  for place, row in ((4, 0), (1, 1)):
    assert again.rows[place].dtype == vectors.dtype
    assert again.rows[place].tobytes() == vectors[row].tobytes()
  with pytest.raises(errors.WorkdirError, match='with another a; delete it'):
    ResumeState(path, {'a': 2})


def test_a_line_that_was_cut_short_is_counted_again(tmp_path):
  path = tmp_path / 'state.jsonl'
  state = ResumeState(path)
  assert not path.exists()
  for i in range(3):
    state.add({'n': np.array([i, 1])}, [i])
  path.write_bytes(path.read_bytes()[:-9])
  state = ResumeState(path)
  assert state.done == {0, 1}
  state.add({'n': np.array([2, 1])}, [2])
  state = ResumeState(path)
  assert state.done == {0, 1, 2} and state.counts['n'].tolist() == [3, 3]
  # A file of settings alone is begun anew, whatever they are.
  path.write_bytes(path.read_bytes().splitlines(True)[0])
  ResumeState(path, {'a': 2}).add({'n': np.array([9, 9])}, [5])
  assert ResumeState(path, {'a': 2}).done == {5}


def test_a_difference_is_named_with_its_option(tmp_path):
  path = tmp_path / 'state.jsonl'
  state = ResumeState(path, {'images': 1, 'measures': 1})
  state.add({'n': np.array(1)}, [0])
  message = r'other images \(--limit, --split\) and other measures \(--no-bound'
  with pytest.raises(errors.WorkdirError, match=message):
    ResumeState(path, {'images': 2, 'measures': 2})


def test_an_interruption_at_any_line_counts_no_picture_twice(
  tmp_path, interrupt_at_line
):
  """Ctrl-C comes between any two lines; the next run finds the same."""
  path = tmp_path / 'state.jsonl'

  def interrupted(place):
    return interrupt_at_line(
      place,
      lambda: run(ResumeState(path), every=4),
      ('classification.py', 'resume.py'),
      ('run', 'keep', '_fetched', 'add', 'append', '_count'),
    )

  place = 1
  while interrupted(place):
    counts, table = run(ResumeState(path), every=4)
    assert counts == {'sum': 21, 'images': COUNT}, place
    np.testing.assert_array_equal(table, VECTORS)
    path.unlink()
    place += 1
  assert place > 30


def test_says_what_is_wrong():
  with pytest.raises(ValueError, match='gave no batches'):
    classification.run([], found, ResumeState())
  padding = [np.full(2, -1)]
  with pytest.raises(ValueError, match='No image of the evaluation set coun'):
    classification.run(padding, found, ResumeState())
