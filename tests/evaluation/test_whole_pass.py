"""Whole pictures go on where they were, whatever stopped them, bit by bit."""

import interruption
import numpy as np
import pytest

from groupvit_jax import errors
from groupvit_jax.evaluation import classification
from groupvit_jax.evaluation.resume import Journal, in_memory

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
  return classification.Found(positions, counts, VECTORS[positions])


def run(journal, measure=found, **options):
  classification.run(batches(journal.done), measure, journal, **options)
  table = np.stack([journal.rows[i] for i in sorted(journal.rows)])
  return {name: int(x) for name, x in journal.counts.items()}, table


def test_nothing_is_kept_but_in_memory():
  counts, table = run(in_memory(None))
  assert counts == {'sum': 21, 'images': COUNT}
  np.testing.assert_array_equal(table, VECTORS)


@pytest.mark.parametrize('kind', ['float32', 'bfloat16'])
def test_a_journal_holds_vectors_to_the_last_bit(tmp_path, kind):
  import jax.numpy as jnp

  path = tmp_path / 'journal'
  journal = Journal(path, {'a': 1})
  vectors = VECTORS.astype(jnp.dtype(kind))
  journal.add({'n': np.array(2)}, [4, 1], vectors[:2])
  journal.save()
  again = Journal(path, {'a': 1})
  assert again.done == {1, 4} and again.counts == {'n': 2}
  for place, row in ((4, 0), (1, 1)):
    assert again.rows[place].dtype == vectors.dtype
    assert again.rows[place].tobytes() == vectors[row].tobytes()
  with pytest.raises(errors.WorkdirError, match='with another a; delete it'):
    Journal(path, {'a': 2})
  path.write_text(path.read_text().replace('"done": [1, 4]', '"done": [1]'))
  with pytest.raises(errors.WorkdirError, match='is not the journal of an'):
    Journal(path, {'a': 1})


def test_a_journal_of_nothing_is_none(tmp_path):
  """It would refuse the command once that is corrected."""
  path = tmp_path / 'journal'
  Journal(path, {'a': 1}).save()
  assert not path.exists()
  journal = Journal(path, {'a': 1})
  journal.add({'n': np.array(1)}, [0])
  journal.save()
  # As earlier versions have left them.
  path.write_text(path.read_text().replace('"done": [0]', '"done": []'))
  assert Journal(path, {'a': 2}).counts == {}


def test_what_differs_is_said_with_its_option(tmp_path):
  journal = Journal(tmp_path / 'journal', {'pictures': 1, 'measures': 1})
  journal.add({'n': np.array(1)}, [0])
  journal.save()
  told = r'other measures \(--no-boundary\) and other pictures \(--limit'
  with pytest.raises(errors.WorkdirError, match=told):
    Journal(tmp_path / 'journal', {'pictures': 2, 'measures': 2})


def test_an_interruption_at_any_line_counts_no_picture_twice(tmp_path):
  """Ctrl-C comes between any two lines; the next run finds the same."""
  path = tmp_path / 'journal'

  def interrupted(place):
    return interruption.at_line(
      place,
      lambda: run(Journal(path, {}), every=4),
      ('classification.py', 'resume.py'),
      ('run', 'keep', '_fetched', 'add'),
    )

  place = 1
  while interrupted(place):
    counts, table = run(Journal(path, {}), every=4)
    assert counts == {'sum': 21, 'images': COUNT}, place
    np.testing.assert_array_equal(table, VECTORS)
    path.unlink()
    place += 1
  assert place > 30


def test_says_what_is_wrong():
  with pytest.raises(ValueError, match='gave no batches'):
    classification.run([], found, in_memory(None))
  padding = [np.full(2, -1)]
  with pytest.raises(ValueError, match='No picture of the evaluation set coun'):
    classification.run(padding, found, in_memory(None))
