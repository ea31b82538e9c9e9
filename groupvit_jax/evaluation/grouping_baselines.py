"""Groups for models that do not group: k-means and the like on patch features.

The paper's Table 4: a CLIP-trained ViT whose patch features are grouped
without parameters, judged by the same evaluator as GroupViT.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np


@runtime_checkable
class Grouping(Protocol):
  """Groups the tokens of one picture, on the host."""

  def __call__(
    self,
    features: np.ndarray,
    grid: tuple[int, int],
    num_groups: int,
    seed: int,
  ) -> np.ndarray:
    """Returns the group (0..) of each token, integers [n].

    Args:
      features: unit vectors [n, e].
      grid: (h, w) of the tokens, row by row; h * w = n.
      num_groups: how many at most; a method may have its own idea.
      seed: the same seed gives the same groups.
    """
    ...


def pixels(
  features: np.ndarray, grid: tuple[int, int], num_groups: int, seed: int
) -> np.ndarray:
  """Every token is a region of its own ("pixel-wise", 20.1 on VOC)."""
  del grid, num_groups, seed
  return np.arange(len(features))


def kmeans(
  features: np.ndarray, grid: tuple[int, int], num_groups: int, seed: int
) -> np.ndarray:
  """scikit-learn's k-means (25.0 on VOC with k = 8: NVlabs/GroupViT #33)."""
  del grid
  from sklearn import cluster, exceptions  # noqa: PLC0415  (extra 'train')

  method = cluster.KMeans(
    n_clusters=min(num_groups, len(features)), n_init=1, random_state=seed
  )
  with warnings.catch_warnings():
    # Fewer distinct features than groups: then there are fewer groups.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    return method.fit_predict(features)


# Open for mean-shift and spectral clustering: one function, one line.
GROUPINGS: Mapping[str, Grouping] = {'pixels': pixels, 'kmeans': kmeans}


def make(
  name: str, *, num_groups: int = 8, seed: int = 0
) -> Callable[..., dict[str, Any]]:
  """What `SegmentationEvaluator(grouping=...)` takes.

  Args:
    name: a key of `GROUPINGS`.
    num_groups: groups per picture, for methods that are told (paper: 8).
    seed: of the methods' random starts.

  Returns:
    (regions_fn, variables, images) -> regions with one stage of hard maps.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in GROUPINGS:
    raise ValueError(
      f'Unknown grouping {name!r}; choose one of {sorted(GROUPINGS)}.'
    )
  return functools.partial(
    group_regions, GROUPINGS[name], num_groups=num_groups, seed=seed
  )


def group_regions(
  grouping: Grouping,
  regions_fn: Callable[..., Any],
  variables: Any,
  images: Any,
  *,
  num_groups: int = 8,
  seed: int = 0,
) -> dict[str, Any]:
  """Regions of pictures from the patch features of any dual encoder.

  Args:
    grouping: groups one picture's tokens.
    regions_fn: predict_fns['regions'] of a model without maps: image b e,
      embeddings b n e (patch features), grid (h, w).
    variables: its first argument.
    images: uint8 b h w 3.
    num_groups: groups per picture.
    seed: the same for every picture, so that a figure does not depend on how
      pictures are batched.

  Returns:
    image b e; embeddings b g e, the mean of each group's unit features at unit
    length (zero for an empty group); stages, one map b h w g of zeros and ones.

  Raises:
    ValueError: if the model returns maps of its own, or in a multi-process run.
  """
  if jax.process_count() > 1:
    raise ValueError(
      'Grouping on the host needs all pictures in one process; evaluate this '
      'baseline with a single process.'
    )
  image, embeddings, grid = _features(regions_fn, variables, images)
  grid = (int(grid[0]), int(grid[1]))
  features = _unit(np.asarray(embeddings, np.float32))
  assigned = np.stack([grouping(f, grid, num_groups, seed) for f in features])
  # A static number of groups, or each batch would compile anew.
  groups = features.shape[1] if grouping is pixels else num_groups
  groups = max(groups, int(assigned.max()) + 1)
  member = (assigned[..., None] == np.arange(groups)).astype(np.float32)
  # The direction of the sum is that of the mean.
  means = _unit(np.einsum('bng,bne->bge', member, features))
  return {
    'image': np.asarray(image),
    'embeddings': means,
    'stages': (member.reshape(len(features), *grid, groups),),
  }


@functools.partial(jax.jit, static_argnums=0)
def _features(
  regions_fn: Callable[..., Any], variables: Any, images: Any
) -> tuple[Any, Any, Any]:
  regions = regions_fn(variables, images)
  if regions['stages']:
    raise ValueError(
      'This model groups by itself (its regions have maps); evaluate it '
      'without grouping=...'
    )
  return regions['image'], regions['embeddings'], regions['grid']


def _unit(x: np.ndarray) -> np.ndarray:
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
