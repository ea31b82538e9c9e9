"""Ctrl-C to a command that is at work, as a terminal sends it."""

import functools
import os
import signal
import subprocess
import threading


def press(command: list[str], moment: str, **options) -> tuple[int, bytes]:
  """Starts a command and interrupts it, and all that it has started.

  Args:
    command: the program and its arguments.
    moment: what it has to say on stderr before.
    **options: of `subprocess.Popen`.

  Returns:
    The exit code, and all that was said on stderr, also by other processes
    that it started: waits until the last of them is gone.
  """
  process = subprocess.Popen(
    command,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    start_new_session=True,
    # A shell's background job ignores SIGINT, and what it starts inherits that.
    preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    **options,
  )
  guard = threading.Timer(120, process.kill)
  guard.start()
  try:
    shown = b''
    while moment.encode() not in shown and (letter := process.stderr.read(1)):
      shown += letter
    os.killpg(process.pid, signal.SIGINT)
    _, rest = process.communicate(timeout=60)
  finally:
    guard.cancel()
    process.kill()
  return process.returncode, shown + rest
