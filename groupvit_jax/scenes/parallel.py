"""Many scenes at once, over all cores."""

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from groupvit_jax import processes
from groupvit_jax.scenes.generator import generate, split_seed

_CHUNK = 128
# Below this many pixels starting processes costs more than it saves.
_WORTH_IT = 512 * 64 * 64


class Arrays(NamedTuple):
  """Scenes in memory.

  Fields: images uint8 [n, h, w, 3]; captions, a tuple of texts for each
  image; masks uint8 [n, h, w], or None for none.
  """

  images: np.ndarray
  captions: list[tuple[str, ...]]
  masks: np.ndarray | None


class Chunk(NamedTuple):
  """Consecutive scenes: the first index, and an array of each field.

  With `png=True` images and masks are lists of encoded files instead.
  """

  start: int
  images: np.ndarray | list[bytes]
  captions: list[tuple[str, ...]]
  masks: np.ndarray | list[bytes] | None


def _png(image: np.ndarray) -> bytes:
  """The image as PNG, compressed lightly."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG', compress_level=4)
  return buffer.getvalue()


def _make(job: tuple[int, int, int, int, bool, bool]) -> Chunk:
  """Generates scenes start..stop-1 (runs in a worker)."""
  seed, start, stop, size, masks, png = job
  scenes = [generate(seed, index, size) for index in range(start, stop)]

  def pack(images):
    return [_png(p) for p in images] if png else np.stack(images)

  return Chunk(
    start,
    pack([scene.image for scene in scenes]),
    [scene.captions for scene in scenes],
    pack([scene.mask for scene in scenes]) if masks else None,
  )


def generate_chunks(
  split: str,
  count: int,
  size: int,
  seed: int = 0,
  *,
  masks: bool = True,
  png: bool = False,
  workers: int | None = None,
) -> Iterator[Chunk]:
  """Generates scenes 0..count-1 of a split, chunk by chunk, in order.

  Args:
    split: 'train', 'validation' or 'test'.
    count: how many scenes.
    size: side of the images in pixels.
    seed: the user's seed; each split derives its own.
    masks: whether chunks hold masks.
    png: whether images and masks come as encoded files or as arrays.
    workers: processes; None means one for each core, 1 none beside this one.

  Yields:
    Chunks of consecutive scenes.
  """
  if count < 0 or (workers is not None and workers < 1):
    raise ValueError(
      f'count must be 0 or more and workers 1 or more, got count={count}, '
      f'workers={workers}'
    )
  own_seed = split_seed(split, seed)
  chunk = max(8, min(_CHUNK, _CHUNK * 64 * 64 // (size * size)))
  jobs = [
    (own_seed, start, min(start + chunk, count), size, masks, png)
    for start in range(0, count, chunk)
  ]
  workers = processes.usable_cores() if workers is None else workers
  if count * size * size <= _WORTH_IT:
    workers = 1
  chunks = processes.mapped(_make, jobs, workers)
  bar = processes.Bar(
    total=count,
    desc=f'scenes {split} {size} px',
    unit=' scenes',
  )
  with bar:
    for made in chunks:
      yield made
      bar.update(len(made.captions))


def generate_many(
  split: str,
  count: int,
  size: int,
  seed: int = 0,
  *,
  masks: bool = True,
  workers: int | None = None,
) -> Arrays:
  """`generate_chunks`, into arrays; the same for any number of workers.

  Training data must not hold the ground truth: `masks=False`.
  """
  images = np.empty((count, size, size, 3), np.uint8)
  labels = np.empty((count, size, size), np.uint8) if masks else None
  texts = []
  for chunk in generate_chunks(
    split, count, size, seed, masks=masks, workers=workers
  ):
    stop = chunk.start + len(chunk.captions)
    images[chunk.start : stop] = np.asarray(chunk.images)
    if labels is not None:
      labels[chunk.start : stop] = np.asarray(chunk.masks)
    texts.extend(chunk.captions)
  return Arrays(images, texts, labels)
