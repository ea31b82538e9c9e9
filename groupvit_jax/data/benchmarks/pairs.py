"""A labelled set from pictures and label maps that are read when asked for.

What the readers of all layouts share: pairing, decoding, and the checks.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from groupvit_jax.data import images
from groupvit_jax.data.benchmarks import label_maps
from groupvit_jax.data.benchmarks.example import Example
from groupvit_jax.errors import ImageError, SourceError


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
    rule: label_maps.Rule,
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
      stored = label_maps.read(stored, raw.truth_name, image.shape[:2])
    label = self._rule.apply(stored.astype(np.int32), raw.truth_name)
    return Example(self._names[index], image, label)


def from_files(
  class_names: Sequence[str],
  files: Sequence[tuple[str, pathlib.Path, pathlib.Path]],
  rule: label_maps.Rule,
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
  size = label_maps.size_of(raw.truth, raw.truth_name)
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
  label_maps.check_size(size, image.shape[:2], raw.truth_name)
  return image
