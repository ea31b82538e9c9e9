"""Step 1, `encode`: images to regions; nothing here depends on words.

The network sees an image in one window or several, each at a static padded
shape. Steps 2 and 3 are `scoring.score` and `labelling.label`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from groupvit_jax import sharding
from groupvit_jax.evaluation.sizes import InputImage, pad_images


class Regions(NamedTuple):
  """The regions of b images in n windows each; arrays of numpy or jax.

  Attributes:
    image: b n e, unit embedding of the window as a whole.
    embeddings: b n g e, unit embeddings of its regions.
    stages: soft maps b n h w g on the token grid of the window, from the first
      to the last grouping stage; the last ones are those of `embeddings`.
    grids: int b n 2, (h, w) of the tokens that are not padding.
    places: int b n 4, (top, left, height, width) in pixels of the scaled image.
    background: b n g, the cosine that a class has to exceed in each region;
      None unless the model has learned it.
    tokens: b n m e, unit embeddings of the tokens that the last stage grouped;
      None unless predict_fns['regions_and_tokens'] encoded the images. Padding
      is meaningless. Of one stage the tokens are those of the grid, of several
      the groups of the stage before the last.
  """

  image: Any
  embeddings: Any
  stages: tuple[Any, ...]
  grids: Any
  places: Any
  background: Any = None
  tokens: Any = None


def encode(
  regions_fn: Callable[..., Any],
  variables: Any,
  images: Sequence[InputImage],
  *,
  count: int,
  limit: int = 1,
  mesh: Mesh | None = None,
  grouping: Callable[..., Any] | None = None,
) -> Regions:
  """Encodes images of one shape; starts the computation, waits for nothing.

  Args:
    regions_fn: predict_fns['regions'].
    variables: its first argument.
    images: at least one, at most `count`, all of the same `shapes`.
    count: b, a static number; what is missing is black.
    limit: windows that go through the network together; at least `count` do.
    mesh: splits batches over its axis 'data'.
    grouping: for models whose regions have no maps (see `clustering.Grouping`).

  Returns:
    Regions of b images.

  Raises:
    ValueError: the model does not group, and no `grouping` is given.
  """
  shapes = images[0].shapes
  places = np.zeros((count, shapes.count, 4), np.int32)
  # An empty image has no mean: padding is as large as the window.
  places[:, :, 2:] = shapes.window
  places[: len(images)] = [image.windows for image in images]
  # Window by window: the first of all images, the second of all images, ...
  each = max(
    n
    for n in range(1, shapes.count + 1)
    if shapes.count % n == 0 and n * count <= max(count, limit)
  )
  parts = []
  for start in range(0, shapes.count, each):
    numbers = range(start, start + each)
    pixels = np.concatenate(
      [
        pad_images([_crop(x, i) for x in images], shapes.window, count)
        for i in numbers
      ]
    )
    sizes = None
    if not shapes.full:
      sizes = np.concatenate([places[:, i, 2:] for i in numbers])
    if mesh is not None:
      pixels, sizes = sharding.shard_batch((pixels, sizes), mesh)
    parts.append(encode_batch(regions_fn, variables, pixels, sizes, grouping))
  if mesh is not None:
    places = sharding.shard_batch(places, mesh)
  joined = parts[0] if len(parts) == each == 1 else _joined(tuple(parts), count)
  return joined._replace(places=places)


def encode_batch(
  regions_fn: Callable[..., Any],
  variables: Any,
  images: Any,
  sizes: Any = None,
  grouping: Callable[..., Any] | None = None,
) -> Regions:
  """Encodes images that are one window each, at a static shape.

  Args:
    regions_fn, variables, grouping: as in `encode`.
    images: uint8 b h w 3.
    sizes: int b 2, (height, width) of images in the top left corners; None if
      all fill their shape.

  Returns:
    Regions; n is 1.
  """
  extra = () if sizes is None else (sizes,)
  if grouping is None:
    return _encode(regions_fn, variables, images, *extra)
  # On the host, between programs: jax.pure_callback may deadlock on a CPU with
  # few threads, and cannot be split over devices.
  outputs = grouping(regions_fn, variables, images, *extra)
  return as_regions(outputs, images.shape[1:3], sizes)


@functools.partial(jax.jit, static_argnums=0)
def _encode(regions_fn, variables, images, sizes=None):
  extra = () if sizes is None else (sizes,)
  outputs = regions_fn(variables, images, *extra)
  return as_regions(outputs, images.shape[1:3], sizes)


def as_regions(
  outputs: Any, shape: tuple[int, int], sizes: Any = None
) -> Regions:
  """The output of predict_fns['regions'], of one window, as `Regions`.

  Args:
    outputs: image, embeddings, stages; grids, background and tokens if
      there are any.
    shape: (h, w) in pixels of the padded images.
    sizes: see `encode_batch`.
  """
  if not outputs['stages']:
    raise ValueError(
      "predict_fns['regions'] returned no maps (stages is empty): this model "
      'does not group. Give the evaluator a grouping, such as '
      "grouping=clustering.Grouping('kmeans')."
    )
  count = outputs['image'].shape[0]
  grid = outputs['stages'][-1].shape[1:3]
  grids = outputs['grids'] if sizes is not None else np.full((count, 2), grid)
  sizes = np.full((count, 2), shape) if sizes is None else sizes
  xp = sizes.__array_namespace__()
  places = xp.concat([xp.zeros_like(sizes), sizes], axis=-1)
  regions = Regions(
    outputs['image'],
    outputs['embeddings'],
    tuple(outputs['stages']),
    grids,
    places,
    outputs.get('background'),
    outputs.get('tokens'),
  )
  return jax.tree.map(lambda x: x[:, None], regions)


@functools.partial(jax.jit, static_argnums=1)
def _joined(parts, count):
  def join(*arrays):
    windows = [x.reshape(-1, count, *x.shape[2:]) for x in arrays]
    return jnp.moveaxis(jnp.concatenate(windows), 0, 1)

  return jax.tree.map(join, *parts)


def _crop(image, i):
  top, left, height, width = image.windows[i]
  return image.scaled[top : top + height, left : left + width]


def split(regions: Regions, count: int) -> list[Regions]:
  """The first `count` images, each with a batch axis of one, as numpy copies.

  Copies, so that what is kept of one image does not hold its whole batch.
  """
  regions = jax.device_get(regions)
  return [
    jax.tree.map(lambda x, i=i: np.array(x[i : i + 1]), regions)
    for i in range(count)
  ]
