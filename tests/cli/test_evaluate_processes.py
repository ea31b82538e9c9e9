"""`groupvit evaluate --distributed`: two processes measure what one does."""

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

# By the folder of their data, the benchmark and its options.
COMMANDS = {
  'scenes': (
    'scenes',
    *('--size', '16', '--no-boundary'),
    *('--set', 'data.count=5', '--set', 'data.size=16'),
  ),
  'captions': ('captions', '--batch', '2'),
  # The second process has a bad image.
  'skipped': ('classes', '--batch', '2', '--skip-bad'),
}
FAILING = {'failing': ('classes', '--batch', '2')}


def arguments(name: str, root: Path, out: Path) -> list[str]:
  """The command line of a benchmark, whose data lie in a folder."""
  benchmark, *options = (COMMANDS | FAILING)[name]
  argv = ['evaluate', '--model', str(root / 'model'), '--benchmark', benchmark]
  if name != 'scenes':
    argv += ['--data', str(root / name)]
  return [*argv, *options, '--out', str(out / f'{name}.json')]


def run_one_of_two_processes(address, index, root):
  """Body of a child process, which Open MPI seems to have started."""
  os.environ |= {
    'OMPI_MCA_orte_hnp_uri': '1.0;tcp://127.0.0.1:1',
    'OMPI_COMM_WORLD_SIZE': '2',
    'OMPI_COMM_WORLD_RANK': index,
    'OMPI_COMM_WORLD_LOCAL_RANK': index,
    'JAX_COORDINATOR_ADDRESS': address,
  }
  from groupvit_jax import cli  # noqa: PLC0415  (it looks at the environment)

  root = Path(root)
  ended, told = {}, io.StringIO()
  for name in (*COMMANDS, *FAILING):
    argv = arguments(name, root, root / f'process {index}')
    with contextlib.redirect_stderr(told):
      ended[name] = cli.main([*argv, '--distributed'])
  print(json.dumps({'ended': ended, 'told': told.getvalue()}))


@pytest.fixture(scope='module')
def root(tmp_path_factory, evaluation_folders, run_two_processes):
  """A model and data, and the reports of one process and of two."""
  import jax  # noqa: PLC0415  (the children look at their environment first)

  from groupvit_jax import cli  # noqa: PLC0415

  root = tmp_path_factory.mktemp('distributed')
  evaluation_folders.model(root / 'model')
  for name in ('skipped', 'failing'):
    evaluation_folders.classified(root / name)
    (root / name / 'cat' / '1.png').write_bytes(b'no image')
  evaluation_folders.captioned(root / 'captions', 5)
  for place in ('alone', 'process 0', 'process 1'):
    (root / place).mkdir()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'device_count', lambda *_: 1)
    for name in COMMANDS:
      assert cli.main(arguments(name, root, root / 'alone')) == 0
  found = run_two_processes(__file__, str(root), seconds=900)
  codes = dict.fromkeys(COMMANDS, 0) | dict.fromkeys(FAILING, 1)
  for process, start in zip(
    found, ('Another process failed: ', ''), strict=True
  ):
    assert process['ended'] == codes
    assert re.search(f'error: {start}.*1.png is not an image', process['told'])
  return root


def test_the_first_process_alone_leaves_reports(root):
  """What failed can be resumed: the second process had measured nothing."""
  found = {path.name for path in (root / 'process 0').iterdir()}
  reports = {f'{name}.json' for name in COMMANDS}
  assert found == reports | {'failing.json.resume.jsonl.0-of-2'}
  assert not list((root / 'process 1').iterdir())


@pytest.mark.parametrize('name', COMMANDS)
def test_two_processes_find_what_one_does(root, name):
  one, two = (
    json.loads((root / place / f'{name}.json').read_text())
    for place in ('alone', 'process 0')
  )
  assert one['images'] == two['images'] > 4
  assert one['settings'] == two['settings']
  assert one['skipped'] == two['skipped']
  assert len(one['skipped']) == (name == 'skipped')
  assert one['model'] == two['model']
  assert two['versions']['device'].startswith('2 x ')
  assert one.get('confusion_matrix') == two.get('confusion_matrix')
  assert one['figures'] == pytest.approx(two['figures'])


if __name__ == '__main__':
  run_one_of_two_processes(*sys.argv[1:])
