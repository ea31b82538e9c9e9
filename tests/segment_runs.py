"""`groupvit segment` with a stand-in model: how the tests run it."""

import pathlib

import stub_inference
from PIL import Image

from groupvit_jax import cli
from groupvit_jax.cli import resume

LABELS = ('--labels', 'dog,grass|lawn,sky')


def start(monkeypatch, folder) -> stub_inference.Stub:
  """Goes to a folder with a picture and a stand-in model."""
  stub = stub_inference.Stub()
  stub_inference.install(monkeypatch, 'inference', load=stub.load)
  monkeypatch.chdir(folder)
  pathlib.Path('model').mkdir()
  save('photo.jpg')
  return stub


def save(path, size=(60, 40)):
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.effect_noise(size, 60).convert('RGB').save(path)


def run(*args, labels=LABELS, out='out'):
  args = map(str, args)
  return cli.main(['segment', *args, '--model', 'model', '--out', out, *labels])


def errors(capsys) -> list[str]:
  lines = capsys.readouterr().err.splitlines()
  assert all(line.startswith('groupvit: error: ') for line in lines)
  return [line.removeprefix('groupvit: error: ') for line in lines]


def written(folder='out'):
  paths = pathlib.Path(folder).rglob('*')
  names = {str(p.relative_to(folder)) for p in paths if p.is_file()}
  return names - {resume.NAME}
