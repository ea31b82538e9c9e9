"""Memory that stays with the process."""

import subprocess
import sys
import textwrap

import pytest

# Maps of memory that the kernel makes and takes back are faults of pages; a
# block of 64 MB that is asked for again must cost none the second time.
CODE = """
  import resource
  import numpy as np
  from groupvit_jax import allocator

  assert {call}

  def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

  faults()
  print(faults())
"""


def faults(call: str) -> int:
  code = textwrap.dedent(CODE.format(call=call))
  command = [sys.executable, '-c', code]
  run = subprocess.run(command, capture_output=True, text=True, check=True)
  return int(run.stdout)


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is asked')
def test_memory_that_is_freed_is_used_again():
  assert faults('allocator.keep_memory()') < 100 < faults('True')
