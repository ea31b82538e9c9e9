"""From scored groups to labels and scores at a picture's own size, on the host.

Scores are enlarged bilinearly and then compared, as released, but without ever
holding a score per class and pixel: between pixels of one class nothing has to
be mixed, so only borders are.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from groupvit_jax import inference_field
from groupvit_jax.evaluation.resize import mix, taps

# Floats that a step works on: 4 MB stay in a cache; 64 MB took four times as
# long.
CHUNK = 2**20


def labels(
  field: inference_field.Field, size: tuple[int, int]
) -> Int32[np.ndarray, 'H W']:
  """The best class of each pixel: scores enlarged to `size`, then argmax.

  Args:
    field: of hard groups or soft maps.
    size: (H, W) of the picture.

  Returns:
    Classes; the first of equals.
  """
  if field.windows[0].maps is None:
    return _labels_of_states(*field.states(), size)
  chunks = [scores.argmax(-1) for scores in enlarged(field, size)]
  return np.concatenate(chunks).astype(np.int32)


def scores(
  field: inference_field.Field, size: tuple[int, int]
) -> Float32[np.ndarray, 'k H W']:
  """Every class's score at every pixel, enlarged to `size`."""
  out = np.empty((field.num_classes, *size), np.float32)
  row = 0
  for chunk in enlarged(field, size):
    out[:, row : row + len(chunk)] = chunk.transpose(2, 0, 1)
    row += len(chunk)
  return out


def enlarged(
  field: inference_field.Field, size: tuple[int, int]
) -> Iterator[Float32[np.ndarray, 'r W k']]:
  """Scores at `size`, some rows at a time, from top to bottom."""
  top, bottom, down = taps(field.size[0], size[0])
  left, right, across = taps(field.size[1], size[1])
  step = max(1, CHUNK // (4 * max(size[1], field.size[1]) * field.num_classes))
  for start in range(0, size[0], step):
    end = min(start + step, size[0])
    first = int(top[start])
    rows = field.rows(first, int(bottom[end - 1]) + 1)
    weight = down[start:end, None, None]
    rows = mix(
      rows[top[start:end] - first], rows[bottom[start:end] - first], weight
    )
    yield mix(rows[:, left], rows[:, right], across[:, None])


def winning_scores(
  field: inference_field.Field, labels: Int32[np.ndarray, 'H W']
) -> Iterator[Float32[np.ndarray, 'r W']]:
  """Each pixel's score of its own class, some rows at a time.

  Args:
    field: the scores.
    labels: what `labels` returned.

  Yields:
    Scores, from top to bottom.
  """
  size = labels.shape
  if field.windows[0].maps is not None:
    start = 0
    for chunk in enlarged(field, size):
      own = labels[start : start + len(chunk), :, None]
      yield np.take_along_axis(chunk, own, -1)[..., 0]
      start += len(chunk)
    return
  states, table = field.states()
  top, bottom, down = taps(states.shape[0], size[0])
  left, right, across = taps(states.shape[1], size[1])
  step = max(1, CHUNK // (8 * size[1]))
  for start in range(0, size[0], step):
    part = slice(start, start + step)
    own, weight = labels[part], down[part, None]

    def column(x, own=own, weight=weight, part=part):
      above, below = states[top[part]][:, x], states[bottom[part]][:, x]
      return mix(table[above, own], table[below, own], weight)

    yield mix(column(left), column(right), across)


def _labels_of_states(states, table, size):
  # A class that nowhere exceeds the first can win no mixture against it (equals
  # go to the first). The gate leaves five classes of any vocabulary.
  kept = np.flatnonzero((table > table[:, :1]).any(0) | _first(table.shape[1]))
  table = np.ascontiguousarray(table[:, kept])
  best = table.argmax(-1)
  y, x = (taps(old, new) for old, new in zip(states.shape, size, strict=True))
  decided = kept[best].astype(np.int32)[states]
  out = decided[y[0]][:, x[0]]
  # Four neighbours of one class mix to that class, whatever the weights.
  mixed = np.nonzero(_border(decided)[y[0]][:, x[0]])
  step = max(1, CHUNK // (8 * len(kept)))
  for start in range(0, len(mixed[0]), step):
    place = tuple(axis[start : start + step] for axis in mixed)
    (top, bottom, down), (left, right, across) = (
      [part[axis] for part in near]
      for near, axis in zip((y, x), place, strict=True)
    )
    # In the order of `enlarged`, so that both round alike.
    down, across = down[:, None], across[:, None]
    first = mix(table[states[top, left]], table[states[bottom, left]], down)
    second = mix(table[states[top, right]], table[states[bottom, right]], down)
    out[place] = kept[mix(first, second, across).argmax(-1)]
  return out


def _first(count: int) -> Bool[np.ndarray, 'n']:
  return np.arange(count) == 0


def _border(labels: Int[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """Whether a pixel and its right, lower and diagonal neighbours differ."""
  down = np.concatenate([labels[1:], labels[-1:]])
  differ = labels != down
  across = np.concatenate([labels[:, 1:], labels[:, -1:]], 1)
  differ |= labels != across
  differ[:, :-1] |= labels[:, :-1] != down[:, 1:]
  return differ
