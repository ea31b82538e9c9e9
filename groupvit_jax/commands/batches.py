"""Asks a model about many pictures, going on where one of them is bad."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from groupvit_jax.commands import messages

_ERRORS = (OSError, ValueError)


def each(
  pictures: Sequence[Any],
  ask: Callable[[Sequence[Any]], Sequence[Any]],
  size: int,
) -> Iterator[tuple[Any, Any]]:
  """Asks in chunks, and of a chunk with a bad picture, in halves.

  Args:
    pictures: to ask about.
    ask: from pictures to an answer each; OSError or ValueError if one is bad.
    size: of a chunk.

  Yields:
    A picture and its answer, or the error that asking about it alone gave.
  """
  for start in range(0, len(pictures), size):
    yield from _chunk(pictures[start : start + size], ask)


def _chunk(pictures, ask):
  try:
    answers = ask(pictures)
  except _ERRORS as error:
    if len(pictures) == 1:
      yield pictures[0], error
      return
    half = len(pictures) // 2
    yield from _chunk(pictures[:half], ask)
    yield from _chunk(pictures[half:], ask)
  else:
    yield from zip(pictures, answers, strict=True)


class Failures:
  """Counts pictures that failed, and tells of each in a line."""

  def __init__(self, total: int):
    self.count = 0
    self._total = total
    self._last = None

  def add(self, error: OSError | ValueError) -> None:
    """Tells of an error, and raises it where it is not about one picture.

    Messages about pictures name them: the same words twice are about something
    else, as of a model that cannot segment.
    """
    text = str(error)
    if isinstance(error, OSError):
      text = messages.describe(error)
    if self._total == 1 or text == self._last:
      raise error
    messages.complain(text)
    self._last = text
    self.count += 1
