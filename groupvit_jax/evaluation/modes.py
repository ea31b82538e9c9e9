"""Mean-shift: clusters are the modes of a density (Comaniciu and Meer 2002).

What scikit-learn's `MeanShift` computes, to the label, but from all points at
once: its loop takes minutes for the 784 patches of a picture.
"""

import numpy as np
from jaxtyping import Float, Int

_QUANTILE = 0.3  # scikit-learn's defaults, all of them
_MAX_STEPS = 300
_STOP = 1e-3  # of the bandwidth
_EQUAL = 1e-6


def mean_shift(
  points: Float[np.ndarray, 'n e'], bandwidth: float | None = None
) -> Int[np.ndarray, 'n']:
  """The cluster of each point, with a flat kernel.

  Args:
    points: every one is also where a search for a mode begins.
    bandwidth: radius of the kernel; None estimates it.

  Returns:
    Clusters from 0, that of the mode with the most points first.
  """
  points = np.asarray(points, np.float64)
  if bandwidth is None:
    bandwidth = estimate_bandwidth(points)
  bandwidth = max(bandwidth, _EQUAL)  # where many points are equal
  centres, weights = _climb(points, bandwidth)
  modes = _apart(centres, weights, bandwidth)
  return _squares(points, modes).argmin(1)


def estimate_bandwidth(points: Float[np.ndarray, 'n e']) -> float:
  """The mean distance to the farthest of a point's 30 % nearest ones."""
  points = np.asarray(points, np.float64)
  nearest = max(1, int(_QUANTILE * len(points)))
  squares = _squares(points, points)
  np.fill_diagonal(squares, 0)
  farthest = np.partition(squares, nearest - 1)[:, nearest - 1]
  return float(np.sqrt(farthest).mean())


def _climb(points, bandwidth):
  """Where each point's search ends, and how many points are around there."""
  centres, weights = points.copy(), np.ones(len(points), np.int64)
  going = np.arange(len(points))
  for _ in range(_MAX_STEPS + 1):
    near = _squares(centres[going], points) <= bandwidth**2
    weights[going] = near.sum(1)
    means = near @ points / np.maximum(weights[going], 1)[:, None]
    steps = np.linalg.norm(means - centres[going], axis=1)
    centres[going] = means
    going = going[steps > _STOP * bandwidth]
    if not len(going):
      break
  return centres, weights


def _apart(centres, weights, bandwidth):
  """The heaviest centres of which no two are within the bandwidth."""
  # Of equal weight, the greater coordinates first, as scikit-learn sorts them.
  order = np.lexsort((*centres.T[::-1], weights))[::-1]
  centres = centres[order]
  near = _squares(centres, centres) <= bandwidth**2
  kept = np.ones(len(centres), bool)
  for i in range(len(centres)):
    if kept[i]:
      kept[near[i]] = False
      kept[i] = True
  return centres[kept]


def _squares(a, b):
  """Squared distances, n m."""
  found = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
  return np.maximum(found, 0)
