"""`python -m groupvit_jax.main --distributed`: two processes train as one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = (
  f'{ROOT}/configs/gvit_s.py:demo,batch=8,examples=24,size=16,patch=8,'
  'width=16,depths=1x0,tokens=3x0,groups=3x0,model.num_heads=2,'
  'text.width=16,text.depth=1,text.num_heads=2,text.context_length=16,'
  'joint.embed_dim=16,eval.source=,run.log_every=1,'
  'matmul_operands=float32'  # else each run chooses by its own timing
)
QUICK = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true '
)


def train(
  processes: int, workdir: pathlib.Path, *options: str, seconds: int = 240
) -> list[subprocess.CompletedProcess]:
  """Trains on two devices of one process, or of two of one device each."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  cache = workdir.parent / 'cache'
  config = ','.join([CONFIG, f'data.cache={cache}', *options])
  command = [sys.executable, '-m', 'groupvit_jax.main', f'--config={config}']
  command.append(f'--workdir={workdir}')
  count = f'--xla_force_host_platform_device_count={2 // processes}'
  environment = os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': QUICK + count,
  }
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
  ended = [child.communicate(timeout=seconds) for child in children]
  for child, (_, err) in zip(children, ended, strict=True):
    assert child.returncode == 0, err
  return ended


def losses(workdir: pathlib.Path) -> dict[int, float]:
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return {row['step']: row['train/loss'] for row in rows}


def test_two_processes_train_as_one_and_go_on_as_one(tmp_path):
  train(1, tmp_path / 'one', 'steps=4')
  (first, _), (second, _) = train(2, tmp_path / 'two', 'steps=4')
  want = losses(tmp_path / 'one')
  assert len(want) == 4
  assert losses(tmp_path / 'two') == pytest.approx(want, rel=1e-6)
  # Process 0 alone writes; both say how it went.
  assert 'report' in first and 'report' in second


def test_without_a_cluster_the_error_says_what_to_set(tmp_path):
  command = [sys.executable, '-m', 'groupvit_jax.main', f'--config={CONFIG}']
  done = subprocess.run(
    [*command, f'--workdir={tmp_path}', '--distributed'],
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1
  (line,) = [x for x in done.stderr.splitlines() if x.startswith('error')]
  assert 'JAX_NUM_PROCESSES' in line and 'Traceback' not in done.stderr
