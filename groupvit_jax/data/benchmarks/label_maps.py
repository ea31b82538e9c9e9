"""Label maps as they are stored, and the classes that their values mean.

Every benchmark has its own coding (0 ignored here, ids with gaps there); a
`Rule` is the table from it to positions in the list of class names.
"""

import dataclasses
import io
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32
from PIL import Image

from groupvit_jax.data.benchmarks.example import IGNORED
from groupvit_jax.errors import ImageError

_INVALID = -1
_MOST_NAMED = 5
# Pillow spreads grey values of few bits over 0..255.
_SPREAD = {'L;2': 85, 'L;4': 17}


@dataclasses.dataclass(frozen=True)
class Rule:
  """What stored values mean.

  Fields:
    table: class of each stored value; -1 for values that must not occur. Values
      beyond it must not occur either.
    expected: the values that may occur, for messages.
  """

  table: Int32[np.ndarray, 'values']
  expected: str

  def apply(
    self, stored: Int32[np.ndarray, 'h w'], name: str
  ) -> Int32[np.ndarray, 'h w']:
    """Classes of stored values.

    Args:
      stored: a label map as its file has it.
      name: what messages call it.

    Raises:
      ImageError: values that the coding does not have.
    """
    inside = (stored >= 0) & (stored < len(self.table))
    label = np.where(inside, self.table[np.where(inside, stored, 0)], _INVALID)
    wrong = label == _INVALID
    if wrong.any():
      raise ImageError(
        f'{name} has labels out of range: {_listed(stored[wrong])}, where '
        f'{self.expected} may occur; check that it is a label map of this '
        'benchmark, in this coding.'
      )
    return label.astype(np.int32)


def as_stored(classes: int) -> Rule:
  """The stored value is the class; 255 is ignored."""
  return mapped({i: i for i in range(classes)}, f'0 to {classes - 1} and 255')


def less_one(classes: int) -> Rule:
  """0 is ignored and 1 is the first class (mmseg's reduce_zero_label)."""
  return mapped(
    {0: IGNORED} | {i + 1: i for i in range(classes)}, f'0 to {classes} and 255'
  )


def mapped(classes: Mapping[int, int], expected: str) -> Rule:
  """Classes from a table.

  Args:
    classes: class by stored value. 255 is ignored unless it stands there.
    expected: see `Rule`.
  """
  known = {IGNORED: IGNORED} | dict(classes)
  table = np.full(max(known) + 1, _INVALID, np.int32)
  for value, label in known.items():
    table[value] = label
  return Rule(table, expected)


def read(
  source: str | os.PathLike | bytes, name: str, size: tuple[int, int]
) -> Int32[np.ndarray, 'h w']:
  """The values of a label map, as they are stored.

  Args:
    source: a file or its bytes: grey or palette, 8 or 16 bits; or RGB with
      three equal channels.
    name: what messages call it.
    size: (h, w) that it must have.

  Returns:
    Stored values.

  Raises:
    ImageError: missing, unreadable, of another size, or no label map.
  """
  with _opened(source, name) as image:
    check_size(image.size[::-1], size, name)
    if image.format == 'JPEG':
      raise ImageError(
        f'{name} is a JPEG, which blurs labels: give label maps as PNG.'
      )
    try:
      return _values(image, name)
    except ImageError:
      raise
    except Exception as error:  # Pillow's readers raise whatever they met
      raise _unreadable(name, error) from error


def size_of(
  source: str | os.PathLike | bytes | np.ndarray, name: str
) -> tuple[int, int]:
  """(h, w) of a label map, from its header."""
  if isinstance(source, np.ndarray):
    return source.shape
  with _opened(source, name) as image:
    return image.size[::-1]


def check_size(
  found: tuple[int, int], wanted: tuple[int, int], name: str
) -> None:
  """Raises ImageError where a label map does not fit its picture."""
  if tuple(found) != tuple(wanted):
    raise ImageError(
      f'{name} is {found[1]} x {found[0]} pixels and its picture {wanted[1]} x '
      f'{wanted[0]}: they must have the same size; take both from the same '
      'copy of the data, and resize neither.'
    )


def channels(source: bytes, name: str) -> np.ndarray:
  """The pixels of a label map with several channels, uint8 [h, w, n]."""
  with _opened(source, name) as image:
    try:
      values = np.asarray(image)
    except Exception as error:  # as above
      raise _unreadable(name, error) from error
  return values[..., None] if values.ndim == 2 else values


def _opened(source, name):
  try:
    return Image.open(io.BytesIO(source) if _is_bytes(source) else source)
  except FileNotFoundError:
    raise ImageError(
      f'{name}: there is no such file, so this picture has no truth; add it, '
      'or take the picture out.'
    ) from None
  except IsADirectoryError:
    raise ImageError(
      f'{name} is a folder, where the label map of a picture should be; put '
      'the file in its place, or take the picture out.'
    ) from None
  except Exception as error:  # as above
    raise _unreadable(name, error) from error


def _is_bytes(source):
  return isinstance(source, bytes | bytearray | memoryview)


def _unreadable(name, error):
  reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
  return ImageError(
    f'{name} cannot be read as a label map: {reason.rstrip(".")}; get it anew.'
  )


def _values(image, name):
  stored_as = image.tile[0][3] if image.tile else None  # gone once loaded
  values = np.asarray(image)
  if isinstance(stored_as, str) and stored_as in _SPREAD:
    values = values // _SPREAD[stored_as]
  if values.ndim == 3:
    # Of grey or palette with transparency the first channel is the value.
    single = image.mode in ('LA', 'PA')
    colours = values[..., :1] if single else values[..., :3]
    if (colours != colours[..., :1]).any():
      raise ImageError(
        f'{name} is a coloured picture: give label maps whose pixel values are '
        'the classes (grey or palette PNG).'
      )
    values = colours[..., 0]
  if values.dtype.kind not in 'uib':
    raise ImageError(
      f'{name} has {values.dtype} pixels: the values of a label map are '
      'integers (grey or palette PNG).'
    )
  return values.astype(np.int32)


def _listed(values):
  found = np.unique(values)
  named = ', '.join(map(str, found[:_MOST_NAMED].tolist()))
  more = len(found) - _MOST_NAMED
  return f'{named} and {more} more' if more > 0 else named
