"""A stand-in model, and a folder to run commands in."""

import pathlib
import sys
import types
import warnings

import numpy as np
import pytest
from PIL import Image

import groupvit_jax
from groupvit_jax import cli
from groupvit_jax.cli import resume
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.inference.regions import ImageRegions as Regions
from groupvit_jax.inference.result import Segmentation as Real

LABELS = ('--labels', 'dog,grass|lawn,sky')


class Segmentation:
  """What `Model.segment` returns, with every computed attribute written out."""

  def __init__(self, image, names, background):
    self.image, self.background = image, background
    self.names = (('background',) if background else ()) + tuple(
      name.split('|')[0] for name in names
    )
    height, width = image.shape[:2]
    columns = np.arange(width) * min(3, len(self.names)) // width
    self.labels = columns[None].repeat(height, 0).astype(np.int32)
    self.scores = np.stack([self.labels == i for i in range(len(self.names))])
    self.scores = self.scores.astype(np.float32) * 0.75
    self.groups = [self.labels * 2 + 1, self.labels]
    self.entropy = 0.5 if 'nothing' in names else 0.25

  def areas(self):
    counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
    return {n: int(k) for n, k in zip(self.names, counts, strict=True) if k}

  def boxes(self):
    found = {}
    for i, name in enumerate(self.names):
      y, x = np.nonzero(self.labels == i)
      if len(y):
        size = int(np.ptp(x)) + 1, int(np.ptp(y)) + 1
        found[name] = (int(x.min()), int(y.min()), *size)
    return found

  def mean_scores(self):
    return dict.fromkeys(self.areas(), 0.75)

  size = property(lambda self: self.image.shape[:2])
  overlay, mask = Real.overlay, Real.mask
  pred, unsure, summary = Real.pred, Real.unsure, Real.summary
  groups_overlay = Regions.groups_overlay


class Stub:
  """A stand-in for `groupvit_jax.inference`, and a log of how it was used.

  It opens images, returns real types and can be made to fail. Its methods run
  `groupvit segment` in the current folder, where it puts a model and an image.

  Attributes:
    loaded: paths of the models.
    seen: images of every `segment` call.
    configs: of every call.
    fail: called with every image; may raise.
    config: the model's own.
    metadata: the model's.
  """

  def __init__(self, capsys):
    self._capsys = capsys
    self.loaded, self.seen, self.configs, self.calls = [], [], [], []
    self.fail = lambda path: None
    self.config = SegmentConfig(background_threshold=0.95)
    self.metadata = {}

  def load(self, path):
    if not path.exists():
      raise ValueError(f'{path}: there is no model')
    self.loaded.append(path)
    return self

  def _open(self, path):
    self.fail(path)
    try:
      return np.asarray(Image.open(path).convert('RGB'))
    except OSError:
      raise ValueError(f'{path} is not an image.') from None

  def segment(self, images, names, config, *, templates, batch_size):
    self.seen.append(images)
    self.configs.append(config)
    self.calls.append((tuple(names), templates, batch_size))
    for name in names:
      if len(name.split()) > 70:
        warnings.warn(f'{name[:40]}... is cut', stacklevel=2)
    background = config.background_threshold is not None
    return [
      Segmentation(self._open(path), names, background) for path in images
    ]

  def encode(self, images, config, *, batch_size):
    return self.segment(
      images, ['a'], config, templates='simple', batch_size=batch_size
    )

  def classify(self, images, names, *, templates, batch_size):
    self.calls.append((tuple(names), templates, batch_size))
    shares = [2.0 ** -(i + 1) for i in range(len(names))]
    for path in images:
      self._open(path)
    return [dict(zip(names, shares, strict=True)) for _ in images]

  def run(self, *args, labels=LABELS, out='out'):
    options = ['--model', 'model', '--out', out, *labels]
    return cli.main(['segment', *map(str, args), *options])

  def save(self, path, size=(60, 40)):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert('RGB').save(path)

  def errors(self) -> list[str]:
    lines = self._capsys.readouterr().err.splitlines()
    assert all(line.startswith('groupvit: error: ') for line in lines)
    return [line.removeprefix('groupvit: error: ') for line in lines]

  def written(self, folder='out'):
    paths = pathlib.Path(folder).rglob('*')
    names = {str(p.relative_to(folder)) for p in paths if p.is_file()}
    return names - {resume.NAME}


@pytest.fixture
def install(monkeypatch):
  """Function that replaces a module of the package by a stand-in."""

  def install(name, **attributes):
    module = types.ModuleType(f'groupvit_jax.{name}')
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, f'groupvit_jax.{name}', module)
    monkeypatch.setattr(groupvit_jax, name, module, raising=False)

  return install


@pytest.fixture
def stub(install, monkeypatch, tmp_path, capsys):
  """A stand-in model, in a folder with `model` and `photo.jpg`."""
  stub = Stub(capsys)
  install('inference', load=stub.load)
  monkeypatch.chdir(tmp_path)
  pathlib.Path('model').mkdir()
  stub.save('photo.jpg')
  return stub
