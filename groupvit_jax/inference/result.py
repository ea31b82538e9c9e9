"""Results of segmentation: labels, scores, groups, and images of them.

Everything at the image's own size is computed when it is first asked for.
"""

import dataclasses
import functools
import itertools

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8
from PIL import Image

from groupvit_jax.evaluation import labelling, resize, sizes
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions
from groupvit_jax.evaluation.scoring import Scores
from groupvit_jax.viz import overlay as overlay_lib

# Numbers that a step works on: 4 MB stay in a cache; 64 MB took four times as
# long.
_CHUNK = 2**20
_CLASSES = 8  # that are upsampled together


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
  """A segmented image.

  Attributes:
    image: its RGB pixels, as they were read (turned upright, say).
    names: of the classes, in the order of labels and scores; of synonyms the
      first. With a background, names[0] is 'background'.
    background: whether class 0 is the background.
    regions: what was encoded, a batch of one.
    region_scores: of the same; classes beyond `names` are padding.
    scaled: (h, w) at which the network saw the image.
    shapes: the padded shapes of that.
    config: how labels follow from regions and scores.
  """

  image: UInt8[np.ndarray, 'h w 3']
  names: tuple[str, ...]
  background: bool
  regions: Regions
  region_scores: Scores
  scaled: sizes.Size
  shapes: sizes.Shapes
  config: SegmentConfig

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the image."""
    return self.image.shape[:2]

  @functools.cached_property
  def labels(self) -> Int32[np.ndarray, 'h w']:
    """The class of each pixel, an index into `names`."""
    classes = len(self.names) - self.background
    count = self.region_scores.classes.shape[-1] - self.background
    regions, scores, shapes, output = self._label_inputs
    valid = np.arange(count) < classes
    labels = labelling.label(
      regions, scores, shapes, output, self.config, valid
    )
    return self._cut(labels)

  @functools.cached_property
  def scores(self) -> Float32[np.ndarray, 'k h w']:
    """The score of every class at every pixel; `labels` is its argmax.

    4 bytes for each class and pixel: 7 GB for 150 classes of a 12-megapixel
    photo, where `labels` and `mean_scores` need 48 MB.
    """
    regions, scores, shapes, output = self._label_inputs
    pixels = labelling.class_scores(regions, scores, shapes, self.config)
    out = np.empty((len(self.names), *self.size), np.float32)
    for start in range(0, len(out), _CLASSES):
      # The last ones again, rather than another shape.
      start = min(start, max(pixels.shape[-1] - _CLASSES, 0))
      some = pixels[..., start : start + _CLASSES]
      some = self._cut(labelling.upsampled(some, output)).transpose(2, 0, 1)
      out[start : start + _CLASSES] = some[: len(out) - start]
    return out

  @functools.cached_property
  def groups(self) -> list[Int32[np.ndarray, 'h w']]:
    """The strongest group of each pixel, for every grouping stage.

    The groups of the last stage are those that got names. With sliding windows
    a pixel shows the window that it is most central in, and the groups of
    window i are numbered from i times their number.
    """
    return [
      _stage_groups(maps[0], self.regions, self.scaled, self.size)
      for maps in self.regions.stages
    ]

  @functools.cached_property
  def areas(self) -> dict[str, int]:
    """Pixels of each class that was found."""
    counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
    return {
      name: int(n) for name, n in zip(self.names, counts, strict=True) if n
    }

  @functools.cached_property
  def boxes(self) -> dict[str, tuple[int, int, int, int]]:
    """(x, y, width, height) around each class that was found, in pixels."""
    boxes = {}
    for i, name in enumerate(self.names):
      if name in self.areas:
        mask = self.labels == i
        x, y = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
        boxes[name] = (
          int(x[0]),
          int(y[0]),
          int(x[-1] - x[0] + 1),
          int(y[-1] - y[0] + 1),
        )
    return boxes

  @functools.cached_property
  def mean_scores(self) -> dict[str, float]:
    """Mean score of each class that was found, over the pixels it won."""
    won = labelling.winning_scores(*self._label_inputs, self.config)
    total = np.bincount(
      self.labels.ravel(), self._cut(won).ravel(), len(self.names)
    )
    return {
      name: float(total[self.names.index(name)] / area)
      for name, area in self.areas.items()
    }

  def overlay(self, max_side: int | None = 2048) -> Image.Image:
    """The image with its classes in colour, their names, and a legend."""
    return Image.fromarray(
      overlay_lib.class_map(
        self.labels,
        self.names,
        self.image,
        background=self.background,
        max_side=max_side,
        scores=self.mean_scores,
      )
    )

  def pred(self, max_side: int | None = 2048) -> Image.Image:
    """The classes alone, in colour, with names and a legend."""
    shown = overlay_lib.class_map(
      self.labels, self.names, background=self.background, max_side=max_side
    )
    return Image.fromarray(shown)

  def mask(self) -> Image.Image:
    """The labels as a palette image: a pixel's value is its class."""
    return overlay_lib.palette_image(
      self.labels, self.names, background=self.background
    )

  def first_group(self, max_side: int | None = 2048) -> Image.Image:
    """The image with the groups of the first stage in colour."""
    return self.all_groups(max_side)[0]

  def final_group(self, max_side: int | None = 2048) -> Image.Image:
    """The image with the groups that got names in colour."""
    return self.all_groups(max_side)[-1]

  def all_groups(self, max_side: int | None = 2048) -> list[Image.Image]:
    """The same for every stage."""
    return [
      Image.fromarray(
        overlay_lib.groups_overlay(self.image, groups, max_side=max_side)
      )
      for groups in self.groups
    ]

  @functools.cached_property
  def _label_inputs(self):
    shape = sizes.output_shape(self.size, self.shapes.scaled)
    output = resize.upsampling([self.scaled], [self.size], shape)
    return self.regions, self.region_scores, self.shapes, output

  def _cut(self, pixels):
    """Of a padded batch of one: the image, as a numpy copy."""
    height, width = self.size
    # On the host: a slice of a device array is a program for every size.
    return np.asarray(pixels)[0, :height, :width].copy()

  def __repr__(self) -> str:
    height, width = self.size
    return f'Segmentation({width} x {height}, names={list(self.names)})'


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
