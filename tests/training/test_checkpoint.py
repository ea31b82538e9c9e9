"""Checkpoints that can, or cannot, be read."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import errors
from groupvit_jax.training import checkpoint


def save_two(tmp_path: pathlib.Path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  for step in (1, 2):
    checkpoints.save(step, {'w': jnp.full(3, float(step))}, {'position': step})
    checkpoints.wait()
  checkpoints.close()


def test_restore_gives_the_newest(tmp_path):
  save_two(tmp_path)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  state, meta = checkpoints.restore({'w': jnp.zeros(3)})
  np.testing.assert_array_equal(state['w'], np.full(3, 2.0))
  assert meta == {'position': 2}
  checkpoints.close()


def test_restore_falls_back_where_the_newest_is_broken(tmp_path):
  save_two(tmp_path)
  for file in (tmp_path / 'checkpoints' / '2' / 'state').rglob('*'):
    if file.is_file():
      file.write_bytes(b'')
  checkpoints = checkpoint.Checkpoints(tmp_path)
  state, meta = checkpoints.restore({'w': jnp.zeros(3)})
  np.testing.assert_array_equal(state['w'], np.full(3, 1.0))
  assert meta == {'position': 1}
  # The step can be saved again, and what was broken is kept aside.
  checkpoints.save(2, {'w': jnp.full(3, 9.0)}, {'position': 2})
  checkpoints.wait()
  assert checkpoints.latest == 2
  assert (tmp_path / 'checkpoints_unreadable' / '2').exists()
  checkpoints.close()


def test_a_run_is_read_to_the_host_without_its_configuration(tmp_path):
  save_two(tmp_path)
  step, arrays = checkpoint.read_newest(tmp_path)
  assert step == 2
  np.testing.assert_array_equal(arrays['w'], np.full(3, 2.0))
  meta = tmp_path / 'checkpoints' / '2' / 'meta' / 'metadata'
  meta.write_text(meta.read_text().replace('2', '3'))  # against its digest
  assert checkpoint.read_newest(tmp_path)[0] == 1


def test_a_checkpoint_without_a_digest_is_taken_as_it_is(tmp_path):
  save_two(tmp_path)
  for path in (tmp_path / 'checkpoint_digests').iterdir():
    path.unlink()
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.restore({'w': jnp.zeros(3)})[1] == {'position': 2}
  checkpoints.close()


def test_restore_of_nothing_but_broken_ones_says_so(tmp_path):
  save_two(tmp_path)
  for file in (tmp_path / 'checkpoints').rglob('state/**/*'):
    if file.is_file():
      file.write_bytes(b'')
  checkpoints = checkpoint.Checkpoints(tmp_path)
  with pytest.raises(errors.WorkdirError, match='none of the checkpoints'):
    checkpoints.restore({'w': jnp.zeros(3)})
  checkpoints.close()


def test_restore_without_checkpoints_is_none(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.restore({'w': jnp.zeros(3)}) is None
  checkpoints.close()
