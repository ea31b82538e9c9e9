"""Mutated files are read or refused: no crash, no hang, no gigabyte.

The long form, whose figures stand in docs/reliability.md, is
`pytest -m slow tests/faults/test_fuzz.py -s`.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent
SEED = 13


def fuzz(counts: dict[str, int], home: pathlib.Path) -> None:
  environment = os.environ | {
    'PYTHONPATH': str(FOLDER.parents[1]),
    'JAX_PLATFORMS': 'cpu',
    'HOME': str(home),
    'TMPDIR': str(home),
    'PYTHONWARNINGS': 'ignore',
  }
  arguments = ','.join(counts), ','.join(map(str, counts.values())), str(SEED)
  done = subprocess.run(
    [sys.executable, str(FOLDER / 'fuzz.py'), *arguments],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  results = map(json.loads, done.stdout.splitlines()[-len(counts) :])
  for result, (kind, count) in zip(results, counts.items(), strict=True):
    print(result)
    assert result['kind'] == kind
    assert result['failures'] == [], result
    assert sum(result['outcomes'].values()) == count
    assert 'refused' in ' '.join(result['outcomes'])


def test_mutated_files(tmp_path):
  # What takes much memory comes last: growth is that of the peak.
  fuzz({'pth': 60, 'tars': 60, 'folders': 25, 'images': 200}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('kind', 'count'),
  [('images', 10_000), ('tars', 2000), ('folders', 1000), ('pth', 500)],
)
def test_many_mutated_files(kind, count, tmp_path):
  fuzz({kind: count}, tmp_path)
