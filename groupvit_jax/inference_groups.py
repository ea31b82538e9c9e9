"""The group of each pixel at a picture's own size, for every grouping stage."""

import itertools

import numpy as np
from jaxtyping import Float, Int32

from groupvit_jax import inference_field
from groupvit_jax.evaluation.resize import mix, neighbours
from groupvit_jax.inference_pixels import CHUNK


def groups(
  field: inference_field.Field, size: tuple[int, int], stage: int
) -> Int32[np.ndarray, 'H W']:
  """The strongest group of each pixel: soft maps enlarged, then argmax.

  Args:
    field: of one window or several.
    size: (H, W) of the picture.
    stage: which grouping stage.

  Returns:
    Groups; those of window i are numbered from i times their number.
  """
  out = np.zeros(size, np.int32)
  tops = sorted({window.top for window in field.windows})
  lefts = sorted({window.left for window in field.windows})
  for i, window in enumerate(field.windows):
    maps = window.stages[stage]
    places, tokens = zip(
      _owned(tops, window.top, window.size[0], field.size[0], size[0]),
      _owned(lefts, window.left, window.size[1], field.size[1], size[1]),
      strict=True,
    )
    rows, columns = (
      place * (count / side) - 0.5
      for place, count, side in zip(
        tokens, maps.shape[:2], window.size, strict=True
      )
    )
    best = strongest(maps, rows, columns)
    out[np.ix_(*places)] = best + i * maps.shape[2]
  return out


def _owned(starts, start, length, scaled, size):
  """Along one side: the pixels whose window this is, and where they lie in it.

  Neighbouring windows share their overlap half and half.
  """
  places = (np.arange(size) + 0.5) * (scaled / size)
  bounds = [(b + a + length) / 2 for a, b in itertools.pairwise(starts)]
  owner = np.searchsorted(bounds, places, side='right')
  mine = np.flatnonzero(owner == starts.index(start))
  return mine, places[mine] - start


def strongest(
  maps: Float[np.ndarray, 'h w g'],
  rows: Float[np.ndarray, 'H'],
  columns: Float[np.ndarray, 'W'],
) -> Int32[np.ndarray, 'H W']:
  """The group with the largest share at places between tokens.

  Args:
    maps: soft maps on the token grid.
    rows, columns: places in tokens, 0 at the centre of the first.

  Returns:
    Groups; shares are interpolated bilinearly.
  """
  top, bottom, down = neighbours(rows, maps.shape[0])
  left, right, across = neighbours(columns, maps.shape[1])
  out = np.empty((len(rows), len(columns)), np.int32)
  step = max(1, CHUNK // (4 * max(len(columns), 1) * maps.shape[2]))
  for start in range(0, len(rows), step):
    part = slice(start, start + step)
    mixed = mix(maps[top[part]], maps[bottom[part]], down[part, None, None])
    mixed = mix(mixed[:, left], mixed[:, right], across[:, None])
    out[part] = mixed.argmax(-1)
  return out
