"""Huge pages are asked for once, whatever stood in the environment before."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from groupvit_jax import allocator
print('begin', flush=True)
allocator.start_with_huge_pages()
print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:], sep='|')
"""


def run(given: str | None) -> list[str]:
  environ = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  if given is not None:
    environ['GLIBC_TUNABLES'] = given
  command = [sys.executable, '-c', CODE, 'an argument', '--flag']
  done = subprocess.run(
    command, env=environ, capture_output=True, text=True, check=True
  )
  return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is asked')
@pytest.mark.parametrize(
  ('given', 'after'),
  [
    (None, 'glibc.malloc.hugetlb=1'),
    ('glibc.malloc.perturb=0', 'glibc.malloc.perturb=0:glibc.malloc.hugetlb=1'),
  ],
)
def test_the_program_starts_anew_once_with_its_arguments(given, after):
  assert run(given) == ['begin', 'begin', f'{after}|an argument|--flag']


def test_a_setting_of_the_user_stays():
  given = 'glibc.malloc.hugetlb=0'
  assert run(given) == ['begin', f'{given}|an argument|--flag']
