"""A labelled set from pictures and label maps that are read when asked for.

What the readers of all layouts share: pairing, decoding, and the checks.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from groupvit_jax.data import images
from groupvit_jax.errors import ImageError, SourceError

# What every labelled set gives: a picture with its truth, by position.
#
# Pixels are decoded when they are asked for, so that threads can read ahead.

IGNORED = 255


@dataclasses.dataclass(frozen=True)
class Example:
  """A picture and the class of each of its pixels.

  Fields:
    name: unique within its set.
    image: RGB pixels.
    label: positions in the set's `class_names`; 255 does not count.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']
  label: Int32[np.ndarray, 'h w']


@runtime_checkable
class LabelledSet(Protocol):
  """Pictures with label maps, by random access from any thread.

  `set[i]` raises ImageError, naming the file, for a picture that cannot be
  used: missing, unreadable, of another size than its truth, or with labels out
  of range. Others may be read all the same.

  Fields:
    class_names: in label order, 'background' first if there is one.
    background: whether class 0 is the background.
  """

  class_names: tuple[str, ...]
  background: bool

  def __len__(self) -> int: ...

  def name(self, index: int) -> str:
    """The name of an example, without reading it."""
    ...

  def __getitem__(self, index: int) -> Example: ...


class First:
  """The first examples of a set, for a quick look.

  Fields: as LabelledSet.
  """

  def __init__(self, examples: LabelledSet, count: int):
    if count < 1:
      raise ValueError(f'limit must be at least 1, not {count}.')
    self._examples = examples
    self._count = min(count, len(examples))
    self.class_names = examples.class_names
    self.background = examples.background

  def __len__(self) -> int:
    return self._count

  def name(self, index: int) -> str:
    return self._examples.name(range(self._count)[index])

  def __getitem__(self, index: int) -> Example:
    return self._examples[range(self._count)[index]]


# Label maps as they are stored, and the classes that their values mean.
#
# Every benchmark has its own coding (0 ignored here, ids with gaps there); a
# `Rule` is the table from it to positions in the list of class names.

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


class Raw(NamedTuple):
  """A pair before it is decoded.

  Fields:
    picture: a path or the bytes of an image file.
    truth: a path, the bytes of an image file, or stored values (integers h w).
    picture_name, truth_name: what messages call them.
  """

  picture: pathlib.Path | bytes
  truth: pathlib.Path | bytes | np.ndarray
  picture_name: str
  truth_name: str


class PairSet:
  """A `LabelledSet` over raw pairs.

  Fields: as LabelledSet.
  """

  def __init__(
    self,
    class_names: Sequence[str],
    names: Sequence[str],
    raw: Callable[[int], Raw],
    rule: Rule,
    *,
    background: bool = False,
  ):
    """Holds what it takes to read each example.

    Args:
      class_names: in label order, the background first if there is one.
      names: of the examples.
      raw: the pair of a position; called from several threads.
      rule: what the stored values mean.
      background: whether class 0 is the background.

    Raises:
      SourceError: no example, or two of one name.
    """
    check_names(names)
    self.class_names = tuple(class_names)
    self.background = background
    self._names = tuple(names)
    self._raw = raw
    self._rule = rule

  def __len__(self) -> int:
    return len(self._names)

  def name(self, index: int) -> str:
    return self._names[index]

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    raw = self._raw(index)
    image = _picture(raw)
    stored = raw.truth
    if not isinstance(stored, np.ndarray):
      stored = read(stored, raw.truth_name, image.shape[:2])
    label = self._rule.apply(stored.astype(np.int32), raw.truth_name)
    return Example(self._names[index], image, label)


def from_files(
  class_names: Sequence[str],
  files: Sequence[tuple[str, pathlib.Path, pathlib.Path]],
  rule: Rule,
  *,
  background: bool = False,
) -> PairSet:
  """A set of files.

  Args:
    class_names, rule, background: see `PairSet`.
    files: name, picture and label map of each example. They need not be there
      until the example is read.
  """

  def raw(index):
    _, picture, truth = files[index]
    return Raw(picture, truth, str(picture), str(truth))

  names = [name for name, _, _ in files]
  return PairSet(class_names, names, raw, rule, background=background)


def check_names(names: Sequence[str]) -> None:
  """Raises SourceError for no example, or two of one name."""
  if not names:
    raise SourceError('There is no picture to evaluate in this split.')
  if len(set(names)) < len(names):
    seen = set()
    twice = next(n for n in names if n in seen or seen.add(n))
    raise SourceError(
      f'{twice!r} stands twice in this split: each picture counts once; take '
      'one of them out.'
    )


def _picture(raw):
  """The pixels over which the truth was drawn.

  Those are the stored ones: tools that draw label maps mostly ignore EXIF
  rotation. Where only the turned picture has the truth's size, the tool did
  not. (The same turn without a change of size cannot be told: as stored.)
  """
  size = size_of(raw.truth, raw.truth_name)
  try:
    image = images.open_image(raw.picture, raw.picture_name, upright=False)
  except ImageError as error:
    if isinstance(raw.picture, pathlib.Path) and not raw.picture.exists():
      raise ImageError(
        f'{raw.picture_name}: there is no such file, but {raw.truth_name} is '
        'its truth; add the picture, or take the truth out.'
      ) from None
    raise error
  if image.shape[:2] != tuple(size):
    upright = images.open_image(raw.picture, raw.picture_name)
    if upright.shape[:2] == tuple(size):
      return upright
  check_size(size, image.shape[:2], raw.truth_name)
  return image
