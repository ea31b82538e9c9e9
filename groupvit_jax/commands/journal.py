"""What a folder of results holds already, so that a run can be resumed.

`segment.jsonl` beside the results has a line for how they were made and one for
every picture that is done. A picture that changed since is not done.
"""

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
    lines = list(_objects(self._path.read_text(encoding='utf-8')))
    if len(lines) < 2:  # nothing was done
      return
    other = [k for k in settings if lines[0].get(k) != settings[k]]
    if other:
      raise ValueError(
        f'{self._path} tells that the results there were made with another '
        f'{" and ".join(other)}: choose another --out, or replace them with '
        '--overwrite'
      )
    for line in lines[1:]:
      self._done[line['picture']] = line

  def begin(self) -> None:
    """Makes the folder; has to come before `add`. OSError if it cannot."""
    self._folder.mkdir(parents=True, exist_ok=True)
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


def _objects(text: str):
  """The lines that are whole."""
  for line in text.splitlines():
    try:
      yield json.loads(line)
    except ValueError:
      continue
