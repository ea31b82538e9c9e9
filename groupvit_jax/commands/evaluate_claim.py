"""A run's claim to FILE, its report: nobody else writes it meanwhile.

`FILE.lock` is locked for as long as the run lives; the kernel lets go of it,
whatever ends the run. It tells which file --overwrite was to replace: what was
interrupted may then go on without --overwrite, and replace that file alone.
"""

import contextlib
import json
import os
import pathlib
from typing import IO

from groupvit_jax import files

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
