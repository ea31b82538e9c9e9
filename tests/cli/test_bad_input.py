"""`groupvit segment` given what it cannot use: a line and an exit code."""

import os
import pathlib

import pytest

from groupvit_jax import cli


def test_a_bad_image_does_not_stop_the_others(stub, capsys):
  for i in range(7):
    stub.save(f'a/{i}.jpg')
  for name in ('a/3.jpg', 'a/5.jpg'):
    pathlib.Path(name).write_text('no image')
  assert stub.run('a', '--batch', 1) == 1
  got = capsys.readouterr()
  assert got.err.splitlines() == [
    'groupvit: error: a/3.jpg is not an image.',
    'groupvit: error: a/5.jpg is not an image.',
  ]
  assert '5 segmented, 2 failed' in got.out
  assert len(stub.written()) == 5
  stub.save('a/3.jpg')
  assert stub.run('a') == 1
  assert '1 segmented, 5 skipped as done before, 1 failed' in (
    capsys.readouterr().out
  )


def test_one_bad_image(stub):
  pathlib.Path('photo.jpg').write_text('no image')
  assert stub.run('photo.jpg') == 1
  assert stub.errors() == ['photo.jpg is not an image.']
  assert not stub.written()
  stub.save('photo.jpg')
  assert stub.run('photo.jpg', labels=('--labels', 'cat')) == 0


def test_what_is_not_about_a_image_is_told_once(stub):
  def fail(path):
    raise ValueError('this model cannot segment')

  stub.fail = fail
  for i in range(9):
    stub.save(f'a/{i}.jpg')
  assert stub.run('a') == 1
  lines = stub.errors()
  assert set(lines) == {'this model cannot segment'}
  assert len(lines) == 2  # a image's, then the run's


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    (['nothing.jpg'], 'nothing.jpg: there is no such file or folder'),
    (['*.webp'], '*.webp holds no images: looked for .jpg'),
    (['model'], 'model holds no images'),
    (['.', '--out', '.'], 'choose another --out'),
    (['photo.jpg', '--out', 'photo.jpg/x'], 'photo.jpg'),
    (['photo.jpg', '--model', 'no'], '/no; give a folder or file'),
    (['~nosuchuser/x.jpg'], '~nosuchuser/x.jpg: there is no such file'),
  ],
)
def test_bad_paths(stub, args, words):
  argv = [
    'segment',
    '--model',
    'model',
    '--out',
    'out',
    '--labels',
    'dog',
    *args,
  ]
  assert cli.main(argv) == 1
  (line,) = stub.errors()
  assert words in line
  assert not pathlib.Path('out').exists()


@pytest.mark.parametrize(
  ('labels', 'words'),
  [
    ('', '--labels names no class'),
    (' , ', '--labels names no class'),
    ('dog,,sky', 'has an empty name in dog,,sky'),
    ('dog|,sky', 'has an empty name'),
    ('dog, Dog', "--labels has 'Dog' twice"),
    ('dog|puppy,puppy', "has 'puppy' twice"),
  ],
)
def test_bad_labels(stub, labels, words):
  assert stub.run('photo.jpg', labels=('--labels', labels)) == 1
  (line,) = stub.errors()
  assert words in line
  assert not stub.loaded


def test_a_label_of_a_thousand_words(stub, capsys):
  long = ' '.join(['word'] * 1000)
  assert stub.run('photo.jpg', labels=('--labels', long)) == 0
  got = capsys.readouterr()
  (line,) = got.err.splitlines()
  assert line.startswith('groupvit: warning: word word')
  # An error that quotes one stays a line that can be read.
  assert stub.run('photo.jpg', labels=('--labels', f'{long},{long}')) == 1
  assert len(stub.errors()[0]) < 200


def test_an_unknown_label_set(stub):
  assert stub.run('photo.jpg', labels=('--labels-from', 'vok')) == 1
  (line,) = stub.errors()
  assert 'vok is no label set and no file: choose one of voc,' in line


@pytest.mark.parametrize(
  'extra',
  [
    ['--show', 'overlays'],
    ['--show', ''],
    ['--background', '2'],
    ['--background', 'nan'],
    ['--batch', '0'],
    ['--templates', 'mine'],
    ['--labels-from', 'voc'],
  ],
)
def test_wrong_options(stub, extra):
  with pytest.raises(SystemExit) as exit_info:
    stub.run('photo.jpg', *extra)
  assert exit_info.value.code == 2
  assert not stub.loaded


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written(stub):
  pathlib.Path('out').mkdir(mode=0o500)
  assert stub.run('photo.jpg') == 1
  assert 'Permission denied' in stub.errors()[0]
