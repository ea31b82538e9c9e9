"""Every file of the newest checkpoint is damaged in every way."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.training import checkpoint


def tree(step: int):
  """Something of each kind: a matrix, a vector, a number, an empty one."""
  x = jnp.arange(3000, dtype=jnp.float32).reshape(50, 60)
  return {
    'params': {'kernel': x * step, 'bias': x[0] + step},
    'step': jnp.int32(step),
    'half': (x[1] / step).astype(jnp.bfloat16),
  }


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Checkpoints of steps 1 and 2."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpoints = checkpoint.Checkpoints(workdir)
  for step in (1, 2):
    checkpoints.save(step, tree(step), {'position': step})
    checkpoints.wait()
  checkpoints.close()
  return workdir


def restored_step(workdir) -> int:
  """The step that is restored, all of it as it was; a later one is saved."""
  checkpoints = checkpoint.Checkpoints(workdir)
  state, meta = checkpoints.restore(tree(0))
  step = int(state['step'])
  for name, x in tree(step)['params'].items():
    np.testing.assert_array_equal(state['params'][name], x)
  np.testing.assert_array_equal(state['half'], tree(step)['half'])
  assert meta['position'] == step
  for following in range(step + 1, 4):
    checkpoints.save(following, tree(following), {'position': following})
  checkpoints.close()
  steps = [path.name for path in (workdir / 'checkpoints').iterdir()]
  assert '3' in steps
  return step


def test_damage_is_noticed_and_the_older_one_taken(
  saved, tmp_path, damage, newest_files
):
  names = [path.relative_to(saved) for path in newest_files(saved)]
  failed = []
  for i, name in enumerate(names):
    workdir = tmp_path / str(i)
    shutil.copytree(saved, workdir)
    damage(workdir / name, i)
    try:
      # Some files say nothing that a restore needs: then it is the newest.
      assert restored_step(workdir) in (1, 2)
    except Exception as error:
      failed.append(f'{name}: {error!r:.150}')
  assert not failed, '\n'.join(failed)
