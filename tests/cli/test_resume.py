"""`groupvit segment` in a folder that holds results already."""

import json
import pathlib

import pytest
from PIL import Image

from groupvit_jax.cli import resume


def test_a_run_is_resumed(stub, capsys):
  for name in ('a/x.jpg', 'a/y.jpg'):
    stub.save(name)
  assert stub.run('a') == 0
  assert stub.run('a') == 0
  assert len(stub.loaded) == 1  # nothing to do: no model
  out = capsys.readouterr().out.splitlines()
  assert out[-1] == ('2 images: 0 segmented, 2 skipped as done before; see out')
  stub.save('a/z.jpg')
  assert stub.run('a') == 0
  assert stub.seen[1:] == [['a/z.jpg']]
  # Another kind is added to what is there.
  before = pathlib.Path('out/x_overlay.png').stat().st_mtime_ns
  assert stub.run('a', '--show', 'overlay,mask') == 0
  assert stub.seen[2:] == [['a/x.jpg', 'a/y.jpg', 'a/z.jpg']]
  assert pathlib.Path('out/x_overlay.png').stat().st_mtime_ns == before
  # What was removed, and what has changed, is made again.
  pathlib.Path('out/x_mask.png').unlink()
  stub.save('a/y.jpg', (80, 40))
  assert stub.run('a', '--show', 'mask') == 0
  assert stub.seen[3:] == [['a/x.jpg', 'a/y.jpg']]
  assert Image.open('out/y_mask.png').size == (80, 40)


def test_a_line_that_was_cut_short_is_done_again(stub):
  stub.save('x.jpg')
  assert stub.run('photo.jpg', 'x.jpg') == 0
  path = pathlib.Path('out', resume.NAME)
  path.write_text(path.read_text()[:-20])
  for _ in range(2):
    assert stub.run('photo.jpg', 'x.jpg') == 0
    assert stub.seen[1:] == [['x.jpg']]


@pytest.mark.parametrize(
  'line',
  [
    b'[1]',
    b'{"image": 3, "stem": "x", "files": {}, "bytes": 1, "modified": 1}',
    b'{"image": "a", "stem": "x", "files": {"mask": 1}}',
    b'\xff\xfe',
    b'[' * 10**5,
  ],
)
def test_lines_of_another_form_are_passed_over(stub, line):
  stub.save('x.jpg')
  assert stub.run('photo.jpg') == 0
  path = pathlib.Path('out', resume.NAME)
  path.write_bytes(path.read_bytes() + line + b'\n')
  assert stub.run('photo.jpg', 'x.jpg') == 0
  assert stub.seen[1:] == [['x.jpg']]
  path.write_bytes(line + b'\n')
  assert stub.run('photo.jpg', 'x.jpg') == 0
  assert stub.run('photo.jpg', 'x.jpg') == 0
  assert len(stub.seen) == 3


@pytest.mark.parametrize('name', ['../photo', '/tmp/photo', 'a/../../photo'])
def test_nothing_is_written_outside_the_folder(stub, name):
  """Whatever names stand in a file that came with a folder."""
  assert stub.run('photo.jpg') == 0
  path = pathlib.Path('out', resume.NAME)
  settings, line = map(json.loads, path.read_text().splitlines())
  line |= {'stem': name, 'files': {}}
  path.write_text(f'{json.dumps(settings)}\n{json.dumps(line)}\n')
  before = set(pathlib.Path().rglob('*'))
  assert stub.run('photo.jpg') == 0
  assert set(pathlib.Path().rglob('*')) == before
  assert len(stub.seen) == 2


def test_results_of_other_settings_are_not_mixed(stub):
  assert stub.run('photo.jpg') == 0
  assert stub.run('photo.jpg', labels=('--labels', 'cat')) == 1
  (line,) = stub.errors()
  assert 'made with other labels: choose another --out' in line
  assert stub.run('photo.jpg', '--soft') == 1
  assert 'other steps' in stub.errors()[0]
  pathlib.Path('model/model.safetensors').write_bytes(b'new')
  assert stub.run('photo.jpg') == 1
  assert 'other model' in stub.errors()[0]
  assert stub.run('photo.jpg', '--overwrite') == 0
  assert len(stub.loaded) == 2


def test_images_of_the_same_name_have_a_result_each(stub):
  for name in ('a/x.jpg', 'b/x.jpg', 'c/x.jpg'):
    stub.save(name)
  assert stub.run('a/x.jpg') == 0
  assert stub.run('b/x.jpg', 'c/x.jpg') == 0
  assert stub.written() == {
    'x_overlay.png', 'x.jpg_overlay.png', 'x.jpg-2_overlay.png'
  }  # fmt: skip
  assert [path for call in stub.seen for path in call] == [
    'a/x.jpg', 'b/x.jpg', 'c/x.jpg'
  ]  # fmt: skip


def test_an_interrupted_run_goes_on(stub):
  for i in range(3):
    stub.save(f'a/{i}.jpg')

  def interrupt(path):
    if path == 'a/2.jpg':
      raise KeyboardInterrupt

  stub.fail = interrupt
  assert stub.run('a', '--batch', 1, '--show', 'mask') == 130
  # Four batches are asked for at a time, and none is done.
  (line,) = stub.errors()
  assert line.startswith('interrupted; the same command resumes it')
  stub.fail = lambda path: None
  assert stub.run('a', '--batch', 1, '--show', 'mask') == 0
  assert stub.written() == {'0_mask.png', '1_mask.png', '2_mask.png'}
