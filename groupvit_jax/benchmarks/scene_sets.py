"""Image-level sets of `scenes`: crops of single things, and captions.

Drawn when asked for, nothing on disk: what CLIP's zero-shot classification,
probes and retrieval are tried on without a download.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax import scenes
from groupvit_jax.benchmarks import base, label_sets
from groupvit_jax.benchmarks.captions import CaptionedImage
from groupvit_jax.benchmarks.classification import LabelledImage
from groupvit_jax.benchmarks.own import SCENES_OPTIONS, ScenesSet

_TRIES = 16  # scenes looked at for one crop
_FIRST_THING = len(scenes.GROUNDS)
_MARGIN = 1.15  # side of a crop, over the longer side of its thing
_LEAST = 0.05  # share of the scene that a thing covers
_MOST_OTHERS = 0.02  # share of a crop that other things cover


def open_set(
  name: str, split: str | None, limit: int | None, options: Mapping[str, Any]
) -> Any:
  """Opens a benchmark by its name; without a count it has `limit` images."""
  base.check_options(name, options, SCENES_OPTIONS)
  kind = SceneCrops if name == label_sets.SCENE_CROPS else SceneCaptions
  options = {'count': limit or SCENES_OPTIONS['count'], **options}
  return kind(split or 'validation', **options).first(limit)


class SceneCrops(ScenesSet):
  """Squares around one thing each; the classes are the twelve things.

  `set[i]` is a `LabelledImage`. Options as of `ScenesSet`; `size` is the side
  of the scene that is cut.
  """

  def __init__(self, split: str = 'validation', **options: int):
    """Chooses scenes."""
    super().__init__(split, **options)
    self.class_names = scenes.THINGS

  def _example(self, index: int) -> LabelledImage:  # pyright: ignore[reportIncompatibleMethodOverride]
    name = self.name(index)
    for number in range(index * _TRIES, (index + 1) * _TRIES):
      image, _, mask = scenes.generate(
        self._seed, index=number, size=self._size
      )
      # Another class first in every scene, so that all come up.
      order = np.roll(np.unique(mask[mask >= _FIRST_THING]), number)
      for label in order.tolist():
        box = _box(mask, label)
        if box is not None:
          top, left, side = box
          crop = image[top : top + side, left : left + side]
          return LabelledImage(name, crop.copy(), label - _FIRST_THING)
    raise AssertionError('no scene of many has a thing that stands alone')


def _box(mask: np.ndarray, label: int) -> tuple[int, int, int] | None:
  """Top, left and side of a square around a class that stands alone."""
  size = len(mask)
  where = mask == label
  if where.mean() < _LEAST:
    return None
  rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
  height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
  side = min(size, int(round(max(height, width) * _MARGIN)))
  top, left = (
    int(np.clip((x[0] + x[-1] + 1 - side) // 2, 0, size - side))
    for x in (rows, columns)
  )
  crop = mask[top : top + side, left : left + side]
  others = (crop >= _FIRST_THING) & (crop != label)
  return (top, left, side) if others.mean() < _MOST_OTHERS else None


class SceneCaptions(ScenesSet):
  """Scenes with their captions; `set[i]` is a `CaptionedImage`."""

  def captions(self, index: int) -> tuple[str, ...]:
    """The captions of a scene, each of the whole of it."""
    index = range(len(self))[index]
    return scenes.generate(self._seed, index=index, size=16).captions

  def _example(self, index: int) -> CaptionedImage:  # pyright: ignore[reportIncompatibleMethodOverride]
    image, captions, _ = scenes.generate(
      self._seed, index=index, size=self._size
    )
    return CaptionedImage(self.name(index), image, captions)
