"""What a folder of results holds already, so that a run can be resumed.

`segment.jsonl` beside the results has a line for how they were made and one for
every picture that is done. A picture that changed since is not done.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from groupvit_jax import files
from groupvit_jax.commands.pictures import Picture

NAME = 'segment.jsonl'


class Journal:
  """What has been done in a folder."""

  def __init__(
    self,
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    overwrite: bool = False,
  ):
    """Reads the journal of a folder, if it has one.

    Args:
      folder: of the results; it need not be there.
      settings: plain values that the results depend on.
      overwrite: begin anew, whatever is there.

    Raises:
      ValueError: the results there were made with other settings.
    """
    self._folder = folder
    self._path = folder / NAME
    self._done = {}
    self._settings = json.loads(json.dumps(settings))
    if self._path.exists() and not overwrite:
      self._read(self._settings)

  def _read(self, settings):
    first, *lines = _objects(self._path) or [{}]
    if not lines:  # nothing was done
      return
    other = [k for k in settings if first.get(k) != settings[k]]
    if other:
      raise ValueError(
        f'{self._path} tells that the results there were made with another '
        f'{" and ".join(other)}: choose another --out, or replace them with '
        '--overwrite'
      )
    self._done = {line['picture']: line for line in filter(_is_whole, lines)}

  def begin(self) -> None:
    """Makes the folder; has to come before `add`. OSError if it cannot."""
    # What a link points to may still have to be made.
    self._folder.resolve().mkdir(parents=True, exist_ok=True)
    # Written anew, as the last line may be half a line.
    lines = [self._settings, *self._done.values()]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    files.write_atomically(self._path, text)

  def stem(self, picture: Picture) -> str:
    """What a picture's results are named after: no two share it.

    A name without its suffix, unless another picture has that already.
    """
    key = _key(picture)
    if key in self._done:
      return self._done[key]['stem']
    taken = {line['stem'] for line in self._done.values()}
    whole = picture.name.as_posix()
    stem = picture.name.with_suffix('').as_posix()
    if stem in taken:
      stem = whole
    number = 2
    while stem in taken:
      stem, number = f'{whole}-{number}', number + 1
    self._done[key] = {**_state(picture), 'stem': stem, 'files': {}}
    return stem

  def missing(self, picture: Picture, kinds: Sequence[str]) -> list[str]:
    """Those of the kinds of results that have still to be made."""
    line = self._done.get(_key(picture))
    if line is None or not picture.path.exists():
      return list(kinds)
    if {k: line[k] for k in ('bytes', 'modified')} != _stamp(picture):
      line.update(_stamp(picture), files={})
    return [kind for kind in kinds if not self._has(line['files'].get(kind))]

  def _has(self, names: Sequence[str] | None) -> bool:
    return names is not None and all(
      (self._folder / name).exists() for name in names
    )

  def add(self, picture: Picture, made: Mapping[str, Sequence[str]]) -> None:
    """Notes results by kind, as paths below the folder."""
    line = self._done[_key(picture)]
    line['files'].update(made)
    with self._path.open('a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')


def _key(picture: Picture) -> str:
  return os.path.realpath(picture.path)


def _state(picture: Picture) -> dict[str, Any]:
  return {'picture': _key(picture), **_stamp(picture)}


def _stamp(picture: Picture) -> dict[str, int]:
  state = picture.path.stat()
  return {'bytes': state.st_size, 'modified': state.st_mtime_ns}


class Results:
  """Files that journals in the folders above them have noted."""

  def __init__(self):
    self._of = {}

  def __contains__(self, path: pathlib.Path) -> bool:
    path = pathlib.Path(os.path.abspath(path))
    return any(path in self._noted(folder) for folder in path.parents)

  def _noted(self, folder: pathlib.Path) -> set[pathlib.Path]:
    if folder not in self._of:
      self._of[folder] = {
        folder / name
        for line in filter(_is_whole, _objects(folder / NAME))
        for names in line['files'].values()
        for name in names
      }
    return self._of[folder]


def _objects(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a journal's whole lines; [] if there is no journal."""
  found = []
  if path.is_file():
    text = path.read_text(encoding='utf-8', errors='replace')
    for line in text.splitlines():
      with contextlib.suppress(ValueError):
        found.append(json.loads(line))
  return [line for line in found if isinstance(line, dict)]


def _is_whole(line: dict[str, Any]) -> bool:
  """Whether a line tells of a picture all that `Journal` has written."""
  made = line.get('files')
  return (
    all(isinstance(line.get(name), str) for name in ('picture', 'stem'))
    and {'bytes', 'modified'} <= line.keys()
    and isinstance(made, dict)
    and all(isinstance(names, list) for names in made.values())
    and all(isinstance(name, str) for names in made.values() for name in names)
  )
