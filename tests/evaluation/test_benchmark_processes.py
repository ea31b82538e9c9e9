"""Two processes count what one counts, and tell each other what failed."""

from pathlib import Path

import jax
import numpy as np
import pytest

from groupvit_jax import sharding

PROGRAM = Path(__file__).with_name('benchmark_process.py')


def test_two_processes_equal_one(runs, stubs, tmp_path, run_two_processes):
  whole = runs.evaluator(runs.labelled()).evaluate(
    stubs.Stub().predict_fns, stubs.PERFECT
  )
  assert 0 < whole.miou < 1
  found = run_two_processes(str(PROGRAM), str(tmp_path))
  failures = 'SourceError: Another process failed: ', 'ImageError: '
  for told, failure in zip(found, failures, strict=True):
    np.testing.assert_array_equal(told['confusion'], whole.confusion_matrix)
    assert told['images'] == 9 and told['states'] == 2
    assert told['error'].startswith(f'{failure}image 3 is not an image')


def test_one_process_has_nothing_to_gather():
  assert sharding.gather({'a': [1]}) == [{'a': [1]}]
  assert sharding.local_mesh(None) is None


@pytest.mark.parametrize('devices', [1, 2])
def test_a_mesh_of_one_process_is_its_own(devices):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  assert sharding.local_mesh(mesh) is mesh
  tree = sharding.replicate({'a': np.arange(3)}, mesh)
  assert sharding.local_view(tree, mesh)['a'] is tree['a']
