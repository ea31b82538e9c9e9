"""A stand-in for `groupvit_jax.inference` that sees classes in stripes.

The command line needs a model that opens pictures, answers in the real types
and can be told to fail; it needs no network for that.
"""

import sys
import types
import warnings

import numpy as np
from PIL import Image

import groupvit_jax
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.viz import overlay as overlay_lib


class Segmentation:
  """What `Model.segment` returns, with every attribute written out."""

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

  @property
  def areas(self):
    counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
    return {n: int(k) for n, k in zip(self.names, counts, strict=True) if k}

  @property
  def boxes(self):
    found = {}
    for i, name in enumerate(self.names):
      y, x = np.nonzero(self.labels == i)
      if len(y):
        size = int(np.ptp(x)) + 1, int(np.ptp(y)) + 1
        found[name] = (int(x.min()), int(y.min()), *size)
    return found

  @property
  def mean_scores(self):
    return dict.fromkeys(self.areas, 0.75)

  def overlay(self):
    return Image.fromarray(
      overlay_lib.overlay_with_names(
        self.image, self.labels, self.names, background=self.background
      )
    )


class Stub:
  """The module, and a log of how it was used.

  Attributes:
    loaded: paths of the models.
    seen: pictures of every `segment` call.
    configs: of every call.
    fail: called with every picture; may raise.
    no_groups: whether results have no groups.
    config: the model's own.
  """

  def __init__(self):
    self.loaded, self.seen, self.configs, self.calls = [], [], [], []
    self.fail = lambda path: None
    self.no_groups = False
    self.config = SegmentConfig(background_threshold=0.95)

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
    results = [
      Segmentation(self._open(path), names, background) for path in images
    ]
    for result in results if self.no_groups else ():
      result.groups = []
    return results

  def classify(self, images, names, *, templates, batch_size):
    self.calls.append((tuple(names), templates, batch_size))
    shares = [2.0 ** -(i + 1) for i in range(len(names))]
    for path in images:
      self._open(path)
    return [dict(zip(names, shares, strict=True)) for _ in images]


def install(monkeypatch, name, **attributes):
  """Puts a module of the package, or a stand-in for it, in its place."""
  module = types.ModuleType(f'groupvit_jax.{name}')
  vars(module).update(attributes)
  monkeypatch.setitem(sys.modules, f'groupvit_jax.{name}', module)
  monkeypatch.setattr(groupvit_jax, name, module, raising=False)
