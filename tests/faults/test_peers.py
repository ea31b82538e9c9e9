"""One process of two ends or hangs: the other ends too, with one line."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from groupvit_jax import errors, peers
from tests.fixtures.processes import free_address


def other_of(
  what: str, victim: int, environment: dict[str, str]
) -> tuple[int, str]:
  """Exit code and errors of the process whose neighbour meets its fate."""
  address = free_address()
  processes = [
    subprocess.Popen(
      [sys.executable, __file__, address, str(i), str(victim), what],
      env=environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    _, err = processes[1 - victim].communicate(timeout=120)
  finally:
    for process in processes:
      process.kill()
      process.wait()
  return processes[1 - victim].returncode, err


@pytest.mark.parametrize(
  ('what', 'victim', 'message'),
  [
    ('kill', 1, 'process 1 of 2 has not answered'),
    ('stop', 0, 'process 0, which connects the processes, does not answer'),
    pytest.param(
      *('raise', 1, 'process 1 of 2 has failed'), marks=pytest.mark.slow
    ),
  ],
)
def test_the_other_process_ends_with_one_line(
  what, victim, message, plain_environment
):
  code, err = other_of(what, victim, plain_environment)
  assert code == 1, err
  (line,) = [x for x in err.splitlines() if x.startswith('error: ')]
  assert message in line
  assert 'Traceback' not in err and 'stack trace' not in err


@pytest.mark.slow
def test_jax_has_the_first_word_where_process_0_is_killed_and_we_the_last(
  plain_environment,
):
  code, err = other_of('kill', 0, plain_environment)
  assert code
  assert 'process 0, which connects the 2 processes, is gone' in err


def run(address: str, index: int, victim: int, what: str) -> None:
  """Exchanges numbers with the other process until one is gone."""
  peers.BEAT, peers.SILENCE, peers.SUSPICION = 0.5, 4.0, 2.0
  jax.distributed.initialize(address, 2, index)
  with peers.watched():
    for i in range(1000):
      multihost_utils.process_allgather(np.int32(i))
      if i == 20 and index == victim:
        if what == 'raise':
          raise errors.SourceError('all samples are bad')
        end = signal.SIGKILL if what == 'kill' else signal.SIGSTOP
        os.kill(os.getpid(), end)
      time.sleep(0.1)


if __name__ == '__main__':
  run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
