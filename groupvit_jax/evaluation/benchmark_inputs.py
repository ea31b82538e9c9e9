"""Labelled pictures on the host: decoded ahead in threads, put into batches.

Pictures of one key go through the same compiled programs; there are few keys,
whatever the sizes of the pictures.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt8

from groupvit_jax import errors
from groupvit_jax.evaluation import metrics, resize
from groupvit_jax.evaluation import windows as windows_lib
from groupvit_jax.evaluation.benchmark_counts import Truth

_THREADS = min(16, os.cpu_count() or 1)


@runtime_checkable
class LabelledSet(Protocol):
  """What is evaluated: examples by position, with name, image and label.

  `examples[i]` has `name`, `image` (uint8 h w 3) and `label` (int h w, a
  position in the class names, 255 ignored); it may raise a UserError or OSError
  that names the file.
  """

  def __len__(self) -> int: ...

  def name(self, i: int) -> str:
    """Of the i-th picture; known without reading it."""
    ...

  def __getitem__(self, i: int) -> Any: ...


class Key(NamedTuple):
  """The static shapes that a picture needs, all (h, w) in pixels.

  Attributes:
    window: what the network sees at a time.
    full: whether every window is full, so that nothing is masked.
    count: windows of a picture.
    field: the scaled picture's canvas.
    truth: the truth's canvas.
  """

  window: tuple[int, int]
  full: bool
  count: int
  field: tuple[int, int]
  truth: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture that is ready for the network, and its truth."""

  position: int
  scaled: UInt8[np.ndarray, 'H W 3']
  windows: Sequence[tuple[int, int, int, int]]
  label: Integer[np.ndarray, 'h w']
  key: Key


@dataclasses.dataclass(frozen=True)
class Refused:
  """A picture that cannot be used, and why."""

  position: int
  reason: str


def prepare(
  examples: LabelledSet, position: int, plan: windows_lib.Plan, num_classes: int
) -> Picture:
  """Reads, checks and scales one picture.

  Raises:
    errors.ImageError: image and truth differ in size, or the truth holds what
      is no class.
    Exception: what the reader raises.
  """
  example = examples[position]
  name = examples.name(position)
  image, label = np.asarray(example.image), np.asarray(example.label)
  if image.shape[:2] != label.shape:
    raise errors.ImageError(
      f'{name}: the picture is {image.shape[1]} x {image.shape[0]} pixels and '
      f'its truth {label.shape[1]} x {label.shape[0]}; give truth of the same '
      'size.'
    )
  try:
    metrics.check_labels(label, num_classes)
  except ValueError as error:
    raise errors.ImageError(f'{name}: {error}') from error
  size = windows_lib.scaled_size(label.shape, plan, name)
  windows = windows_lib.windows(size, plan)
  window = windows_lib.canvas(windows[0][2:], plan)
  field = windows_lib.field_canvas(size, plan)
  return Picture(
    position,
    windows_lib.resize_image(image, size),
    windows,
    label.astype(np.uint8 if num_classes < metrics.IGNORE else np.int32),
    Key(
      window,
      windows[0][2:] == window,
      len(windows),
      field,
      windows_lib.truth_canvas(label.shape, field),
    ),
  )


def read(
  function: Callable[[int], Picture], positions: Sequence[int], skip_bad: bool
) -> Iterator[Picture | Refused]:
  """Pictures in order, the next ones under way in threads.

  Args:
    function: from a position to its picture.
    positions: which ones.
    skip_bad: whether a picture that cannot be read is told about instead of
      raised.

  Yields:
    A picture per position, or why there is none.

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


class Batch(NamedTuple):
  """Pictures of one key, filled up to a static number b.

  Attributes:
    windows: for each window of a picture, uint8 b h w 3.
    sizes: likewise int32 b 2, (h, w) in the canvas; None if all are full.
    places: int32 b n 4, see `windows.Windows`.
    truth: of the pictures.
    images: uint8 b H W 3, the scaled pictures; None if nobody asked for them.
  """

  windows: list[np.ndarray]
  sizes: list[np.ndarray] | None
  places: np.ndarray
  truth: Truth
  images: np.ndarray | None


def batch(pictures: Sequence[Picture], count: int, with_images: bool) -> Batch:
  """Puts pictures of one key together.

  Args:
    pictures: at least one, at most `count`.
    count: b; what is missing is black and has no truth.
    with_images: whether the scaled pictures are needed as a whole.
  """
  key, extra = pictures[0].key, count - len(pictures)
  places = np.zeros((count, key.count, 4), np.int32)
  places[: len(pictures)] = [picture.windows for picture in pictures]
  sizes = None
  if not key.full:
    # What fills up is as large as the canvas: an empty picture has no mean.
    sizes = [np.array(places[:, i, 2:]) for i in range(key.count)]
    for size in sizes:
      size[len(pictures) :] = key.window
  images = [picture.scaled for picture in pictures]
  return Batch(
    [
      windows_lib.paste(
        [_crop(p.scaled, p.windows[i]) for p in pictures], key.window, count
      )
      for i in range(key.count)
    ],
    sizes,
    places,
    _truth(pictures, key, extra),
    windows_lib.paste(images, key.field, count) if with_images else None,
  )


def _crop(scaled, window):
  top, left, height, width = window
  return scaled[top : top + height, left : left + width]


def _truth(pictures, key, extra):
  labels = [picture.label for picture in pictures]
  sizes = [label.shape for label in labels] + [(1, 1)] * extra
  scaled = [p.scaled.shape[:2] for p in pictures] + [(1, 1)] * extra
  canvas = np.full((len(sizes), *key.truth), metrics.IGNORE, labels[0].dtype)
  for place, label in zip(canvas, labels, strict=False):
    place[: label.shape[0], : label.shape[1]] = label
  rows, columns = (
    resize.padded_taps(
      [(old[i], new[i]) for old, new in zip(scaled, sizes, strict=True)],
      key.truth[i],
    )
    for i in (0, 1)
  )
  return Truth(
    label=canvas,
    sizes=np.asarray(sizes, np.int32),
    widths=np.asarray([metrics.width(size) for size in sizes], np.int32),
    rows=rows,
    columns=columns,
    mask=np.asarray([1] * len(pictures) + [0] * extra, np.float32),
  )
