"""Two processes count what one counts, and tell each other what failed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_runs import Examples, bands, evaluator
from stub_models import PERFECT, Stub

from groupvit_jax import sharding


def labelled():
  """Nine pictures, some truth of which the stub does not see."""
  examples = bands(9, widths=(8,))
  for i, example in enumerate(examples):
    example.label[i % 4, :] = 255 if i % 2 else 3
  return examples


def run_one_of_two_processes(address, index, folder):
  """Body of a child process; prints what it found."""
  sharding.initialize_distributed(address, 2, index)
  mesh = sharding.make_mesh()
  variables = sharding.replicate(PERFECT, mesh)
  assert not variables['shift'].is_fully_addressable
  path = Path(folder) / 'state.jsonl'
  result = evaluator(labelled(), mesh=mesh, resume_path=path).evaluate(
    Stub().predict_fns, variables
  )
  told = {
    'confusion': result.confusion_matrix.tolist(),
    'images': result.images,
    'states': len(list(Path(folder).iterdir())),
  }
  # Of two halves one is broken: both end, with its name.
  try:
    evaluator(Examples(labelled(), bad=[3]), mesh=mesh).evaluate(
      Stub().predict_fns, variables
    )
  except Exception as error:
    told['error'] = f'{type(error).__name__}: {error}'
  print(json.dumps(told))


def test_two_processes_equal_one(tmp_path, run_two_processes):
  whole = evaluator(labelled()).evaluate(Stub().predict_fns, PERFECT)
  assert 0 < whole.miou < 1
  flags = '--xla_backend_optimization_level=0'
  found = run_two_processes(__file__, str(tmp_path), flags=flags)
  failures = 'SourceError: Another process failed: ', 'ImageError: '
  for told, failure in zip(found, failures, strict=True):
    np.testing.assert_array_equal(told['confusion'], whole.confusion_matrix)
    assert told['images'] == 9 and told['states'] == 2
    assert told['error'].startswith(f'{failure}picture 3 is not an image')


def test_one_process_has_nothing_to_gather():
  assert sharding.gather({'a': [1]}) == [{'a': [1]}]
  assert sharding.local_mesh(None) is None


@pytest.mark.parametrize('devices', [1, 2])
def test_a_mesh_of_one_process_is_its_own(devices):
  import jax  # noqa: PLC0415  (the children set up their processes first)

  mesh = sharding.make_mesh(jax.devices()[:devices])
  assert sharding.local_mesh(mesh) is mesh
  tree = sharding.replicate({'a': np.arange(3)}, mesh)
  assert sharding.local_view(tree, mesh)['a'] is tree['a']


if __name__ == '__main__':
  run_one_of_two_processes(sys.argv[1], int(sys.argv[2]), sys.argv[3])
