"""Resume state of `groupvit segment`: which results a folder holds already.

`segment.jsonl` beside the results has a line for how they were made and one for
every image that is done. An image that changed since is not done.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from groupvit_jax.cli.common import ImageFile
from groupvit_jax.evaluation.resume import ItemLog

NAME = 'segment.jsonl'


class Done(msgspec.Struct):
  """The results of one image.

  Attributes:
    image: its path, resolved.
    bytes: its size.
    modified: its modification time in ns.
    stem: what its results are named after.
    files: names of the results by kind.
  """

  image: str
  bytes: int
  modified: int
  stem: str
  files: dict[str, list[str]] = msgspec.field(default_factory=dict)

  def __post_init__(self):
    """Refuses a line that would have results outside their folder."""
    for name in (self.stem, *sum(self.files.values(), [])):
      path = pathlib.PurePath(name)
      outside = path.is_absolute() or '..' in path.parts
      if not path.name or outside or '\0' in name:
        raise ValueError(f'{name!r} is not a name inside the folder')

  def missing(self, kinds: Sequence[str], folder: pathlib.Path) -> list[str]:
    """Those of the kinds whose files are not all in the folder."""
    names = {kind: self.files.get(kind) for kind in kinds}
    return [
      kind
      for kind, made in names.items()
      if made is None or not all((folder / name).exists() for name in made)
    ]


class ResultsFolder:
  """A folder of results, and what has been done there."""

  def __init__(
    self,
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    overwrite: bool = False,
  ):
    """Reads the resume state of a folder, if it has one.

    Args:
      folder: of the results; it need not be there.
      settings: plain values that the results depend on.
      overwrite: begin anew, whatever is there.

    Raises:
      ValueError: the results there were made with other settings.
    """
    self._folder, self._settings = folder, settings
    self._log = ItemLog(folder / NAME, Done, anew=overwrite)
    if other := self._log.differing(settings):
      raise ValueError(
        f'{self._log.path}: the results there were made with other '
        f'{" and ".join(other)}: choose another --out, or replace them with '
        '--overwrite'
      )
    self._done = {item.image: item for item in self._log.items}

  def stem(self, image: ImageFile) -> str:
    """Stem of the names of an image's results; no two images share it.

    A name without its suffix, unless another image has that already.
    """
    key = os.path.realpath(image.path)
    if key not in self._done:
      taken = {item.stem for item in self._done.values()}
      whole = image.name.as_posix()
      stem = image.name.with_suffix('').as_posix()
      number = 1
      while stem in taken:
        stem = whole if number == 1 else f'{whole}-{number}'
        number += 1
      self._done[key] = Done(key, *_stamp(image), stem)
    return self._done[key].stem

  def missing(self, image: ImageFile, kinds: Sequence[str]) -> list[str]:
    """Those of the kinds of results that have still to be made."""
    item = self._done.get(os.path.realpath(image.path))
    if item is None or not image.path.exists():
      return list(kinds)
    if (item.bytes, item.modified) != _stamp(image):
      (item.bytes, item.modified), item.files = _stamp(image), {}
    return item.missing(kinds, self._folder)

  def add(self, image: ImageFile, made: Mapping[str, list[str]]) -> None:
    """Notes results by kind, as names in the folder. OSError if it cannot."""
    item = self._done[os.path.realpath(image.path)]
    item.files.update(made)
    self._log.append(item, self._settings)


def _stamp(image: ImageFile) -> tuple[int, int]:
  state = image.path.stat()
  return state.st_size, state.st_mtime_ns


class EarlierResults:
  """Container of the files that `groupvit segment` has written before."""

  def __init__(self) -> None:
    self._noted: dict[pathlib.Path, set[pathlib.Path]] = {}

  def __contains__(self, path: pathlib.Path) -> bool:
    path = pathlib.Path(os.path.abspath(path))
    return any(path in self._in(folder) for folder in path.parents)

  def _in(self, folder: pathlib.Path) -> set[pathlib.Path]:
    if folder not in self._noted:
      items = ItemLog(folder / NAME, Done).items
      kinds = [names for item in items for names in item.files.values()]
      self._noted[folder] = {folder / n for names in kinds for n in names}
    return self._noted[folder]
