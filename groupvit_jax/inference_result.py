"""What segmenting gives: labels, scores, groups, and pictures of them.

Everything at the picture's own size is computed when it is first asked for.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from groupvit_jax import inference_field, inference_groups, inference_pixels
from groupvit_jax.viz import overlay as overlay_lib


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
  """A segmented picture.

  Attributes:
    image: its RGB pixels, as they were read (turned upright, say).
    names: of the classes, in the order of labels and scores; of synonyms the
      first. With a background, names[0] is 'background'.
    background: whether class 0 is what none of the others claimed.
    field: scores over the scaled picture, what all else is computed from.
  """

  image: UInt8[np.ndarray, 'h w 3']
  names: tuple[str, ...]
  background: bool
  field: inference_field.Field

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the picture."""
    return self.image.shape[:2]

  @functools.cached_property
  def labels(self) -> Int32[np.ndarray, 'h w']:
    """The class of each pixel, an index into `names`."""
    return inference_pixels.labels(self.field, self.size)

  @functools.cached_property
  def scores(self) -> Float32[np.ndarray, 'k h w']:
    """The score of every class at every pixel; `labels` is its argmax.

    4 bytes for each class and pixel: 7 GB for 150 classes of a 12-megapixel
    photo, where `labels` and `mean_scores` need 48 MB.
    """
    return inference_pixels.scores(self.field, self.size)

  @functools.cached_property
  def groups(self) -> list[Int32[np.ndarray, 'h w']]:
    """The strongest group of each pixel, for every grouping stage.

    The last stage's groups are those that got names. With sliding windows a
    pixel shows the window that it is most central in, and the groups of window
    i are numbered from i times their number.
    """
    stages = range(len(self.field.windows[0].stages))
    return [inference_groups.groups(self.field, self.size, i) for i in stages]

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
    total = np.zeros(len(self.names))
    row = 0
    for won in inference_pixels.winning_scores(self.field, self.labels):
      own = self.labels[row : row + len(won)]
      total += np.bincount(own.ravel(), won.ravel(), len(total))
      row += len(won)
    return {
      name: float(total[self.names.index(name)] / area)
      for name, area in self.areas.items()
    }

  def overlay(self, max_side: int | None = 2048) -> Image.Image:
    """The picture with its classes in colour, their names, and a legend."""
    picture = overlay_lib.overlay_with_names(
      self.image,
      self.labels,
      self.names,
      background=self.background,
      max_side=max_side,
    )
    return Image.fromarray(picture)

  def pred(self, max_side: int | None = 2048) -> Image.Image:
    """The classes alone, in colour, with names and a legend."""
    picture = overlay_lib.class_map(
      self.labels, self.names, background=self.background, max_side=max_side
    )
    return Image.fromarray(picture)

  def mask(self) -> Image.Image:
    """The labels as a palette picture: a pixel's value is its class."""
    return overlay_lib.palette_image(
      self.labels, len(self.names), background=self.background
    )

  def first_group(self, max_side: int | None = 2048) -> Image.Image:
    """The picture with the groups of the first stage in colour."""
    return self.all_groups(max_side)[0]

  def final_group(self, max_side: int | None = 2048) -> Image.Image:
    """The picture with the groups that got names in colour."""
    return self.all_groups(max_side)[-1]

  def all_groups(self, max_side: int | None = 2048) -> list[Image.Image]:
    """The same for every stage."""
    return [
      Image.fromarray(
        overlay_lib.groups_overlay(self.image, groups, max_side=max_side)
      )
      for groups in self.groups
    ]

  def __repr__(self) -> str:
    height, width = self.size
    return f'Segmentation({width} x {height}, names={list(self.names)})'
