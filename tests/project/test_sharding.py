"""Meshes and placement in one process of 8 devices and in two processes."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from groupvit_jax import sharding
from groupvit_jax.losses.contrastive import contrastive_loss
from groupvit_jax.training import texts


def test_mesh_has_one_auto_axis(mesh8):
  assert dict(mesh8.shape) == {'data': 8}
  assert mesh8.axis_types == (AxisType.Auto,)
  assert sharding.make_mesh().size == jax.device_count()


def test_shard_batch_splits_in_order(mesh8):
  batch = {'image': np.arange(32.0).reshape(16, 2), 'label': np.arange(16)}
  placed = sharding.shard_batch(batch, mesh8)
  for name, x in placed.items():
    assert x.sharding == sharding.batch_sharding(mesh8)
    np.testing.assert_array_equal(x, batch[name])
    for i, device in enumerate(mesh8.devices):
      (shard,) = (s for s in x.addressable_shards if s.device == device)
      np.testing.assert_array_equal(shard.data, batch[name][2 * i : 2 * i + 2])


def test_replicate_keeps_values_and_types(mesh8):
  tree = {
    'kernel': jnp.arange(6.0).reshape(2, 3),
    'half': jnp.ones(2, jnp.bfloat16),
    'step': 3,
    'numpy': np.arange(4, dtype=np.uint8),
  }
  placed = sharding.replicate(tree, mesh8)
  for name, x in placed.items():
    assert x.is_fully_replicated and len(x.sharding.device_set) == 8, name
    assert x.dtype == jnp.asarray(tree[name]).dtype, name
  np.testing.assert_array_equal(placed['kernel'], tree['kernel'])


def test_a_replicated_tree_can_be_donated(mesh1):
  original = np.arange(1024, dtype=np.float32)
  placed = sharding.replicate(original, mesh1)
  jax.block_until_ready(jax.jit(lambda x: x * 0, donate_argnums=0)(placed))
  np.testing.assert_array_equal(original, np.arange(1024))


def test_fit_batch_size_rounds_down_to_the_devices():
  assert jax.device_count() == 8
  assert sharding.fit_batch_size(4096) == 4096
  assert sharding.fit_batch_size(4095) == 4088
  assert sharding.fit_batch_size(3) == 8


def pairs(width=4):
  rng = np.random.default_rng(0)
  return rng.normal(size=(2, 8, width)).astype(np.float32)


def loss_and_grad(mesh, weights, image, text):
  def loss(weights, image, text):
    x = image @ weights
    x /= jnp.linalg.norm(x, axis=1, keepdims=True)
    return contrastive_loss(x, text, 5.0, mesh=mesh)

  return jax.jit(jax.value_and_grad(loss))(weights, image, text)


CLUSTERS = {
  'slurm': {
    'SLURM_JOB_ID': '1',
    'SLURM_STEP_NODELIST': '127.0.0.1',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '{index}',
    'SLURM_LOCALID': '{index}',
    'JAX_COORDINATOR_PORT': '{port}',
  },
  'kubernetes': {
    'KUBERNETES_SERVICE_HOST': '10.0.0.1',
    'JOB_COMPLETION_INDEX': '{index}',
    'JAX_COORDINATOR_ADDRESS': '{address}',
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': '{index}',
  },
  # Two slices of one TPU host each, as GKE's JobSet describes them.
  'tpu': {
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    'MEGASCALE_COORDINATOR_ADDRESS': 'localhost:1',
    'MEGASCALE_NUM_SLICES': '2',
    'MEGASCALE_SLICE_ID': '{index}',
    'JAX_COORDINATOR_PORT': '{port}',
  },
}
# On a TPU's machine; without it jax looks for no slices. Read at import.
TPU = {'JAX_FORCE_TPU_INIT': '1'}


def find_the_other_process(address, index, cluster):
  """Body of a child process whose environment is a cluster's."""
  port = address.split(':')[1]
  for name, value in CLUSTERS[cluster].items():
    os.environ[name] = value.format(address=address, port=port, index=index)
  sharding.initialize_distributed()
  sharding.initialize_distributed()  # a second call is harmless
  print(json.dumps([jax.process_index(), sharding.gather(index)]))


@pytest.mark.parametrize('cluster', CLUSTERS)
def test_processes_of_a_cluster_find_each_other(run_two_processes, cluster):
  results = run_two_processes(
    __file__, cluster, variables=TPU if cluster == 'tpu' else {}
  )
  for index, found in enumerate(results):
    assert found == [index, [0, 1]]


def run_one_of_two_processes(address, index):
  """Body of a child process; prints its loss and gradient."""
  jax.distributed.initialize(address, 2, index)
  assert jax.process_count() == 2 and jax.local_device_count() == 1
  mesh = sharding.make_mesh()
  image, text = pairs()
  mine = slice(4 * index, 4 * index + 4)
  image, text = sharding.shard_batch((image[mine], text[mine]), mesh)
  weights = sharding.replicate(jnp.eye(4), mesh)
  # Where device_put of a jax array shows itself broken: 2 shards, 1 device.
  assert [s.data.shape for s in weights.addressable_shards] == [(4, 4)]
  loss, grad = loss_and_grad(mesh, weights, image, text)
  # Process 0 has four short texts, process 1 a short and a long one: both take
  # the same shapes. All but one belong to the second and the fourth image.
  tokens = np.zeros((4, 2, 40), np.int32)
  if index:
    tokens[1, 1, 18] = 9
  else:
    tokens[[1, 1, 3], [0, 1, 0], [2, 3, 4]] = 9
  complete = texts.Texts(mesh)
  cut = [complete({'tokens': tokens[::i]}) for i in (1, 2, 1)]
  shapes = [{k: x[k].shape for k in ('short', 'long') if k in x} for x in cut]
  print(
    json.dumps(
      {'loss': float(loss), 'grad': np.asarray(grad).tolist(), 'cut': shapes}
    )
  )


def test_two_processes_equal_one(run_two_processes):
  loss, grad = loss_and_grad(None, jnp.eye(4), *map(jnp.asarray, pairs()))
  for result in run_two_processes(__file__):
    np.testing.assert_allclose(result['loss'], loss, rtol=1e-5)
    np.testing.assert_allclose(result['grad'], grad, atol=1e-6)
    both = {'short': [4, 8], 'long': [2, 32]}
    assert result['cut'] == [both, {'short': [1, 8]}, both]


if __name__ == '__main__':
  arguments = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
  child = find_the_other_process if sys.argv[3:] else run_one_of_two_processes
  child(*arguments)
