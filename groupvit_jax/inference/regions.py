"""Encoded images: their groups, and classes without a second forward pass."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image
from scipy import special

from groupvit_jax.evaluation import regrouping, resize, scoring, sizes
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions
from groupvit_jax.inference.result import Segmentation
from groupvit_jax.viz import overlay as overlay_lib

if TYPE_CHECKING:
  from groupvit_jax.inference.model import Model

# Numbers that a step works on: 4 MB stay in a cache; 64 MB took four times as
# long.
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageRegions:
  """An image after the network: all that does not depend on words.

  Attributes:
    image: its RGB pixels, as they were read (turned upright, say).
    regions: embeddings and soft maps, a batch of one (numpy).
    scaled: (h, w) at which the network saw the image.
    shapes: the padded shapes of that.
    config: what `segment` takes by default: the config that it was encoded
      with; of a result, that of its answer, whose groups are remade already.
    model: its model.
  """

  image: UInt8[np.ndarray, 'h w 3']
  regions: Regions
  scaled: sizes.Size
  shapes: sizes.Shapes
  config: SegmentConfig
  model: 'Model'

  @functools.cached_property
  def groups(self) -> list[Int32[np.ndarray, 'h w']]:
    """The strongest group of each pixel, for every grouping stage.

    The groups of the last stage are those that get names; remade groups are a
    stage of their own. With sliding windows a pixel shows the window that it is
    most central in, and the groups of window i are numbered from i times their
    number.
    """
    # On the host: every size of an image would be another program.
    size = self.image.shape[:2]
    regions = jax.device_get(regrouping.apply(self.regions, self.config))
    return [
      _stage_groups(maps[0], regions, self.scaled, size)
      for maps in regions.stages
    ]

  def groups_overlay(
    self, stage: int = -1, max_side: int | None = 2048
  ) -> Image.Image:
    """The image with the groups of a stage in colour; by default the last."""
    shown = overlay_lib.groups_overlay(
      self.image, self.groups[stage], max_side=max_side
    )
    return Image.fromarray(shown)

  def segment(
    self,
    names: Sequence[str],
    config: SegmentConfig | None = None,
    *,
    templates: str | Sequence[str] = 'simple',
    background: bool | None = None,
  ) -> Segmentation:
    """Finds the named classes in the image.

    Args:
      names, templates, background: as in `Model.segment`.
      config: None for `self.config`.

    Raises:
      LabelError: a list of names that cannot be used.
      ValueError: the config has another size or other windows than
        `self.config`, or regroups where that one does not; encode again.
    """
    config = config or self.config
    if self.model.plan(config) != self.model.plan(self.config):
      raise ValueError(
        'The image was encoded at another size or with other windows; encode '
        'it again with this config.'
      )
    return self.find(
      self.model.class_list(names, config, templates, background)
    )

  def find(self, classes: 'ClassList') -> Segmentation:
    """`segment`, of classes whose embeddings are at hand."""
    regions = regrouping.apply(self.regions, classes.config)
    scores = scoring.score(regions, classes.embeddings, classes.config)
    regions, scores = jax.device_get((regions, scores))
    as_they_are = dataclasses.replace(classes.config, regroup='none')
    return Segmentation(
      dataclasses.replace(self, regions=regions, config=as_they_are),
      classes.names,
      classes.config.background_threshold is not None,
      scores,
      classes.config,
      _entropy(regions, classes.embeddings),
    )

  def __repr__(self) -> str:
    height, width = self.image.shape[:2]
    return f'ImageRegions({width} x {height})'


@dataclasses.dataclass(frozen=True)
class ClassList:
  """Classes to look for.

  Attributes:
    embeddings: padded to a static number.
    names: as results show them, the background first if there is one.
    config: see `SegmentConfig`.
  """

  embeddings: scoring.ClassEmbeddings
  names: tuple[str, ...]
  config: SegmentConfig


def _entropy(regions: Regions, classes: scoring.ClassEmbeddings) -> float:
  """Mean entropy of the softmax over classes, of groups by their area."""
  count = int(np.sum(classes.valid))
  if count < 2:
    return 0.0
  cosines = np.einsum(
    'nge,cse->ngcs', regions.embeddings[0], np.asarray(classes.vectors)[:count]
  )
  logits = cosines.max(-1) * float(classes.logit_scale)
  odds = special.softmax(logits, axis=-1)
  entropies = special.entr(odds).sum(-1) / np.log(count)
  maps, grids = regions.stages[-1][0], regions.grids[0]
  areas = np.array(
    [soft[:h, :w].sum((0, 1)) for soft, (h, w) in zip(maps, grids, strict=True)]
  )
  return float(np.average(entropies, weights=areas))


def _stage_groups(maps, regions, scaled, size):
  """The strongest group of each pixel, from soft maps n h w g.

  The groups of window i are numbered from i times their number.
  """
  out = np.zeros(size, np.int32)
  places = regions.places[0].tolist()
  starts = [sorted({place[axis] for place in places}) for axis in (0, 1)]
  for i, (place, grid) in enumerate(zip(places, regions.grids[0], strict=True)):
    owned, tokens = zip(
      *(
        _owned(starts[axis], place[axis], place[2 + axis], scaled[axis], side)
        for axis, side in enumerate(size)
      ),
      strict=True,
    )
    rows, columns = (
      token * (count / side) - 0.5
      for token, count, side in zip(tokens, grid, place[2:], strict=True)
    )
    best = strongest(maps[i, : grid[0], : grid[1]], rows, columns)
    out[np.ix_(*owned)] = best + i * maps.shape[3]
  return out


def _owned(starts, start, length, scaled, size):
  """Along one side: the pixels that a window owns, and their places in it.

  Neighbouring windows share their overlap half and half.
  """
  places = (np.arange(size) + 0.5) * (scaled / size)
  bounds = [(b + a + length) / 2 for a, b in itertools.pairwise(starts)]
  owner = np.searchsorted(bounds, places, side='right')
  mine = np.flatnonzero(owner == starts.index(start))
  return mine, places[mine] - start


def strongest(
  maps: Float[np.ndarray, 'h w g'],
  rows: Float[np.ndarray, 'H'],
  columns: Float[np.ndarray, 'W'],
) -> Int32[np.ndarray, 'H W']:
  """The group with the largest share at places between tokens.

  Args:
    maps: soft maps on the token grid.
    rows, columns: places in tokens, 0 at the centre of the first.

  Returns:
    Groups; shares are interpolated bilinearly.
  """
  top, bottom, down = resize.neighbours(rows, maps.shape[0])
  left, right, across = resize.neighbours(columns, maps.shape[1])
  out = np.empty((len(rows), len(columns)), np.int32)
  step = max(1, _CHUNK // (4 * max(len(columns), 1) * maps.shape[2]))
  for start in range(0, len(rows), step):
    part = slice(start, start + step)
    weight = down[part, None, None]
    mixed = resize.lerp(maps[top[part]], maps[bottom[part]], weight)
    mixed = resize.lerp(mixed[:, left], mixed[:, right], across[:, None])
    out[part] = mixed.argmax(-1)
  return out
