"""Turns Ctrl-C and SIGTERM into a request that the training loop can honour.

A pod's scheduler sends SIGTERM before it takes a machine away; both signals
mean: finish this step, save, leave. A second Ctrl-C leaves at once.
"""

import signal
import threading

from absl import logging


class StopRequest:
  """Context manager; inside it `requested` turns true on SIGINT or SIGTERM."""

  def __init__(self):
    self.requested = False
    self._previous = {}

  def __enter__(self) -> 'StopRequest':
    # Only the main thread may install handlers; elsewhere (a server, a test
    # runner's worker) the owner of the process decides.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *unused):
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    self._previous.clear()

  def _handle(self, number, unused_frame):
    if self.requested and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.requested = True
    logging.warning(
      '%s: saving a checkpoint after this step, then leaving (Ctrl-C again '
      'to leave without it)',
      signal.Signals(number).name,
    )
