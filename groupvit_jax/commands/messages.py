"""What a command says on standard error: always in one line."""

import sys
import warnings

_LONGEST = 1000  # longer lines are cut: a label may have been a thousand words


def complain(message: str, kind: str = 'error') -> None:
  """Prints 'groupvit: error: ...', above a progress bar if there is one."""
  line = ' '.join(message.split())
  line = line if len(line) <= _LONGEST else f'{line[:_LONGEST]}...'
  bars = sys.modules.get('tqdm')
  if bars:
    bars.tqdm.write(f'groupvit: {kind}: {line}', file=sys.stderr)
  else:
    print(f'groupvit: {kind}: {line}', file=sys.stderr)


def describe(error: OSError) -> str:
  """'FILE: No such file or directory' instead of '[Errno 2] ...'."""
  if error.strerror and error.filename is not None:
    return f'{error.filename}: {error.strerror}'
  return error.strerror or str(error)


class ShownWarnings(warnings.catch_warnings):
  """Context manager; inside it a UserWarning is a line, and told once."""

  def __enter__(self) -> 'ShownWarnings':
    super().__enter__()
    usual, told = warnings.showwarning, set()

    def show(message, category, *rest, **named):
      if not issubclass(category, UserWarning):
        usual(message, category, *rest, **named)
      elif str(message) not in told:
        told.add(str(message))
        complain(str(message), 'warning')

    warnings.showwarning = show
    return self
