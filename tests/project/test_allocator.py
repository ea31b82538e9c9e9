"""Huge pages are asked for once, whatever stood in the environment before."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from groupvit_jax import allocator
print('begin', flush=True)
allocator.start_with_huge_pages({program!r})
print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:], sep='|')
"""


def run(given: str | None, program: str = '--flag') -> list[str]:
  environ = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  if given is not None:
    environ['GLIBC_TUNABLES'] = given
  code = CODE.format(program=program)
  command = [sys.executable, '-c', code, 'an argument', '--flag']
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


def test_the_process_of_another_program_is_left_alone():
  assert run(None, 'groupvit_jax.main') == ['begin', 'None|an argument|--flag']


def test_training_asks_for_huge_pages():
  code = (
    'import os, runpy, sys\n'
    'os.execv = lambda path, command: print(*command[1:])\n'
    "sys.orig_argv = ['python', '-m', 'groupvit_jax.main', '--help']\n"
    "sys.argv = ['main', '--help']\n"
    "os.environ.pop('GLIBC_TUNABLES', None)\n"
    "runpy.run_module('groupvit_jax.main', run_name='__main__')\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert done.stdout.splitlines()[0] == '-m groupvit_jax.main --help'
