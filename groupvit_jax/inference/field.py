"""What the network said of a picture, at the size at which it saw it.

A table of scores per group and the group of each pixel, for every window;
`inference_pixels` enlarges them to the picture.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32, Integer, UInt8


@dataclasses.dataclass(frozen=True)
class Window:
  """What the network said of one window of the scaled picture.

  Attributes:
    top, left: its place in the scaled picture.
    table: score of each class for each group; with a background, that class
      comes first.
    groups: the strongest group of each pixel.
    maps: instead, for soft scores: every group's share in each pixel.
    limit: with `maps` and a background: the score below which a pixel is
      background; the first column of the table is then zero.
    stages: soft maps of each grouping stage, on the token grid.
  """

  top: int
  left: int
  table: Float32[np.ndarray, 'g k']
  groups: UInt8[np.ndarray, 'h w'] | Int32[np.ndarray, 'h w'] | None
  maps: Float32[np.ndarray, 'h w g'] | None
  limit: float | None
  stages: tuple[Float32[np.ndarray, '_h _w _g'], ...]

  @property
  def size(self) -> tuple[int, int]:
    """(h, w) in pixels of the scaled picture."""
    return (self.groups if self.maps is None else self.maps).shape[:2]

  def rows(self, first: int, end: int) -> Float32[np.ndarray, 'r w k']:
    """Scores of some of its rows of pixels."""
    if self.maps is None:
      return self.table[self.groups[first:end]]
    scores = self.maps[first:end] @ self.table
    if self.limit is not None:
      scores[..., 0] = scores[..., 1:].max(-1) < self.limit
    return scores


@dataclasses.dataclass(frozen=True)
class Field:
  """Scores over a scaled picture: those of its windows, averaged.

  Attributes:
    size: (h, w) of the scaled picture.
    windows: they cover it.
  """

  size: tuple[int, int]
  windows: tuple[Window, ...]

  @property
  def num_classes(self) -> int:
    """Classes scored, the background included."""
    return self.windows[0].table.shape[1]

  def rows(self, first: int, end: int) -> Float32[np.ndarray, 'r w k']:
    """Scores of rows of the scaled picture, at every pixel and class."""
    if len(self.windows) == 1:
      return self.windows[0].rows(first, end)
    shape = end - first, self.size[1]
    total = np.zeros((*shape, self.num_classes), np.float32)
    count = np.zeros((*shape, 1), np.float32)
    for window in self.windows:
      height, width = window.size
      top, bottom = max(first, window.top), min(end, window.top + height)
      if top < bottom:
        columns = slice(window.left, window.left + width)
        place = slice(top - first, bottom - first), columns
        total[place] += window.rows(top - window.top, bottom - window.top)
        count[place] += 1
    return total / count

  def states(
    self,
  ) -> tuple[Integer[np.ndarray, 'h w'], Float32[np.ndarray, 'u k']]:
    """Pixels that score alike, numbered, and the scores of each number.

    With one window a number is a group; with several, one combination of
    groups of the windows that overlap there. Hard groups only.
    """
    if len(self.windows) == 1:
      return self.windows[0].groups, self.windows[0].table
    codes = np.zeros(self.size, np.int64)
    for window in self.windows:
      base = len(window.table) + 1
      if int(codes.max()) > np.iinfo(np.int64).max // (base + 1):
        codes = _renumbered(codes)[1]
      codes *= base
      codes[_place(window)] += window.groups.astype(np.int64) + 1
    seen, codes = _renumbered(codes)
    rows, columns = np.unravel_index(seen, self.size)
    total = np.zeros((len(seen), self.num_classes), np.float32)
    count = np.zeros((len(seen), 1), np.float32)
    for window in self.windows:
      y, x = rows - window.top, columns - window.left
      inside = (y >= 0) & (y < window.size[0]) & (x >= 0) & (x < window.size[1])
      total[inside] += window.table[window.groups[y[inside], x[inside]]]
      count[inside] += 1
    return codes, total / count


def _place(window):
  height, width = window.size
  return (
    slice(window.top, window.top + height),
    slice(window.left, window.left + width),
  )


def _renumbered(codes):
  """Where each distinct code first stands, and the codes counted through."""
  _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
  return first, codes
