"""Kept programs are those of the same code, identity, shapes and options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import groupvit_jax
from groupvit_jax.inference import traced


@pytest.fixture
def call(tmp_path):
  """Function that calls a kept function as a new process would.

  It returns the result and how often the function was traced.
  """

  def call(*args, factor=2.0, identity='one'):
    traces = []

    def function(tree, x):
      traces.append(x.shape)
      return {'scaled': factor * x + tree['bias'], 'size': len(x)}

    kept = traced.Kept(function, identity, tmp_path / 'programs')
    x = np.ones(*args, np.float32)
    bias = {'bias': jnp.float32(1)}
    found = [jax.jit(kept)(bias, x)['scaled'], kept(bias, x)['scaled']]
    np.testing.assert_array_equal(*found)
    return float(found[0][0]), len(traces)

  call.files = lambda: list((tmp_path / 'programs').iterdir())
  return call


def test_the_next_process_traces_nothing(call):
  assert call(3) == (3.0, 1)
  assert call(3) == (3.0, 0)
  assert call(4) == (3.0, 1)


def test_other_options_and_models_have_their_own(call):
  call(3)
  assert call(3, factor=5.0, identity='two') == (6.0, 1)
  with jax.numpy_rank_promotion('raise'):
    assert call(3)[1] == 1
  assert call(3)[1] == 0


def test_a_damaged_program_is_traced_again(call):
  call(3)
  (path,) = call.files()
  content = path.read_bytes()
  for damaged in (b'', content[:-9], content[:-1] + bytes([content[-1] ^ 1])):
    path.write_bytes(damaged)
    assert call(3) == (3.0, 1)
    assert path.read_bytes() == content
  assert call(3)[1] == 0


def test_edited_code_keeps_nothing(call, monkeypatch):
  """What this process runs is then not what is on disk."""
  monkeypatch.setattr(groupvit_jax, 'IMPORTED', 0.0)
  traced._code.cache_clear()
  try:
    value, traces = call(3)
    assert value == 3.0 and traces
    with pytest.raises(FileNotFoundError):
      call.files()
  finally:
    traced._code.cache_clear()
