"""Interruptions of evaluations."""

import sys
from collections.abc import Callable, Collection

import pytest


def run_until_line(
  place: int,
  action: Callable[[], None],
  files: tuple[str, ...],
  functions: Collection[str],
) -> bool:
  """Runs `action` until so many lines of some functions have run.

  Args:
    place: how many lines.
    action: what is interrupted.
    files: how the names of the functions' files end.
    functions: the names of the functions.

  Returns:
    Whether it was interrupted; it ends first if it has fewer lines.
  """
  left = place

  def on_line(frame, event, _):
    nonlocal left
    left -= event == 'line'
    if left == 0:
      raise KeyboardInterrupt
    return on_line

  def on_call(frame, *_):
    code = frame.f_code
    ours = code.co_filename.endswith(files) and code.co_name in functions
    return on_line if ours else None

  before = sys.gettrace()
  sys.settrace(on_call)
  try:
    action()
  except KeyboardInterrupt:
    return True
  finally:
    sys.settrace(before)
  return False


@pytest.fixture(scope='session')
def interrupt_at_line():
  """Ctrl-C at a chosen line, as it may come between any two."""
  return run_until_line
