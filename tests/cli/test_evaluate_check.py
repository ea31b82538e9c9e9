"""What `groupvit evaluate` refuses before it looks at model or data.

There is neither here, so that anything later would be another error.
"""

import os
import pathlib

import pytest

from groupvit_jax import cli


def refused(capsys, *args: str | os.PathLike) -> str:
  """The one line that a command ends in."""
  argv = ['evaluate', '--model', 'no model', *map(str, args)]
  assert cli.main(argv) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('groupvit: error: ')
  return line


@pytest.mark.parametrize(
  ('args', 'reason'),
  [
    (['voc21'], 'voc21 needs its folder: give --data DIR'),
    (['scenes', '--data', 'x'], 'scenes are drawn, from no folder; leave --da'),
    (['classes', '--data', 'x', '--size', '9'], '--size is of segmentation'),
    (['classes', '--data', 'x', '--protocol', 'tcl'], '--protocol is of segm'),
    (['imagenet', '--data', 'x', '--diagnosis'], '--diagnosis is of segmenta'),
    (['captions', '--data', 'x', '--no-boundary'], '--no-boundary is of segm'),
    (['captions', '--data', 'x', '--class-names', 'x'], 'have no classes; lea'),
    (['scenes', '--num-groups', '3'], '--num-groups is for --regions kmeans'),
    (
      ['scenes', '--regions', 'pixels', '--num-groups', '3'],
      '--num-groups is for --regions kmeans and spectral; leave it out',
    ),
    (['scenes', '--overwrite'], '--overwrite replaces what --out names'),
    (
      ['scenes', '--size', '9', '--set', 'short_side=3'],
      '--size sets short_side too; give one of the two',
    ),
    (['scenes', '--set', 'top_k'], 'write FIELD=VALUE'),
    (['scenes', '--set', 'top_k=1', '--set', 'segment.top_k=2'], 'top_k twice'),
  ],
)
def test_options_that_do_nothing(capsys, args, reason):
  assert reason in refused(capsys, '--benchmark', *args)


@pytest.mark.parametrize('benchmark', ['scenes', 'classes', 'captions'])
def test_reports_that_cannot_be_written(capsys, tmp_path, benchmark):
  data = [] if benchmark == 'scenes' else ['--data', tmp_path]
  (tmp_path / 'file').write_text('')
  places = {
    tmp_path: 'is a folder: --out names a file',
    '/dev/null': '/dev/null is no regular file',
    tmp_path / 'none' / 'x.json': 'none: there is no such folder; make it',
    tmp_path / 'file' / 'x.json': 'file: there is no such folder; make it',
    tmp_path / 'file': 'exists: choose another --out, or replace it with',
    tmp_path / ('x' * 250): 'File name too long): choose another --out',
  }
  for out, reason in places.items():
    args = '--benchmark', benchmark, *data, '--out', out
    assert reason in refused(capsys, *args)
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def closed_folder(tmp_path) -> pathlib.Path:
  """A folder in which nobody may make a file: for root there is but one."""
  if os.geteuid():
    tmp_path.chmod(0o500)
    return tmp_path
  if not os.path.isdir('/proc/self'):
    pytest.skip('needs a folder that even root cannot write to; run as a user')
  return pathlib.Path('/proc/self')


def test_a_folder_that_one_may_not_write_to(capsys, tmp_path):
  out = closed_folder(tmp_path) / 'x.json'
  for more in ([], ['--overwrite']):
    said = refused(capsys, '--benchmark', 'scenes', '--out', out, *more)
    assert f'{out} cannot be written (' in said
