"""One scene from a seed and an index; seeds of the splits.

Nothing but (seed, index, size) decides a scene: no process, order or clock.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from groupvit_jax.scenes import captions, layout, render
from groupvit_jax.scenes.rng import streams

NUM_CAPTIONS = 3
_SPLITS = ('train', 'validation', 'test')
# Streams of random numbers: layout, captions, ground, camera, four things.
_STREAMS = 8


class Scene(NamedTuple):
  """An image with its captions and label map.

  Fields: image uint8 [h, w, 3]; captions, each describing the whole scene in
  other words; mask uint8 [h, w], index into CLASS_NAMES, no pixel unlabelled.
  """

  image: np.ndarray
  captions: tuple[str, ...]
  mask: np.ndarray


def generate(seed: int, index: int, size: int) -> Scene:
  """Draws scene `index` of `seed`.

  Args:
    seed: the seed of a split, see `split_seed`.
    index: number of the scene, from 0 on.
    size: side of the image in pixels, 16 or more; the same scene at any.

  Returns:
    The scene.

  Raises:
    ValueError: if an argument is out of range.
  """
  if seed < 0 or index < 0:
    raise ValueError(
      f'seed and index must be 0 or more, got seed={seed}, index={index}'
    )
  if size < 16:
    raise ValueError(f'size must be 16 pixels or more, got {size}')
  rngs = streams(seed, index, _STREAMS)
  plan = layout.draw(rngs[0])
  texts = tuple(captions.write(plan, rngs[1]) for _ in range(NUM_CAPTIONS))
  image, mask = render.render(plan, rngs[2:], size)
  return Scene(image, texts, mask)


def split_seed(split: str, seed: int) -> int:
  """Seed of a split's scenes, never shared between splits.

  Args:
    split: 'train', 'validation' or 'test'.
    seed: the user's seed, any integer.

  Returns:
    A 62-bit integer: a hash of split and seed, the split in the lowest bits,
    so that no choice of user seeds lets two splits meet.
  """
  if split not in _SPLITS:
    raise ValueError(
      f'unknown split {split!r}: scenes has {", ".join(_SPLITS)}.'
    )
  digest = hashlib.sha256(f'groupvit_jax/scenes/{split}/{seed}'.encode())
  bits = int.from_bytes(digest.digest()[:8], 'big') >> 4
  return bits << 2 | _SPLITS.index(split)
