"""Work over all cores in processes, safe in notebooks and under pytest.

Worker processes are started with `spawn` and without the caller's `__main__`.
"""

import concurrent.futures.process
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from tqdm import tqdm


class Bar(tqdm):
  """A progress bar: ten times a second on a screen, every 10 s in a file.

  Without tqdm's watching thread: after Ctrl-C that may be the one that collects
  the bar, and then complains that it cannot join itself.
  """

  monitor_interval = 0

  def __init__(self, *arguments: Any, **options: Any):
    if not (sys.stderr.isatty() or 'TQDM_MININTERVAL' in os.environ):
      options.setdefault('mininterval', 10)
    super().__init__(*arguments, file=sys.stderr, **options)


def _follow_parent():
  """Leaves Ctrl-C to the parent, which stops the workers; ends if it is killed.

  A worker would else wait for jobs for ever.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def watch():
    parent.join()
    os._exit(1)

  if parent is not None:
    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
  """Holds Ctrl-C back while a process starts.

  The process inherits that, so it is deaf before it gets to
  `_follow_parent`; half a second of imports would end in a stack trace.
  """
  if not hasattr(signal, 'pthread_sigmask'):  # Windows
    yield
    return
  before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
  handler, held = signal.getsignal(signal.SIGINT), []
  # Where another thread receives the signal, its handler runs in the main one
  # all the same, and would leave the process half started.
  in_main = threading.current_thread() is threading.main_thread()
  replaced = in_main and handler is not None
  try:
    if replaced:
      signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    # Its start would let signals through again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    yield
  finally:
    if replaced:
      signal.signal(signal.SIGINT, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if held:
      signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
  """Hides `__main__` while a process starts.

  A spawned process imports the parent's main module again: that would start
  jax and TensorFlow in each worker, and recurse in a script without an
  `if __name__ == '__main__'` line. Our workers need neither.
  """
  main = sys.modules['__main__']
  sys.modules['__main__'] = types.ModuleType('__main__')
  try:
    yield
  finally:
    sys.modules['__main__'] = main


def mapped(
  function: Callable[[Any], Any], jobs: Iterable[Any], workers: int
) -> Iterator[Any]:
  """Yields a function's results in order, a few of them ahead of the reader.

  Args:
    function: of one job; a module's own function, so that processes find it.
    jobs: its arguments, which are pickled.
    workers: processes; 1 calls the function in this one.

  Raises:
    RuntimeError: a process died. Errors of the function are raised as they are.
  """
  if workers == 1:
    yield from map(function, jobs)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_follow_parent,
  )
  try:
    ahead, waiting = 2 * workers, []
    for job in jobs:
      with _without_main(), _interrupt_held_back():
        waiting.append(pool.submit(function, job))
      if len(waiting) > ahead:
        yield waiting.pop(0).result()
    for future in waiting:
      yield future.result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise RuntimeError(
      'a worker process died (killed, or out of memory?); workers=1 works '
      'without extra processes'
    ) from error
  finally:
    # Also on Ctrl-C and when the reader stops early: chunks that have not
    # begun are dropped, a running one ends within a second. Where the garbage
    # collector closes this in the pool's own thread, that cannot wait for
    # itself (RuntimeError), and need not: it has been told to end.
    with contextlib.suppress(RuntimeError):
      pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
  """Cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
