"""Checkpoints of a run of two processes: one digest, one decision."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from groupvit_jax import sharding
from groupvit_jax.training import checkpoint


def test_a_fault_in_one_process_counts_for_both(run_two_processes, tmp_path):
  for result in run_two_processes(__file__, str(tmp_path)):
    assert result == {'whole': 2, 'after a fault': 1}
  assert (tmp_path / 'checkpoints_unreadable' / '2').is_dir()
  digests = {path.name for path in (tmp_path / 'checkpoint_digests').iterdir()}
  assert digests == {'1.json', '2.json'}
  # One process goes on from what two have written.
  checkpoints = checkpoint.Checkpoints(tmp_path)
  wanted = {'w': np.full(3, 1.0), 'rows': np.arange(4.0)}
  empty = jax.tree.map(jnp.zeros_like, wanted)
  state, meta = checkpoints.restore(empty)
  checkpoints.close()
  assert meta == {'position': 1}
  jax.tree.map(np.testing.assert_array_equal, state, wanted)


def run_one_of_two_processes(address, index, workdir):
  """Saves twice, restores, and restores once more where one cannot read."""
  jax.distributed.initialize(address, 2, index)
  mesh = sharding.make_mesh()
  checkpoints = checkpoint.Checkpoints(pathlib.Path(workdir))
  for step in (1, 2):
    state = sharding.replicate({'w': np.full(3, step, np.float32)}, mesh)
    rows = np.arange(2.0, dtype=np.float32) + 2 * index
    state |= sharding.shard_batch({'rows': rows}, mesh)
    checkpoints.save(step, state, {'position': step})
    checkpoints.wait()
  steps = {'whole': checkpoints.restore(state)[1]['position']}
  if index == 1:  # reads other bytes than the first process

    def other_bytes(step, args, manager=checkpoints._manager):
      restored = type(manager).restore(manager, step, args=args)
      wrong = restored['meta'] | ({'position': 9} if step == 2 else {})
      return {'state': restored['state'], 'meta': wrong}

    checkpoints._manager.restore = other_bytes
  steps['after a fault'] = checkpoints.restore(state)[1]['position']
  checkpoints.close()
  print(json.dumps(steps))


if __name__ == '__main__':
  run_one_of_two_processes(sys.argv[1], int(sys.argv[2]), sys.argv[3])
