"""The report of an evaluation, FILE, and the journals of runs beside it."""

import glob
import pathlib

from groupvit_jax import files
from groupvit_jax.commands import evaluate_claim, messages


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
  if not (overwrite or (journals_of(out) and evaluate_claim.may_go_on(out))):
    evaluate_claim.check_absent(out)
  try:
    files.check_writable(journal_of(out))
  except OSError as error:
    raise ValueError(
      f'{out} cannot be written ({messages.describe(error)}): choose another '
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
