"""Messages between the processes of a distributed run, without a device.

They meet in the store of JAX's coordination service. A process ends where
another one has ended or hangs: JAX waits for it for minutes, then aborts with a
stack trace. So every process writes a beat there, and reads the others'.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

# The client that `jax.distributed.initialize` made; JAX has no public name.
from jax._src import distributed

from groupvit_jax import errors

BEAT = 5.0  # seconds between two beats
SILENCE = 40.0  # seconds without a beat, after which a process counts as gone
# Where an operation across processes, or all of another, has failed already.
SUSPICION = 15.0

# A process that does not say its value for so long is gone, and was noticed.
_LONGEST = 600_000  # milliseconds

_FOLDER = 'groupvit_jax/beats/'
_ENDED, _FAILED = 'ended', 'failed'
_ADVICE = (
  'see its output, then start all processes again: they go on from what was '
  'saved'
)


_calls = itertools.count()


def largest(values: Sequence[int]) -> list[int]:
  """The largest of the first values of all processes, of the second, ...

  Every process must make the same number of calls. Unlike `sharding.gather`,
  it does not wait for what the devices still compute.
  """
  if jax.process_count() == 1:
    return list(values)
  client, call, index = (
    distributed.global_state.client,
    next(_calls),
    jax.process_index(),
  )

  def key(call: int, name: int | str) -> str:
    return f'groupvit_jax/largest/{call}/{name}'

  # Process 0 compares: if all read all, a pod's service would be asked by the
  # square of its processes.
  if index:
    client.key_value_set(key(call, index), json.dumps(values))
  else:
    others = [
      json.loads(client.blocking_key_value_get(key(call, i), _LONGEST))
      for i in range(1, jax.process_count())
    ]
    found = [max(each) for each in zip(values, *others, strict=True)]
    client.key_value_set(key(call, 'all'), json.dumps(found))
    if call:  # all have called again, so nobody reads the last answer any more
      client.key_value_delete(key(call - 1, 'all'))
    return found
  found = client.blocking_key_value_get(key(call, 'all'), _LONGEST)
  client.key_value_delete(key(call, index))
  return json.loads(found)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Watches the other processes of a run during a block.

  Where one is killed, hangs or raises an error, the others print one line and
  end with exit code 1, within a minute. In a run of one process: nothing.
  """
  if jax.process_count() == 1:
    yield
    return
  watch = _Watch(
    distributed.global_state.client, jax.process_index(), jax.process_count()
  )
  try:
    yield
  except BaseException as error:
    if _is_of_several(error):
      # Most often another process is gone: then this does not return.
      watch.suspect()
    watch.leave(_FAILED)
    raise
  watch.leave(_ENDED)


def _is_of_several(error: BaseException) -> bool:
  """Whether an operation across processes has failed."""
  if isinstance(error, errors.UserError):
    return False
  # XLA's errors are ValueErrors where a compiled program is called.
  return isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in str(error)


class _Watch:
  """Beats, and judges the beats of the others, each in a thread."""

  def __init__(self, client: Any, index: int, count: int) -> None:
    self._client, self._index, self._count = client, index, count
    self._left = threading.Event()
    self._values = dict.fromkeys(range(count), '')
    self._heard = dict.fromkeys(range(count), time.monotonic())
    self._patience = SILENCE
    # JAX aborts at once where process 0 is gone; no Python runs then.
    line = (
      f'error: process {index} was killed, or aborted because process 0, which '
      f'connects the {count} processes, is gone; {_ADVICE}'
    )
    self._last_word = subprocess.Popen(
      ['sh', '-c', 'read -r word || echo "$0" >&2', line],
      stdin=subprocess.PIPE,
    )
    for target in (self._beat, self._judge):
      threading.Thread(target=target, daemon=True).start()

  def suspect(self) -> None:
    """Waits until another process is found to be gone, which ends this one."""
    self._patience = min(SILENCE, SUSPICION)
    time.sleep(self._patience + 2 * BEAT)

  def leave(self, value: str) -> None:
    """Tells the others how this process ends."""
    self._left.set()
    with contextlib.suppress(Exception):
      self._write(value)
    self._say_nothing()

  def _say_nothing(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      self._last_word.stdin.write(b'ended\n')
      self._last_word.stdin.close()

  def _write(self, value: str) -> None:
    name = f'{_FOLDER}{self._index}'
    self._client.key_value_set(name, value, allow_overwrite=True)

  def _beat(self) -> None:
    beats = 0
    while not self._left.is_set():
      # Where the service is gone, nobody is heard any more.
      with contextlib.suppress(Exception):
        self._write(f'{beats}')
        beats += 1
        for name, value in self._client.key_value_dir_get(_FOLDER):
          i = int(name.rpartition('/')[2])
          if value != self._values[i]:
            self._values[i], self._heard[i] = value, time.monotonic()
      self._left.wait(BEAT)

  def _judge(self) -> None:
    while not self._left.wait(BEAT / 5):
      now = time.monotonic()
      silent = {i: now - heard for i, heard in self._heard.items()}
      for i, seconds in silent.items():
        value = self._values[i]
        if value == _FAILED and seconds > SUSPICION and i != self._index:
          self._end(f'process {i} of {self._count} has failed')
        if value in (_ENDED, _FAILED) or seconds < self._patience:
          continue
        if silent[self._index] > self._patience:
          self._end('process 0, which connects the processes, does not answer')
        self._end(
          f'process {i} of {self._count} has not answered for {seconds:.0f} s '
          '(killed, hung, or its machine is gone)'
        )

  def _end(self, reason: str) -> None:
    self._say_nothing()
    print(f'error: {reason}; {_ADVICE}', file=sys.stderr, flush=True)
    os._exit(1)
