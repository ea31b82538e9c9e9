"""Where a map's regions are, and where in them a name can stand.

Works on a small copy of the map, so that a photo of any size takes
milliseconds, in numpy alone.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer

from groupvit_jax.visualize_pixels import fit

_SIDE = 256  # of the small copy
_SPECK = 0.001  # share of the picture under which a region gets no name
_LARGE = 0.05  # further regions of the same class are named from here on
_POINTS = 40  # places tried for a name


class Region(NamedTuple):
  """A connected region that deserves a name.

  Attributes:
    label: its class.
    share: of the picture's pixels, 0..1.
    points: places for the name's centre, the best first: (y, x) in 0..1.
  """

  label: int
  share: float
  points: Float[np.ndarray, 'n 2']


def regions(labels: Integer[np.ndarray, 'h w']) -> list[Region]:
  """The regions to name: of every class the largest, and other large ones.

  Args:
    labels: classes of the pixels.

  Returns:
    The regions, the largest first. Specks are left out.
  """
  factor = max(labels.shape) / _SIDE
  if factor > 1:
    small = tuple(max(1, round(side / factor)) for side in labels.shape)
    labels = fit(labels, small)
  parts, inside = components(labels), depths(labels)
  _, first, areas = np.unique(parts, return_index=True, return_counts=True)
  named, found = set(), []
  for part in np.argsort(-areas, kind='stable'):
    label, share = int(labels.flat[first[part]]), areas[part] / labels.size
    if share < _SPECK or (label in named and share < _LARGE):
      continue
    named.add(label)
    points = _inner_points(parts == part, inside)
    found.append(Region(label, float(share), points))
  return found


def components(labels: Integer[np.ndarray, 'h w']) -> Int[np.ndarray, 'h w']:
  """Connected regions of equal label (4 neighbours), numbered from 0."""
  starts = np.ones(labels.shape, bool)
  starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
  runs = starts.cumsum().reshape(labels.shape) - 1
  below = labels[1:] == labels[:-1]
  upper, lower = runs[:-1][below], runs[1:][below]
  # Joined runs take the smallest number among them, over and over, each time
  # by way of those that their neighbours have found.
  root = np.arange(runs[-1, -1] + 1)
  while True:
    a, b = root[upper], root[lower]
    if (a == b).all():
      break
    np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
    while (root != root[root]).any():
      root = root[root]
  return np.unique(root, return_inverse=True)[1][runs].astype(np.int32)


def depths(labels: Integer[np.ndarray, 'h w']) -> Int[np.ndarray, 'h w']:
  """Steps of a chess king to another label or off the picture, less one."""
  own = np.pad(
    labels.astype(np.int64), 1, constant_values=int(labels.min()) - 1
  )
  across = (own[:, :-2] == own[:, 1:-1]) & (own[:, 1:-1] == own[:, 2:])
  down = (own[:-2] == own[1:-1]) & (own[1:-1] == own[2:])
  alive = across[:-2] & across[1:-1] & across[2:] & down[:, 1:-1]
  steps = np.zeros(labels.shape, np.int32)
  while alive.any():
    steps += alive
    alive = _erode(alive)
  return steps


def _erode(mask: np.ndarray) -> np.ndarray:
  mask = np.pad(mask, 1)
  mask = mask[:-2] & mask[1:-1] & mask[2:]
  return mask[:, :-2] & mask[:, 1:-1] & mask[:, 2:]


def _inner_points(
  part: np.ndarray, inside: np.ndarray
) -> Float[np.ndarray, 'n 2']:
  """Deep points of a region; of equally deep ones, those near its middle."""
  points = np.argwhere(part)
  depth = inside[part]
  off = np.abs(points - points.mean(0)).sum(1)
  # Shallow points come last, and only in places far enough apart to help.
  order = np.lexsort((off, -depth))
  order = order[:: max(1, len(order) // _POINTS)]
  return (points[order] + 0.5) / part.shape
