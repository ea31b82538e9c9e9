"""`groupvit segment` in a folder that holds results already."""

import pathlib

import pytest
import segment_runs
from PIL import Image
from segment_runs import errors, run, save, written

from groupvit_jax.cli import resume


@pytest.fixture
def stub(monkeypatch, tmp_path):
  return segment_runs.start(monkeypatch, tmp_path)


def test_a_run_is_resumed(stub, capsys):
  for name in ('a/x.jpg', 'a/y.jpg'):
    save(name)
  assert run('a') == 0
  assert run('a') == 0
  assert len(stub.loaded) == 1  # nothing to do: no model
  out = capsys.readouterr().out.splitlines()
  assert out[-1] == (
    '2 pictures: 0 segmented, 2 skipped as done before; see out'
  )
  save('a/z.jpg')
  assert run('a') == 0
  assert stub.seen[1:] == [['a/z.jpg']]
  # Another kind is added to what is there.
  before = pathlib.Path('out/x_overlay.png').stat().st_mtime_ns
  assert run('a', '--show', 'overlay,mask') == 0
  assert stub.seen[2:] == [['a/x.jpg', 'a/y.jpg', 'a/z.jpg']]
  assert pathlib.Path('out/x_overlay.png').stat().st_mtime_ns == before
  # What was removed, and what has changed, is made again.
  pathlib.Path('out/x_mask.png').unlink()
  save('a/y.jpg', (80, 40))
  assert run('a', '--show', 'mask') == 0
  assert stub.seen[3:] == [['a/x.jpg', 'a/y.jpg']]
  assert Image.open('out/y_mask.png').size == (80, 40)


def test_a_half_written_journal_is_read(stub):
  save('x.jpg')
  assert run('photo.jpg', 'x.jpg') == 0
  path = pathlib.Path('out', resume.NAME)
  path.write_text(path.read_text()[:-20])
  assert run('photo.jpg', 'x.jpg') == 0
  assert stub.seen[1:] == [['x.jpg']]
  assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
  'line',
  [
    b'[1]',
    b'"text"',
    b'{"picture": 3, "stem": "x", "files": {}, "bytes": 1, "modified": 1}',
    b'{"picture": "a", "stem": "x", "files": [], "bytes": 1, "modified": 1}',
    b'{"picture": "a", "stem": "x", "files": {"mask": 1}}',
    b'\xff\xfe',
  ],
)
def test_lines_that_nobody_wrote_are_passed_over(stub, line):
  save('x.jpg')
  assert run('photo.jpg') == 0
  path = pathlib.Path('out', resume.NAME)
  path.write_bytes(path.read_bytes() + line + b'\n')
  assert run('photo.jpg', 'x.jpg') == 0
  assert stub.seen[1:] == [['x.jpg']]
  path.write_bytes(line + b'\n')
  assert run('photo.jpg', 'x.jpg') == 0


def test_results_of_other_settings_are_not_mixed(stub, capsys):
  assert run('photo.jpg') == 0
  assert run('photo.jpg', labels=('--labels', 'cat')) == 1
  (line,) = errors(capsys)
  assert 'made with another labels: choose another --out' in line
  assert run('photo.jpg', '--soft') == 1
  assert 'another steps' in errors(capsys)[0]
  pathlib.Path('model/model.safetensors').write_bytes(b'new')
  assert run('photo.jpg') == 1
  assert 'another model' in errors(capsys)[0]
  assert run('photo.jpg', '--overwrite') == 0
  assert len(stub.loaded) == 2


def test_pictures_of_the_same_name_have_a_result_each(stub):
  for name in ('a/x.jpg', 'b/x.jpg', 'c/x.jpg'):
    save(name)
  assert run('a/x.jpg') == 0
  assert run('b/x.jpg', 'c/x.jpg') == 0
  assert written() == {
    'x_overlay.png', 'x.jpg_overlay.png', 'x.jpg-2_overlay.png'
  }  # fmt: skip
  assert [path for call in stub.seen for path in call] == [
    'a/x.jpg', 'b/x.jpg', 'c/x.jpg'
  ]  # fmt: skip


def test_an_interrupted_run_goes_on(stub, capsys):
  for i in range(3):
    save(f'a/{i}.jpg')

  def interrupt(path):
    if path == 'a/2.jpg':
      raise KeyboardInterrupt

  stub.fail = interrupt
  assert run('a', '--batch', 1, '--show', 'mask') == 130
  # Four batches are asked for at a time, and none is done.
  (line,) = errors(capsys)
  assert line.startswith('interrupted; the same command goes on')
  stub.fail = lambda path: None
  assert run('a', '--batch', 1, '--show', 'mask') == 0
  assert written() == {'0_mask.png', '1_mask.png', '2_mask.png'}
