"""Steps without a finite gradient change nothing; spikes are told."""

import jax
import numpy as np

from configs.gvit_s import get_config
from groupvit_jax import sharding
from groupvit_jax.training import gradients
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib

TINY = (
  'demo,batch=8,size=16,patch=8,width=16,model.num_heads=1,depths=1x0,'
  'text.width=16,text.num_heads=1,joint.embed_dim=8,tokens=3x0,groups=3x0,'
  'joint.projector_width=8'
)


def test_a_step_that_is_not_finite_changes_nothing_but_its_number(mesh1):
  config = get_config(TINY)
  task = task_lib.make(config, 50, mesh1)
  tx, _ = state_lib.make_optimizer(config)
  state = state_lib.create_state(task, tx, config, mesh1)
  metrics_class = state_lib.make_train_metrics(task, state, config)
  step = state_lib.make_train_step(task, tx, metrics_class, mesh1)
  metrics = sharding.replicate(metrics_class.empty(), mesh1)
  rng = np.random.default_rng(0)
  # Floating images count as normalised.
  image = rng.normal(size=(8, 16, 16, 3)).astype(np.float32)
  tokens = rng.integers(1, 50, (8, 4, 20)).astype(np.int32)
  bad = image.copy()
  bad[3, 0, 0, 0] = np.nan
  states = [jax.device_get(state.replace(rng=None))]
  for pixels in (image, bad, bad, image, bad):
    batch = sharding.shard_batch({'image': pixels, 'tokens': tokens}, mesh1)
    state, metrics = step(state, metrics, batch)
    states.append(jax.device_get(state.replace(rng=None)))
  assert [s.step for s in states] == [0, 1, 2, 3, 4, 5]

  def equal(a, b):
    same = jax.tree.map(np.array_equal, a.replace(step=0), b.replace(step=0))
    return all(jax.tree.leaves(same))

  unchanged = [equal(states[i], states[i + 1]) for i in range(5)]
  assert unchanged == [False, True, True, False, True]
  found = metrics.compute()
  assert found['skipped'].tolist() == [5, 3, 1]
  assert np.isfinite(found['loss']) and np.isfinite(found['grad_norm'])
  norm, at = found['largest'].tolist()
  assert at in (1, 4) and norm >= found['grad_norm']


def test_the_monitor_counts_over_intervals_and_tells_spikes():
  rows = [{'train/grad_norm': 1.0, 'train/skipped_steps': 2.0}] * 9
  rows += [{'train/grad_norm': None}]  # all of these were skipped
  monitor = gradients.GradientMonitor(rows)
  assert monitor.skipped == 2

  def update(skipped, largest=(1.0, 7.0)):
    return monitor.update(np.array(skipped), np.array(largest, np.float32), 1.0)

  assert update([4, 3, 2]) == ''
  assert (monitor.skipped, monitor.in_a_row) == (5, 2)
  update([2, 2, 2])
  assert (monitor.skipped, monitor.in_a_row) == (7, 4)
  assert 'step 8: ' in update([5, 1, 1], (30.0, 8.0))
  assert monitor.in_a_row == 1
