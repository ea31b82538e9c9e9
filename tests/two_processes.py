"""Runs a test file twice, as two processes that find each other."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def run(
  file: str, *arguments: str, flags: str = '', seconds: int = 300
) -> list[dict]:
  """What both processes print last, which is JSON, in their order.

  Args:
    file: gets an address, its index and the arguments on its command line.
    *arguments: further ones.
    flags: XLA_FLAGS of the processes.
    seconds: after which they hang, and not merely take their time.

  Raises:
    AssertionError: a process failed; its errors are the message.
  """
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': flags,
    'PYTHONPATH': f'{Path(__file__).parents[1]}:{Path(__file__).parent}',
  }
  children = [
    subprocess.Popen(
      [sys.executable, file, address, str(i), *arguments],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    outputs = [child.communicate(timeout=seconds) for child in children]
  finally:
    for child in children:
      child.kill()
  for child, (_, err) in zip(children, outputs, strict=True):
    assert child.returncode == 0, err
  # The last line: gloo announces its connection on stdout.
  return [json.loads(out.strip().splitlines()[-1]) for out, _ in outputs]
