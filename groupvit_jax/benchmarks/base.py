"""Labelled sets: images with label maps, decoded when they are asked for.

The reader that all layouts share: pairing, decoding, and the checks.
"""

import copy
import dataclasses
import io
import numbers
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from groupvit_jax.benchmarks.codings import Coding
from groupvit_jax.data import images
from groupvit_jax.errors import ConfigError, ImageError, SourceError

_T = TypeVar('_T')
_Set = TypeVar('_Set', bound='Named')


@dataclasses.dataclass(frozen=True)
class Example:
  """An image and the class of each of its pixels.

  Fields:
    name: unique within its set.
    image: RGB pixels.
    label: positions in the set's `class_names`; 255 is ignored.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']
  label: Int32[np.ndarray, 'h w']


class Named(Generic[_T]):
  """Base of the sets here: examples by number, each with a name."""

  def __init__(self, names: Sequence[str]):
    """Keeps the names; SourceError for none, or two alike."""
    check_names(names)
    self._names = tuple(names)

  def __len__(self) -> int:
    return len(self._names)

  def name(self, index: int) -> str:
    """Name of an example, without reading it."""
    return self._names[index]

  def __getitem__(self, index: int) -> _T:
    return self._example(range(len(self))[index])

  def _example(self, index: int) -> _T:
    """Reads an example; called from several threads."""
    raise NotImplementedError

  def first(self: _Set, limit: int | None) -> _Set:
    """The same set with its first `limit` examples, all for None.

    Raises:
      ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
      raise ValueError(f'limit must be at least 1, not {limit}.')
    few = copy.copy(self)
    few._names = self._names[:limit]
    return few


class LabelledSet(Named[Example]):
  """Images with label maps, by random access from any thread.

  `set[i]` raises ImageError, naming the file, for an example that cannot be
  used: missing, unreadable, an image of another size than its label map, or
  labels out of range. Others may be read all the same.

  Fields:
    class_names: in label order, 'background' first if there is one.
    background: whether class 0 is the background.
  """

  class_names: tuple[str, ...]
  background: bool


class Pair(NamedTuple):
  """An image and its label map before they are decoded.

  Fields:
    image: a path or the bytes of an image file.
    label: a path, the bytes of an image file, or stored values.
    image_name, label_name: for messages.
  """

  image: pathlib.Path | bytes
  label: pathlib.Path | bytes | Integer[np.ndarray, 'h w']
  image_name: str
  label_name: str


class PairSet(LabelledSet):
  """A `LabelledSet` of pairs; fields as there."""

  def __init__(
    self,
    class_names: Sequence[str],
    names: Sequence[str],
    pair: Callable[[int], Pair],
    coding: Coding,
    *,
    background: bool = False,
  ):
    """Keeps what it takes to read each example.

    Args:
      class_names: in label order, the background first if there is one.
      names: of the examples.
      pair: the pair at a position; called from several threads.
      coding: classes of the stored values.
      background: whether class 0 is the background.

    Raises:
      SourceError: no example, or two of one name.
    """
    super().__init__(names)
    self.class_names = tuple(class_names)
    self.background = background
    self._pair = pair
    self._coding = coding

  def _example(self, index: int) -> Example:
    pair = self._pair(index)
    stored = pair.label
    if not isinstance(stored, np.ndarray):
      stored = read_label_map(stored, pair.label_name)
    image = _image(pair, stored.shape)
    label = self._coding.decode(stored.astype(np.int32), pair.label_name)
    return Example(self._names[index], image, label)


def from_files(
  class_names: Sequence[str],
  files: Sequence[tuple[str, pathlib.Path, pathlib.Path]],
  coding: Coding,
  *,
  background: bool = False,
) -> PairSet:
  """A set of files.

  Args:
    class_names, coding, background: see `PairSet`.
    files: name, image and label map of each example. They need not exist until
      the example is read.
  """

  def pair(index: int) -> Pair:
    _, image, label = files[index]
    return Pair(image, label, str(image), str(label))

  names = [name for name, _, _ in files]
  return PairSet(class_names, names, pair, coding, background=background)


def check_names(names: Sequence[str]) -> None:
  """Raises SourceError for no example, or two of one name."""
  if not names:
    raise SourceError('There is no image to evaluate in this split.')
  if len(set(names)) < len(names):
    seen = set()
    twice = next(n for n in names if n in seen or seen.add(n))
    raise SourceError(
      f'{twice!r} stands twice in this split: each image counts once; take '
      'one of them out.'
    )


def check_options(
  name: str, options: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
  """Raises ConfigError for an option that is not known, or is no number.

  Args:
    name: of the benchmark.
    options: as given.
    known: its options with their defaults, numbers being whole numbers.
  """
  for option, value in options.items():
    if option not in known:
      raise ConfigError(
        f'{name} has no option {option!r}'
        + (f'; it has {", ".join(known)}.' if known else '.')
      )
    number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if isinstance(known[option], int) and not number:
      raise ConfigError(f'{option} of {name} is a whole number, not {value!r}.')


def _image(pair: Pair, size: tuple[int, int]) -> UInt8[np.ndarray, 'h w 3']:
  """The pixels over which the label map was drawn.

  Those are the stored ones: tools that draw label maps mostly ignore EXIF
  rotation. Where only the turned image has the label map's size, the tool did
  not. (A rotation that keeps the size cannot be noticed: as stored.)
  """
  if isinstance(pair.image, pathlib.Path) and not pair.image.exists():
    raise ImageError(
      f'{pair.image_name}: there is no such file, but {pair.label_name} is its '
      'label map; add the image, or remove the label map.'
    )
  image = images.open_image(pair.image, pair.image_name, upright=False)
  if image.shape[:2] == size:
    return image
  upright = images.open_image(pair.image, pair.image_name)
  if upright.shape[:2] == size:
    return upright
  raise ImageError(
    f'{pair.label_name} is {size[1]} x {size[0]} pixels and its image '
    f'{image.shape[1]} x {image.shape[0]}: they must have the same size; take '
    'both from the same copy of the data, and resize neither.'
  )


# Pillow spreads grey values of few bits over 0..255.
_SPREAD = {'L;2': 85, 'L;4': 17}


def read_label_map(
  source: str | os.PathLike | bytes, name: str
) -> Int32[np.ndarray, 'h w']:
  """The values of a label map, as they are stored.

  Args:
    source: a file or its bytes: grey or palette, 8 or 16 bits; or RGB with
      three equal channels.
    name: for messages.

  Raises:
    ImageError: missing, unreadable, or no label map.
  """
  values, single = _stored(source, name)
  if values.ndim == 3:
    # Of grey or palette with transparency the first channel is the value.
    colours = values[..., :1] if single else values[..., :3]
    if (colours != colours[..., :1]).any():
      raise ImageError(
        f'{name} is a coloured image: give label maps whose pixel values are '
        'the classes (grey or palette PNG).'
      )
    values = colours[..., 0]
  if values.dtype.kind not in 'uib':
    raise ImageError(
      f'{name} has {values.dtype} pixels: the values of a label map are '
      'integers (grey or palette PNG).'
    )
  return values.astype(np.int32)


def read_channels(source: bytes, name: str) -> UInt8[np.ndarray, 'h w n']:
  """The pixels of a label map with one or several channels."""
  values, _ = _stored(source, name)
  return values[..., None] if values.ndim == 2 else values


def _stored(
  source: str | os.PathLike | bytes, name: str
) -> tuple[np.ndarray, bool]:
  """Pixels as stored, and whether only the first channel is a value."""
  try:
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with images.open_header(file) as image:
      if image.format == 'JPEG':
        raise ImageError(
          f'{name} is a JPEG, which blurs labels: give label maps as PNG.'
        )
      # Pillow drops it once the pixels are loaded.
      tiles: Any = getattr(image, 'tile', ())
      raw_mode = str(tiles[0][3]) if tiles else ''
      values = np.asarray(image)
      if raw_mode in _SPREAD:
        values = values // _SPREAD[raw_mode]
      return values, image.mode in ('LA', 'PA')
  except ImageError:
    raise
  except FileNotFoundError:
    raise ImageError(
      f'{name}: there is no such file, so its image has no label map; add it, '
      'or remove the image.'
    ) from None
  except IsADirectoryError:
    raise ImageError(
      f'{name} is a folder, where a label map should be; put the file in its '
      'place, or remove the image.'
    ) from None
  except Exception as error:  # Pillow's readers raise many kinds
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ImageError(
      f'{name} cannot be read as a label map: {reason.rstrip(".")}; get it '
      'anew.'
    ) from error
