"""`python -m groupvit_jax.main --distributed`: two processes train as one."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.fixtures.processes import free_address

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f'{ROOT}/configs/gvit_s.py'


def train(
  processes: int, workdir: pathlib.Path, arg: str, environment: dict[str, str]
) -> list[subprocess.CompletedProcess]:
  """Trains on two devices of one process, or of two of one device each."""
  address = free_address()
  cache = workdir.parent / 'cache'
  config = f'{CONFIG}:{arg},steps=2,eval.source=,data.cache={cache}'
  command = [sys.executable, '-m', 'groupvit_jax.main', f'--config={config}']
  command.append(f'--workdir={workdir}')
  count = str(2 // processes)
  environment = environment | {'JAX_NUM_CPU_DEVICES': count}
  children = []
  for i in range(processes):
    cluster = {
      'JAX_COORDINATOR_ADDRESS': address,
      'JAX_NUM_PROCESSES': str(processes),
      'JAX_PROCESS_ID': str(i),
    }
    several = processes > 1
    children.append(
      subprocess.Popen(
        [*command, '--distributed'] if several else command,
        env=environment | (cluster if several else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  ended = [child.communicate(timeout=240) for child in children]
  for child, (_, err) in zip(children, ended, strict=True):
    assert child.returncode == 0, err
  return ended


def losses(workdir: pathlib.Path) -> dict[int, float]:
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return {row['step']: row['train/loss'] for row in rows}


def test_two_processes_train_as_one(tmp_path, base_environment, tiny_run):
  train(1, tmp_path / 'one', tiny_run, base_environment)
  (first, _), (second, _) = train(
    2, tmp_path / 'two', tiny_run, base_environment
  )
  want = losses(tmp_path / 'one')
  assert len(want) == 2
  assert losses(tmp_path / 'two') == pytest.approx(want, rel=1e-6)
  # Process 0 alone writes; both say how it went.
  assert 'report' in first and 'report' in second


def test_without_a_cluster_the_error_says_what_to_set(
  tmp_path, base_environment, tiny_run
):
  command = [sys.executable, '-m', 'groupvit_jax.main']
  command.append(f'--config={CONFIG}:{tiny_run}')
  done = subprocess.run(
    [*command, f'--workdir={tmp_path}', '--distributed'],
    env=base_environment,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1
  (line,) = [x for x in done.stderr.splitlines() if x.startswith('error')]
  assert 'JAX_NUM_PROCESSES' in line and 'Traceback' not in done.stderr
