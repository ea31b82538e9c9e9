"""Losses do not depend on how a run lies on its devices."""

import json
import sys

import jax
import numpy as np
import pytest

from configs import clip, gvit_s
from groupvit_jax import errors, sharding
from groupvit_jax.training import accumulate, checkpoint, texts
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib

# With Gumbel noise, drop-path and erasing: functions of seed, step and example.
TINY = (
  'demo,matmul_operands=float32,batch=16,size=16,patch=8,width=32,'
  'model.num_heads=2,depths=1x0,tokens=4x0,groups=4x0,'
  'model.drop_path_rate=0.3,data.erase_probability=0.5,'
  'text.width=16,text.num_heads=1,text.context_length=20,joint.embed_dim=16,'
  'joint.projector_width=16,optimizer.warmup_steps=3,steps=60'
)
VOCABULARY = 60


def batch_at(step, rows=slice(None)):
  rng = np.random.default_rng(step)
  tokens = rng.integers(1, VOCABULARY - 1, (16, 4, 20)).astype(np.int32)
  tokens[:, 0, -1] = tokens[:, 1:, 9] = VOCABULARY - 1  # captions are longer
  tokens[:, 1:, 10:] = 0
  image = rng.integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
  return {'image': image[rows], 'tokens': tokens[rows]}


class Run:
  """A run of `TINY` on a mesh."""

  def __init__(self, mesh, options='', parts=1):
    self.config = gvit_s.get_config(f'{TINY}{options}')
    self.mesh = mesh
    self._complete = texts.Texts(mesh, parts=parts)
    task = task_lib.make(self.config, VOCABULARY, mesh)
    tx, _ = state_lib.make_optimizer(self.config)
    self.state = state_lib.create_state(task, tx, self.config, mesh)
    self._class = state_lib.make_train_metrics(task, self.state, self.config)
    placement = sharding.state_sharding(self.state, mesh)
    self._step = state_lib.make_train_step(
      *(task, tx, self._class, mesh), placement=placement, accumulated=parts
    )

  def losses(self, steps, rows=slice(None)):
    found = []
    for step in range(int(self.state.step), steps):
      batch = self._complete(batch_at(step, rows))
      batch = sharding.shard_batch(batch, self.mesh)
      metrics = sharding.replicate(self._class.empty(), self.mesh)
      self.state, metrics = self._step(self.state, metrics, batch)
      found.append(float(metrics.compute()['loss']))
    return found


def mesh_of(devices, fsdp=1):
  return sharding.make_mesh(jax.devices()[:devices], fsdp)


@pytest.mark.parametrize(
  'name', ['muon', pytest.param('adamw', marks=pytest.mark.slow)]
)
def test_a_split_state_trains_as_a_whole_one_and_moves(tmp_path, name):
  """4 x 2 devices, in parts; its checkpoint goes on on one."""
  options = f',optimizer.name={name}'
  plain = Run(mesh_of(1), options)
  want = plain.losses(5)
  first = Run(mesh_of(8, 2), options, parts=2)
  losses = first.losses(3)
  kernel = first.state.params['image']['stage_0']['block_0']['mlp']['fc1']
  shape = kernel['kernel'].addressable_data(0).shape
  assert kernel['kernel'].shape == (32, 128) and shape == (32, 64)
  sizes = [x.addressable_data(0).size for x in jax.tree.leaves(first.state)]
  total = sum(x.size for x in jax.tree.leaves(first.state))
  assert sum(sizes) < 0.6 * total
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(3, first.state, {})
  checkpoints.wait()
  plain.state, _ = checkpoints.restore(plain.state)
  np.testing.assert_allclose(losses + plain.losses(5), want, rtol=1e-5)
  checkpoints.close()
  assert checkpoint.health(tmp_path) == [{'step': 3, 'health': 'digest ok'}]


CLIP_TINY = (
  'demo,matmul_operands=float32,batch=16,size=16,patch=8,width=16,'
  'model.depth=1,model.num_heads=1,text.width=16,text.num_heads=1,'
  'text.context_length=20,joint.embed_dim=8'
)


@pytest.mark.parametrize(
  ('shape', 'file', 'options'),
  [
    # All terms of `tied`, and a background.
    ((4, 2), gvit_s, f'{TINY},loss.background_weight=1.0'),
    # Two stages in the released form.
    pytest.param(
      (1, 1),
      gvit_s,
      f'{TINY},depths=1x1x0,tokens=4x2x0,groups=4x2x0,loss.part_weight=0.0,'
      'loss.noun_match=pooled,model.group_residual=true,loss.share_nouns=false',
      marks=pytest.mark.slow,
    ),
    pytest.param((1, 1), gvit_s, f'{TINY},clip', marks=pytest.mark.slow),
    ((2, 1), clip, f'{CLIP_TINY},sigmoid'),
  ],
)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
  tiny, shape, file, options
):
  """Noise, drop-path, erasing and the projectors' batch norm included."""
  config, mesh = file.get_config(options), mesh_of(*shape)
  task = task_lib.make(config, VOCABULARY, mesh)
  batch, rng = batch_at(0), jax.random.key(5)
  if file is clip:
    batch['tokens'] = batch['tokens'][:, :1]
  variables = tiny.drawn(task.init, jax.random.key(0), batch)
  variables = sharding.replicate(variables, mesh)
  batch = texts.Texts(mesh, parts=4)(batch)
  batch = sharding.shard_batch(batch, mesh)

  @jax.jit
  def both(variables, batch):
    def loss_fn(params):
      return task.loss_fn({**variables, 'params': params}, batch, rng)

    whole = jax.grad(loss_fn, has_aux=True)(variables['params'])
    arguments = variables, batch, rng
    return whole, accumulate.gradients(task.parts, arguments, 4, mesh)

  (want, want_aux), (found, aux) = both(variables, batch)
  largest = max(float(abs(x).max()) for x in jax.tree.leaves(want))
  assert largest > 1e-3
  jax.tree.map(lambda a, b: tiny.assert_near(a, b, 1e-5 * largest), found, want)
  jax.tree.map(lambda a, b: tiny.assert_near(a, b, 1e-5), aux, want_aux)


def test_groups_that_do_not_divide_the_devices_are_refused():
  with pytest.raises(errors.ConfigError, match='does not divide 8 devices'):
    sharding.make_mesh(jax.devices()[:8], 3)


@pytest.mark.slow
def test_fifty_steps_on_every_mesh_and_in_two_processes(run_two_processes):
  want = Run(mesh_of(1)).losses(50)
  for devices, fsdp in ((2, 1), (2, 2), (8, 1), (8, 2), (8, 4), (8, 8)):
    losses = Run(mesh_of(devices, fsdp)).losses(50)
    np.testing.assert_allclose(losses, want, rtol=1e-5)
  for fsdp in '1', '2', '8':
    for losses in run_two_processes(__file__, fsdp, devices=4):
      np.testing.assert_allclose(losses, want, rtol=1e-5)


def run_one_of_two_processes(address, index, fsdp):
  jax.distributed.initialize(address, 2, index)
  rows = slice(8 * index, 8 * index + 8)
  run = Run(sharding.make_mesh(fsdp=fsdp))
  print(json.dumps(run.losses(50, rows)))


if __name__ == '__main__':
  run_one_of_two_processes(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
