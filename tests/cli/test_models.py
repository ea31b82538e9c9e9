"""`groupvit classify`, `convert` and `info`: what they pass on and print."""

import json
import pathlib

import pytest

from groupvit_jax import cli


@pytest.fixture(autouse=True)
def images(stub):
  for name in 'ab':
    stub.save(f'{name}.png')


def classify(*args):
  labels = ['--labels', 'a cat,a dog,a house']
  return cli.main(['classify', *args, '--model', 'model', *labels])


def test_classify(stub, capsys):
  assert classify('a.png', 'b.png', '--top', '2') == 0
  want = ['   50.0%  a cat', '   25.0%  a dog']
  assert capsys.readouterr().out.splitlines() == [
    'a.png', *want, 'b.png', *want
  ]  # fmt: skip
  assert stub.calls == [(('a cat', 'a dog', 'a house'), 'subset', 8)]


def test_a_model_that_knows_no_photo_says_so(stub, capsys):
  stub.metadata = {'data': 'scenes, 96 synthetic images'}
  assert classify('a.png') == 0
  told = 'groupvit: note: model was trained on scenes, 96 synthetic images: '
  assert capsys.readouterr().err.startswith(told)


def test_classify_as_json(capsys):
  assert classify('a.png', '--json') == 0
  assert json.loads(capsys.readouterr().out) == {
    'image': 'a.png',
    'classes': {'a cat': 0.5, 'a dog': 0.25, 'a house': 0.125},
  }


def test_classify_goes_on_after_a_bad_image(capsys):
  pathlib.Path('a.png').write_text('no image')
  assert classify('*.png') == 1
  got = capsys.readouterr()
  assert got.out.splitlines()[0] == 'b.png'
  assert got.err == 'groupvit: error: a.png is not an image.\n'
  assert classify('a.png') == 1
  assert capsys.readouterr().err == 'groupvit: error: a.png is not an image.\n'


def test_convert(install, capsys):
  calls = []

  def convert(source, out, **options):
    calls.append((source, out, options))
    return 'GroupViT, 55,726,609 parameters'

  install('convert', convert=convert)
  assert cli.main(['convert', 'a.pth', 'out']) == 0
  assert capsys.readouterr().out == 'GroupViT, 55,726,609 parameters\n'
  more = ['--to', 'huggingface', '--overwrite']
  assert cli.main(['convert', 'a', 'b', *more]) == 0
  path = pathlib.Path
  assert calls == [
    (path('a.pth'), path('out'), {'to': 'groupvit_jax', 'overwrite': False}),
    (path('a'), path('b'), {'to': 'huggingface', 'overwrite': True}),
  ]
