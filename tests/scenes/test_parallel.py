"""Many scenes at once: the same for any number of workers, and Ctrl-C."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from groupvit_jax import processes, scenes
from groupvit_jax.scenes import parallel


def test_workers_do_not_change_the_data(monkeypatch, capfd):
  alone = scenes.generate_many('train', 40, 32, 2, workers=1)
  monkeypatch.setattr(parallel, '_WORTH_IT', 0)
  monkeypatch.setattr(parallel, '_CHUNK', 8)
  both = scenes.generate_many('train', 40, 32, 2, workers=2)
  np.testing.assert_array_equal(alone.images, both.images)
  np.testing.assert_array_equal(alone.masks, both.masks)
  assert alone.captions == both.captions
  assert '40/40' in capfd.readouterr().err
  one = scenes.generate(scenes.split_seed('train', 2), 13, 32)
  np.testing.assert_array_equal(alone.images[13], one.image)


def test_training_data_can_come_without_masks():
  made = scenes.generate_many('train', 3, 32, masks=False, workers=1)
  assert made.masks is None and made.images.shape == (3, 32, 32, 3)
  empty = scenes.generate_many('train', 0, 32)
  assert empty.images.shape == (0, 32, 32, 3) and empty.captions == []


_SCRIPT = """
  import sys
  from groupvit_jax import scenes
  from groupvit_jax.scenes import parallel, tfds_builder
  parallel._WORTH_IT, parallel._CHUNK = 0, 8
  print('started', flush=True)
  made = scenes.generate_many('train', {count}, 32, 0, workers=2)
  heavy = 'jax', 'tensorflow', 'tensorflow_datasets', 'torch'
  heavy = [m for m in heavy if m in sys.modules]
  print(len(made.images), heavy)
"""


def test_workers_start_from_a_script_without_a_main_guard(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(textwrap.dedent(_SCRIPT.format(count=24)))
  done = subprocess.run(
    [sys.executable, str(script)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  # Started once only, and neither jax nor TensorFlow came along.
  assert done.stdout.split('\n')[:2] == ['started', '24 []'], done.stderr


def test_ctrl_c_ends_the_workers_too(press_ctrl_c):
  code = textwrap.dedent(_SCRIPT.format(count=10**6))
  # Once the bar has moved, the workers are at work.
  _, errors = press_ctrl_c([sys.executable, '-c', code], ' 8/1000000')
  assert b'KeyboardInterrupt' in errors and b'SpawnProcess' not in errors


@pytest.mark.skipif(
  not hasattr(signal, 'pthread_sigmask'), reason='Windows has no signal masks'
)
def test_a_process_that_starts_does_not_hear_ctrl_c():
  def held_back():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

  context = multiprocessing.get_context('spawn')
  # Sends itself what Ctrl-C sends, without any preparation of ours.
  process = context.Process(target=signal.raise_signal, args=(signal.SIGINT,))
  with processes._interrupt_held_back(), processes._without_main():
    process.start()
    assert held_back()
  assert not held_back()
  process.join()
  assert process.exitcode == 0


@pytest.mark.skipif(
  not hasattr(signal, 'pthread_kill'), reason='Windows has no such signals'
)
def test_ctrl_c_waits_until_a_process_has_started():
  """Also where another thread, of which JAX has many, receives the signal."""
  end, reached = threading.Event(), False
  thread = threading.Thread(target=end.wait)
  thread.start()
  # A shell's background job ignores SIGINT.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt), processes._interrupt_held_back():
      signal.pthread_kill(thread.ident, signal.SIGINT)
      end.set()
      thread.join()
      reached = True
  finally:
    signal.signal(signal.SIGINT, before)
  assert reached


def test_reading_can_stop_early(monkeypatch):
  monkeypatch.setattr(parallel, '_WORTH_IT', 0)
  monkeypatch.setattr(parallel, '_CHUNK', 8)
  chunks = scenes.generate_chunks('train', 4000, 32, workers=2)
  assert next(chunks).start == 0
  chunks.close()


class _Deadly:
  """Ends the process that unpickles it."""

  def __reduce__(self):
    return os._exit, (1,)


def test_a_worker_that_dies_is_an_error_not_a_hang():
  with pytest.raises(RuntimeError, match='died .* workers=1'):
    list(processes.mapped(len, [_Deadly()], 2))


def test_workers_end_when_their_parent_is_killed():
  code = (
    'import os, time\n'
    'from groupvit_jax import processes\n'
    'jobs = processes.mapped(time.sleep, [0] + 99 * [0.1], workers=2)\n'
    'next(jobs)\n'
    'os.kill(os.getpid(), 9)\n'
  )
  # Workers hold the pipe, so this returns when the last of them is gone.
  child = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, timeout=60
  )
  assert child.returncode == -signal.SIGKILL
