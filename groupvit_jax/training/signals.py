"""Stops a run that the user or a scheduler interrupts, after it has saved."""

import signal
import threading
from typing import Any

from absl import logging


class StopRequest:
  """Turns Ctrl-C and SIGTERM into a request that the training loop honours.

  A pod's scheduler sends SIGTERM before it takes a machine away; both signals
  mean: finish this step, save, leave. A second Ctrl-C leaves at once.

  Attributes:
    requested: whether a signal came inside of the `with` block.
  """

  def __init__(self) -> None:
    self.requested = False
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> 'StopRequest':
    # Only the main thread may install handlers; elsewhere (a server, a test
    # runner's worker) the owner of the process decides.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *unused: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous.clear()

  def _handle(self, number: int, unused_frame: object) -> None:
    if self.requested and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.requested = True
    logging.warning(
      '%s: saving a checkpoint after this step (several processes: when they '
      'log), then leaving (Ctrl-C again to leave without it)',
      signal.Signals(number).name,
    )
