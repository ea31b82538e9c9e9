"""Resume states: what is on disk counts once, to the last bit."""

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import errors
from groupvit_jax.evaluation.resume import ResumeState, added

VECTORS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


def test_counts_pass_32_bits():
  batch = {'n': jnp.array([2**31 - 1, 1]), 'share': jnp.array(0.5)}
  total = {}
  for _ in range(9):
    total = added(total, batch)
  assert total['n'].tolist() == [9 * (2**31 - 1), 9]
  assert total['share'] == 4.5


@pytest.mark.parametrize('kind', ['float32', 'bfloat16'])
def test_a_resume_state_holds_vectors_to_the_last_bit(tmp_path, kind):
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
