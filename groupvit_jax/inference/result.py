"""What segmenting gives: labels, scores, groups, and pictures of them.

Everything at the picture's own size is computed when it is first asked for.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8
from PIL import Image

from groupvit_jax.evaluation.resize import mix, neighbours, taps
from groupvit_jax.inference import field as field_lib
from groupvit_jax.viz import overlay as overlay_lib

# From scored groups to labels and scores at a picture's own size, on the host.
#
# Scores are enlarged bilinearly and then compared, as released, but without
# ever holding a score per class and pixel: between pixels of one class nothing
# has to be mixed, so only borders are.

# Floats that a step works on: 4 MB stay in a cache; 64 MB took four times as
# long.
CHUNK = 2**20


def labels(
  field: field_lib.Field, size: tuple[int, int]
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
  field: field_lib.Field, size: tuple[int, int]
) -> Float32[np.ndarray, 'k H W']:
  """Every class's score at every pixel, enlarged to `size`."""
  out = np.empty((field.num_classes, *size), np.float32)
  row = 0
  for chunk in enlarged(field, size):
    out[:, row : row + len(chunk)] = chunk.transpose(2, 0, 1)
    row += len(chunk)
  return out


def enlarged(
  field: field_lib.Field, size: tuple[int, int]
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
  field: field_lib.Field, labels: Int32[np.ndarray, 'H W']
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


# The group of each pixel at a picture's own size, for every grouping stage.


def groups(
  field: field_lib.Field, size: tuple[int, int], stage: int
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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
  """A segmented picture.

  Attributes:
    image: its RGB pixels, as they were read (turned upright, say).
    names: of the classes, in the order of labels and scores; of synonyms the
      first. With a background, names[0] is 'background'.
    background: whether class 0 is what none of the others claimed.
    field: scores over the scaled picture, what all else is computed from.
  """

  image: UInt8[np.ndarray, 'h w 3']
  names: tuple[str, ...]
  background: bool
  field: field_lib.Field

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the picture."""
    return self.image.shape[:2]

  @functools.cached_property
  def labels(self) -> Int32[np.ndarray, 'h w']:
    """The class of each pixel, an index into `names`."""
    return labels(self.field, self.size)

  @functools.cached_property
  def scores(self) -> Float32[np.ndarray, 'k h w']:
    """The score of every class at every pixel; `labels` is its argmax.

    4 bytes for each class and pixel: 7 GB for 150 classes of a 12-megapixel
    photo, where `labels` and `mean_scores` need 48 MB.
    """
    return scores(self.field, self.size)

  @functools.cached_property
  def groups(self) -> list[Int32[np.ndarray, 'h w']]:
    """The strongest group of each pixel, for every grouping stage.

    The last stage's groups are those that got names. With sliding windows a
    pixel shows the window that it is most central in, and the groups of window
    i are numbered from i times their number.
    """
    stages = range(len(self.field.windows[0].stages))
    return [groups(self.field, self.size, i) for i in stages]

  @functools.cached_property
  def areas(self) -> dict[str, int]:
    """Pixels of each class that was found."""
    counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
    return {
      name: int(n) for name, n in zip(self.names, counts, strict=True) if n
    }

  @functools.cached_property
  def boxes(self) -> dict[str, tuple[int, int, int, int]]:
    """(x, y, width, height) around each class that was found, in pixels."""
    boxes = {}
    for i, name in enumerate(self.names):
      if name in self.areas:
        mask = self.labels == i
        x, y = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
        boxes[name] = (
          int(x[0]),
          int(y[0]),
          int(x[-1] - x[0] + 1),
          int(y[-1] - y[0] + 1),
        )
    return boxes

  @functools.cached_property
  def mean_scores(self) -> dict[str, float]:
    """Mean score of each class that was found, over the pixels it won."""
    total = np.zeros(len(self.names))
    row = 0
    for won in winning_scores(self.field, self.labels):
      own = self.labels[row : row + len(won)]
      total += np.bincount(own.ravel(), won.ravel(), len(total))
      row += len(won)
    return {
      name: float(total[self.names.index(name)] / area)
      for name, area in self.areas.items()
    }

  def overlay(self, max_side: int | None = 2048) -> Image.Image:
    """The picture with its classes in colour, their names, and a legend."""
    picture = overlay_lib.overlay_with_names(
      self.image,
      self.labels,
      self.names,
      background=self.background,
      max_side=max_side,
      scores=self.mean_scores,
    )
    return Image.fromarray(picture)

  def pred(self, max_side: int | None = 2048) -> Image.Image:
    """The classes alone, in colour, with names and a legend."""
    picture = overlay_lib.class_map(
      self.labels, self.names, background=self.background, max_side=max_side
    )
    return Image.fromarray(picture)

  def mask(self) -> Image.Image:
    """The labels as a palette picture: a pixel's value is its class."""
    return overlay_lib.palette_image(
      self.labels, self.names, background=self.background
    )

  def first_group(self, max_side: int | None = 2048) -> Image.Image:
    """The picture with the groups of the first stage in colour."""
    return self.all_groups(max_side)[0]

  def final_group(self, max_side: int | None = 2048) -> Image.Image:
    """The picture with the groups that got names in colour."""
    return self.all_groups(max_side)[-1]

  def all_groups(self, max_side: int | None = 2048) -> list[Image.Image]:
    """The same for every stage."""
    return [
      Image.fromarray(
        overlay_lib.groups_overlay(self.image, groups, max_side=max_side)
      )
      for groups in self.groups
    ]

  def __repr__(self) -> str:
    height, width = self.size
    return f'Segmentation({width} x {height}, names={list(self.names)})'
