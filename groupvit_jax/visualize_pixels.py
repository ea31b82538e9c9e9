"""Sizes of pictures and maps, and the borders in a map."""

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

_LONGEST = 4096  # what a narrow picture is enlarged to at most


def fit(
  labels: Integer[np.ndarray, 'h w'], size: tuple[int, int]
) -> Integer[np.ndarray, 'H W']:
  """Nearest resize of a map of indices (to a picture's size, say)."""
  rows, columns = (
    (np.arange(new) * old) // new
    for new, old in zip(size, labels.shape, strict=True)
  )
  return labels[rows[:, None], columns]


def enlarge(
  picture: Integer[np.ndarray, 'h w *c'], min_side: int = 160
) -> Integer[np.ndarray, 'H W *c']:
  """Repeats pixels so that the shorter side has at least `min_side`.

  Whole multiples only: small pictures stay honest about their pixels, and large
  ones stay as they are. A narrow one grows until it is 4096 long.
  """
  short, long = sorted(picture.shape[:2])
  factor = max(1, min(-(-min_side // short), _LONGEST // long))
  return picture.repeat(factor, 0).repeat(factor, 1)


def shrink(
  image: UInt8[np.ndarray, 'h w 3'], max_side: int | None
) -> UInt8[np.ndarray, 'H W 3']:
  """Averages pixels so that the longer side has at most `max_side`."""
  height, width = within(image.shape[:2], max_side)
  if (height, width) == image.shape[:2]:
    return image
  return np.asarray(
    Image.fromarray(image).resize(
      (width, height), Image.Resampling.LANCZOS, reducing_gap=2.0
    )
  )


def within(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
  """(height, width) reduced so that the longer side is at most `max_side`."""
  factor = max(1.0, max(size) / max_side) if max_side else 1.0
  return max(1, round(size[0] / factor)), max(1, round(size[1] / factor))


def borders(labels: Integer[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """Pixels whose right or lower neighbour has another label."""
  edge = np.zeros(labels.shape, bool)
  edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
  edge[:-1] |= labels[1:] != labels[:-1]
  return edge


def wide_borders(labels: np.ndarray) -> np.ndarray:
  """Borders as wide as the picture's size asks for."""
  edge = borders(labels)
  for _ in range(1, round(min(labels.shape) / 400)):
    edge[:, :-1] |= edge[:, 1:]
    edge[:-1] |= edge[1:]
  return edge
