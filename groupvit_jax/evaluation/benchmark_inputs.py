"""Labelled images on the host: decoded ahead in threads, put into batches.

Images of one key go through the same compiled programs; there are few keys,
whatever the sizes of the images.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from groupvit_jax import errors
from groupvit_jax.evaluation import metrics, resize, sizes
from groupvit_jax.evaluation.benchmark_counts import GroundTruth

_THREADS = min(16, os.cpu_count() or 1)


@runtime_checkable
class LabelledSet(Protocol):
  """The data of an evaluation: examples by position.

  `examples[i]` has `name`, `image` (uint8 h w 3) and `label` (int h w, a
  position in the class names, 255 ignored); it may raise a UserError or OSError
  that names the file.
  """

  def __len__(self) -> int: ...

  def name(self, index: int) -> str:
    """Name of an image; known without reading it."""
    ...

  def __getitem__(self, index: int) -> Any: ...


class Key(NamedTuple):
  """The static shapes of an image and, padded (h, w), of its labels."""

  shapes: sizes.Shapes
  output: sizes.Size


@dataclasses.dataclass(frozen=True)
class Labelled:
  """An image that is ready for the network, and its ground truth."""

  position: int
  image: sizes.InputImage
  label: Integer[np.ndarray, 'h w']
  key: Key


@dataclasses.dataclass(frozen=True)
class Refused:
  """An image that cannot be used, and why."""

  position: int
  reason: str


def prepare(
  examples: LabelledSet, position: int, plan: sizes.Plan, num_classes: int
) -> Labelled:
  """Reads, checks and scales one image.

  Raises:
    errors.ImageError: image and ground truth differ in size, or the ground
      truth holds a value that is no class.
    Exception: errors of the reader.
  """
  example = examples[position]
  name = examples.name(position)
  image, label = np.asarray(example.image), np.asarray(example.label)
  if image.shape[:2] != label.shape:
    raise errors.ImageError(
      f'{name}: the image is {image.shape[1]} x {image.shape[0]} pixels and '
      f'its labels {label.shape[1]} x {label.shape[0]}; give labels of '
      'the same size.'
    )
  try:
    metrics.check_labels(label, num_classes)
  except ValueError as error:
    raise errors.ImageError(f'{name}: {error}') from error
  prepared = sizes.prepare(image, plan, name)
  output = sizes.output_shape(label.shape, prepared.shapes.scaled)
  return Labelled(
    position,
    prepared,
    label.astype(np.uint8 if num_classes < metrics.IGNORE else np.int32),
    Key(prepared.shapes, output),
  )


def read(
  function: Callable[[int], Labelled], positions: Sequence[int], skip_bad: bool
) -> Iterator[Labelled | Refused]:
  """Images in order; threads prepare the next ones.

  Args:
    function: from a position to its image.
    positions: which ones.
    skip_bad: yield `Refused` for an image that cannot be read, instead of
      raising.

  Yields:
    An image per position, or the reason why there is none.

  Raises:
    Exception: what `function` raises; without `skip_bad` UserError and OSError,
      too.
  """
  remaining = iter(positions)
  pending = collections.deque()
  with futures.ThreadPoolExecutor(_THREADS) as pool:

    def start():
      for position in remaining:
        pending.append((position, pool.submit(function, position)))
        return

    try:
      for _ in range(3 * _THREADS):
        start()
      while pending:
        position, future = pending.popleft()
        try:
          yield future.result()
        except (errors.UserError, OSError) as error:
          if not skip_bad:
            raise
          yield Refused(position, str(error))
        start()
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def ground_truth(images: Sequence[Labelled], count: int) -> GroundTruth:
  """The ground truth of images of one key.

  Args:
    images: at least one, at most `count`.
    count: b; padding has no ground truth.
  """
  key, extra = images[0].key, count - len(images)
  labels = [image.label for image in images]
  shapes = [label.shape for label in labels] + [(1, 1)] * extra
  scaled = [x.image.scaled.shape[:2] for x in images] + [(1, 1)] * extra
  padded = np.full((count, *key.output), metrics.IGNORE, labels[0].dtype)
  for place, label in zip(padded, labels, strict=False):
    place[: label.shape[0], : label.shape[1]] = label
  return GroundTruth(
    label=padded,
    sizes=np.asarray(shapes, np.int32),
    widths=np.asarray([metrics.width(size) for size in shapes], np.int32),
    output=resize.upsampling(scaled, shapes, key.output),
    mask=np.asarray([1] * len(images) + [0] * extra, np.float32),
  )
