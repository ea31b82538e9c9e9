"""Slow tests run when asked for, and only then."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TESTS = """
import pytest

@pytest.mark.slow
def test_slow():
  pass

def test_quick():
  pass
"""


@pytest.mark.parametrize(
  ('options', 'runs'), [([], 'test_quick'), (['-m', 'slow'], 'test_slow')]
)
def test_slow_tests_run_with_m_slow_only(tmp_path, options, runs):
  path = tmp_path / 'test_two.py'
  path.write_text(TESTS)
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'pytest', '-q', '--collect-only'),
      *('-c', ROOT / 'pyproject.toml', '--rootdir', tmp_path, path),
      *options,
    ],
    capture_output=True,
    text=True,
    timeout=120,
    cwd=ROOT,
  )
  found = [x for x in done.stdout.splitlines() if '::' in x]
  assert [x.split('::')[1] for x in found] == [runs], done.stdout + done.stderr
