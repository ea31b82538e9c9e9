"""What a folder of results holds already, so that a run can be resumed.

`segment.jsonl` beside the results has a line for how they were made and one for
every picture that is done. A picture that changed since is not done.
"""

import contextlib
import glob
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, Any

from groupvit_jax import files
from groupvit_jax.cli import common
from groupvit_jax.cli.common import Picture

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


# A run's claim to FILE, its report: nobody else writes it meanwhile.
#
# `FILE.lock` is locked for as long as the run lives; the kernel lets go of it,
# whatever ends the run. It tells which file --overwrite was to replace: what
# was interrupted may then go on without --overwrite, and replace that file
# alone.

try:
  import fcntl
except ImportError:  # Windows: nothing is locked there
  fcntl = None


class Claim:
  """To one report, held by the one process that writes it."""

  def __init__(self, out: pathlib.Path, journal: pathlib.Path, overwrite: bool):
    """Takes the lock.

    Args:
      out: of the report.
      journal: which this process goes on from, if it is there.
      overwrite: whether another report may be replaced.

    Raises:
      ValueError: another run has it, or it exists and may not be replaced.
      OSError: the lock cannot be written.
    """
    self._out, self._journal = out, journal
    self._file = _locked(out)
    self._stamp = stamp_of(out)
    try:
      if not (overwrite or (journal.exists() and may_go_on(out))):
        check_absent(out)
      _tell(self._file, self._stamp)
    except BaseException:
      self._file.close()
      raise

  def write(self, text: str) -> None:
    """Writes the report.

    Raises:
      ValueError: somebody else has written one since.
      OSError: it cannot be written.
    """
    if stamp_of(self._out) != self._stamp:
      raise ValueError(
        f'{self._out} has appeared or changed while this run measured: move it '
        'away; the same command (without --overwrite) then goes on from '
        f'{self._journal}'
      )
    files.write_atomically(self._out, text)
    # What stands there now is nothing to be replaced any more.
    self._stamp = None

  def release(self) -> None:
    """Lets go; tells what is left to replace, if something was counted."""
    if self._stamp is None or not self._journal.exists():
      with contextlib.suppress(OSError):
        lock_of(self._out).unlink()
    self._file.close()


def lock_of(out: pathlib.Path) -> pathlib.Path:
  """Which a run holds while it lives."""
  return out.with_name(f'{out.name}.lock')


def stamp_of(path: pathlib.Path) -> list[int] | None:
  """Tells a file from what it is after a change; None if it is not there."""
  try:
    state = path.stat()
  except FileNotFoundError:
    return None
  return [state.st_ino, state.st_size, state.st_mtime_ns]


def may_go_on(out: pathlib.Path) -> bool:
  """Whether a run with --overwrite was to replace the very file."""
  try:
    told = json.loads(lock_of(out).read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return False
  return told is not None and told == stamp_of(out)


def check_absent(out: pathlib.Path) -> None:
  """Raises ValueError for a report that is there already."""
  if out.exists():
    raise ValueError(
      f'{out} exists: choose another --out, or replace it with --overwrite'
    )


def _locked(out: pathlib.Path) -> IO[str]:
  """The lock, once it is ours."""
  path = lock_of(out)
  while True:
    file = path.open('a+', encoding='utf-8')
    if fcntl is None:
      return file
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.close()
      raise ValueError(
        f'{out}: another run is measuring for it; wait for its end, or choose '
        'another --out'
      ) from None
    except OSError:
      return file  # some network file systems have no locks
    # Whoever had it may have taken the file away as it was opened here.
    with contextlib.suppress(FileNotFoundError):
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return file
    file.close()


def _tell(file: IO[str], stamp: list[int] | None) -> None:
  """Writes what may be replaced, unless it is told already."""
  file.seek(0)
  text = json.dumps(stamp)
  # Other processes of the run may be reading it.
  if file.read() != text:
    file.truncate(0)
    file.write(text)
    file.flush()


# The report of an evaluation, FILE, and the journals of runs beside it.


def check(out: pathlib.Path, overwrite: bool) -> None:
  """Whether a report can be written, before hours go into its figures.

  Args:
    out: where it is to be.
    overwrite: whether it may replace another.

  Raises:
    ValueError: it exists, or cannot be written.
  """
  if out.is_dir():
    raise ValueError(f'{out} is a folder: --out names a file')
  if out.exists() and not out.is_file():
    raise ValueError(f'{out} is no regular file: --out names one to be made')
  if not out.parent.is_dir():
    raise ValueError(
      f'{out.parent}: there is no such folder; make it, or choose another --out'
    )
  if not (overwrite or (journals_of(out) and may_go_on(out))):
    check_absent(out)
  try:
    files.check_writable(journal_of(out))
  except OSError as error:
    raise ValueError(
      f'{out} cannot be written ({common.describe(error)}): choose another '
      '--out'
    ) from error


def journal_of(out: pathlib.Path) -> pathlib.Path:
  """Where an interrupted run keeps what it has done."""
  return out.with_name(f'{out.name}.journal')


def journals_of(out: pathlib.Path) -> list[pathlib.Path]:
  """What interrupted runs have left, of one process or of several."""
  return sorted(out.parent.glob(f'{glob.escape(out.name)}.journal*'))


def remove_journals(out: pathlib.Path, index: int) -> None:
  """Removes what a process has left, to begin anew.

  Each process its own: another may have begun to write already.

  Args:
    out: of the report.
    index: of this process; the first one's are also those of single processes.
  """
  journal = journal_of(out)
  mine = f'{journal.name}.{index}-of-'
  for old in journals_of(out):
    if old.name.startswith(mine) or (old == journal and not index):
      old.unlink(missing_ok=True)
