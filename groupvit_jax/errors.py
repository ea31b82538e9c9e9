"""Errors that are the user's to solve: each message says what to do.

The commands print them as one line; a library caller catches `UserError`.
"""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
  """Base of the errors that the commands print without a stack trace."""


class ConfigError(UserError, ValueError):
  """A config argument or field that cannot be used."""


class WorkdirError(UserError, RuntimeError):
  """A workdir that is in use, broken, or of another configuration."""


class StorageError(WorkdirError):
  """A workdir that cannot be written: its disk is full, read-only or broken."""


class SourceError(UserError, RuntimeError):
  """Data that are missing, or mostly unreadable."""


class ModelError(UserError, ValueError):
  """Weights or a model folder that cannot be read, or cannot be written."""


class ImageError(UserError, ValueError):
  """An image that cannot be used; the message says which and why."""


class NonFiniteLossError(UserError, RuntimeError):
  """The loss became NaN or infinite; the last checkpoint is from before."""


class Interrupted(UserError, RuntimeError):
  """The run received a signal to stop, and has saved its state."""


@contextlib.contextmanager
def explained_as(kind: type[UserError]) -> Iterator[None]:
  """Raises errors of the block as `kind`, with the same message.

  For the edges where a user's input first meets the library: the messages of
  its ValueErrors are written for the user, their stack traces are not.
  """
  try:
    yield
  except UserError:
    raise
  except (ValueError, OSError, ImportError) as error:
    raise kind(str(error)) from error
