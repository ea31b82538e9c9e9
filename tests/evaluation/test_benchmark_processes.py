"""A mesh of one process; of two, see tests/cli/test_evaluate_processes.py."""

import jax
import numpy as np
import pytest

from groupvit_jax import sharding


def test_one_process_has_nothing_to_gather():
  assert sharding.gather({'a': [1]}) == [{'a': [1]}]
  assert sharding.local_mesh(None) is None


@pytest.mark.parametrize('devices', [1, 2])
def test_a_mesh_of_one_process_is_its_own(devices):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  assert sharding.local_mesh(mesh) is mesh
  tree = sharding.replicate({'a': np.arange(3)}, mesh)
  assert sharding.local_view(tree, mesh)['a'] is tree['a']
