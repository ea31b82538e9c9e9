"""One of the processes of test_benchmark_processes.py."""

import json
import sys
from pathlib import Path

import jax

from groupvit_jax import sharding
from tests.fixtures.runs import Examples, evaluator, labelled
from tests.fixtures.stubs import PERFECT, Stub


def run_one_of_two_processes(address, index, folder):
  """Evaluates its share and prints the result."""
  jax.distributed.initialize(address, 2, index)
  mesh = sharding.make_mesh()
  variables = sharding.replicate(PERFECT, mesh)
  assert not variables['shift'].is_fully_addressable
  path = Path(folder) / 'state.jsonl'
  result = evaluator(labelled(), mesh=mesh, resume_path=path).evaluate(
    Stub().predict_fns, variables
  )
  message = {
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
    message['error'] = f'{type(error).__name__}: {error}'
  print(json.dumps(message))


if __name__ == '__main__':
  run_one_of_two_processes(sys.argv[1], int(sys.argv[2]), sys.argv[3])
