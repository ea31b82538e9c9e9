"""Groups for models that do not group: clusters of their patch features.

The paper's Table 4: the patch features of a CLIP-trained ViT, clustered and
evaluated in the same way as GroupViT.
"""

import dataclasses
import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from groupvit_jax.embeddings import unit_norm
from groupvit_jax.evaluation import regrouping

_QUANTILE = 0.3  # scikit-learn's defaults, all of them
_MAX_STEPS = 300
_STOP = 1e-3  # of the bandwidth
_EQUAL = 1e-6


def mean_shift_clusters(
  points: Float[np.ndarray, 'n e'],
) -> Int[np.ndarray, 'n']:
  """Mean shift with a flat kernel: the cluster of each point.

  Clusters are the modes of a density (Comaniciu and Meer 2002). The labels are
  those of scikit-learn's `MeanShift`, but all points move at once: its loop
  takes minutes for the 784 patches of an image.

  Args:
    points: every one is also where a search for a mode begins.

  Returns:
    Clusters from 0, that of the mode with the most points first.
  """
  points = np.asarray(points, np.float64)
  bandwidth = max(_bandwidth(points), _EQUAL)  # where many points are equal
  centres, weights = _climb(points, bandwidth)
  modes = _apart(centres, weights, bandwidth)
  return _squares(points, modes).argmin(1)


def _bandwidth(points: Float[np.ndarray, 'n e']) -> float:
  """The mean distance to the farthest of a point's 30 % nearest ones."""
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
  distances = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
  return np.maximum(distances, 0)


_THREADS = min(8, os.cpu_count() or 1)


Tokens = Float[np.ndarray, 'n e']
Groups = Int[np.ndarray, ' n']

# Each groups the tokens of one image, unit vectors, into `num_groups` at
# most, or as many as it finds itself, and returns the group (0..) of each. The
# same seed gives the same groups.


def pixels(features: Tokens, num_groups: int, seed: int) -> Groups:
  """Every token is a region of its own ("pixel-wise", 20.1 on VOC)."""
  del num_groups, seed
  return np.arange(len(features))


def kmeans(features: Tokens, num_groups: int, seed: int) -> Groups:
  """k-means by cosine (25.0 on VOC with k = 8: NVlabs/GroupViT #33)."""
  del seed
  points = np.asarray(features, np.float32)[None]
  real = np.ones(points.shape[:2], bool)
  return np.asarray(regrouping.kmeans(points, real, num_groups))[0]


def mean_shift(features: Tokens, num_groups: int, seed: int) -> Groups:
  """Mean-shift (20.7 on VOC), which chooses the number of groups itself."""
  del num_groups, seed
  return mean_shift_clusters(features)


def spectral(features: Tokens, num_groups: int, seed: int) -> Groups:
  """scikit-learn's spectral clustering (19.7 on VOC), its own affinity.

  That is exp(-|x - y|^2), of unit vectors exp(-2 (1 - cosine)).
  """
  from sklearn import cluster  # noqa: PLC0415  (extra 'train')

  if len(features) <= num_groups:
    return np.arange(len(features))
  method = cluster.SpectralClustering(num_groups, random_state=seed)
  return method.fit_predict(features)


GROUPINGS: Mapping[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
  'pixels': pixels,
  'kmeans': kmeans,
  'mean_shift': mean_shift,
  'spectral': spectral,
}


@dataclasses.dataclass(frozen=True)
class Grouping:
  """Regions of images from the patch features of any dual encoder.

  Attributes:
    name: a key of `GROUPINGS`.
    num_groups: groups per image, for methods that take it (paper: 8).
    seed: of the methods' random starts; the same for every image, so that a
      figure does not depend on how images are batched.
  """

  name: str
  num_groups: int = 8
  seed: int = 0

  def __post_init__(self):
    if self.name not in GROUPINGS:
      raise ValueError(
        f'Unknown grouping {self.name!r}; choose one of {sorted(GROUPINGS)}.'
      )
    if self.name == 'spectral' and importlib.util.find_spec('sklearn') is None:
      raise ImportError(
        f"The grouping {self.name!r} needs: pip install 'groupvit_jax[train]'"
      )

  def __call__(
    self,
    regions_fn: Callable[..., Any],
    variables: Any,
    images: Any,
    sizes: Any = None,
  ) -> dict[str, Any]:
    """Encodes images, and groups their patch features on the host.

    Args:
      regions_fn: predict_fns['regions'] of a model without maps: image b e,
        embeddings b n e (patch features), grid (h, w).
      variables: its first argument.
      images: uint8 b h w 3.
      sizes: b 2, (height, width) of images in the top left corners of their
        padded shape; None if all fill it.

    Returns:
      image b e; embeddings b g e, the mean of each group's unit features at
      unit length (zero for an empty group); stages, one map b h w g of zeros
      and ones (zeros beyond an image); with sizes, grids.

    Raises:
      ValueError: if the model returns maps of its own.
    """
    outputs = jax.device_get(_features(regions_fn, variables, images, sizes))
    height, width = map(int, outputs['grid'])
    features = np.asarray(unit_norm(outputs['embeddings']))
    count = len(features)
    grids = np.asarray(outputs.get('grids', [(height, width)] * count))

    def group(tokens, grid):
      inner = tokens.reshape(height, width, -1)[: grid[0], : grid[1]]
      groups = np.full((height, width), -1)
      groups[: grid[0], : grid[1]] = GROUPINGS[self.name](
        inner.reshape(-1, inner.shape[-1]), self.num_groups, self.seed
      ).reshape(grid)
      return groups.reshape(-1)

    with (
      # Of fewer distinct features than groups: then there are fewer groups.
      # (Out here because filters of warnings are not a thread's own.)
      warnings.catch_warnings(),
      futures.ThreadPoolExecutor(_THREADS) as pool,
    ):
      warnings.simplefilter('ignore')
      assigned = np.stack(list(pool.map(group, features, grids)))
    # A static number of groups, or each batch would compile anew: all tokens,
    # `num_groups`, or a power of two if the method chooses the number.
    groups = features.shape[1] if self.name == 'pixels' else self.num_groups
    if (most := int(assigned.max()) + 1) > groups:
      groups = 1 << (most - 1).bit_length()
    member = (assigned[..., None] == np.arange(groups)).astype(np.float32)
    sums = np.einsum('bng,bne->bge', member, features)
    regions = {
      'image': np.asarray(outputs['image']),
      # The direction of the sum is that of the mean.
      'embeddings': np.asarray(unit_norm(sums)),
      'stages': (member.reshape(count, height, width, groups),),
    }
    return regions if sizes is None else regions | {'grids': grids}


@functools.partial(jax.jit, static_argnums=0)
def _features(
  regions_fn: Callable[..., Any], variables: Any, images: Any, sizes: Any
) -> dict[str, Any]:
  given = () if sizes is None else (sizes,)
  regions = regions_fn(variables, images, *given)
  if regions['stages']:
    raise ValueError(
      'This model groups by itself (its regions have maps); evaluate it '
      'without another grouping.'
    )
  names = ('image', 'embeddings', 'grid', 'grids')
  return {name: regions[name] for name in names if name in regions}
