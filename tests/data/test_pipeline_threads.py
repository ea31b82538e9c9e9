"""The thread that makes batches: its errors are heard, and it ends."""

import subprocess
import sys
import textwrap
import threading

import pytest
from pipeline_runs import BACKENDS, arrays, encoded, open_
from sample_data import Listed


@pytest.mark.parametrize('backend', BACKENDS)
def test_errors_reach_the_consumer(backend):
  class Broken(Listed):
    def __getitem__(self, index):
      raise OSError('the disk is gone')

  with (
    open_(Broken(encoded().samples), backend=backend) as batches,
    pytest.raises(OSError, match='the disk is gone'),
  ):
    next(batches)
  with pytest.raises(StopIteration):
    next(batches)


def test_batcher_errors_reach_the_consumer():
  def broken(captions, positions):
    raise KeyError('no such word')

  with (
    open_(arrays(), batcher=broken) as batches,
    pytest.raises(KeyError, match='no such word'),
  ):
    next(batches)


def workers():
  return [t for t in threading.enumerate() if t.name == 'train_batches']


@pytest.mark.parametrize('backend', BACKENDS)
def test_closing_ends_the_thread(backend):
  before = len(workers())
  batches = open_(encoded(), backend=backend)
  next(batches)
  assert len(workers()) == before + 1
  batches.close()
  assert len(workers()) == before
  batches.close()  # twice does no harm
  with pytest.raises(StopIteration):
    next(batches)
  unused = open_(encoded(), backend=backend)
  del unused  # nobody keeps it: closed
  assert len(workers()) == before


@pytest.mark.parametrize('backend', BACKENDS)
def test_the_interpreter_exits_with_batches_open(backend):
  script = """
    import numpy as np
    from groupvit_jax.data import pipeline, sources
    source = sources.ArraySource(np.zeros((9, 8, 8, 3), np.uint8), ['a'] * 9)
    class Listed:
      __len__ = lambda self: 9
      __getitem__ = lambda self, i: source[i]
    batches = pipeline.train_batches(
      Listed(), batch_size=4, image_size=8, augment='light', seed=0,
      batcher=lambda captions, positions: np.zeros((4, 1, 2), np.int32),
      backend=%r)
    print(next(batches)['image'].shape)
  """
  run = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(script) % backend],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert run.returncode == 0, run.stderr[-2000:]
  assert run.stdout.strip() == '(4, 8, 8, 3)'
