"""Batches: a function of the position, the same bits from every backend."""

import itertools
import subprocess
import sys
import textwrap
import threading
import time
import types

import numpy as np
import pytest

from groupvit_jax import errors
from groupvit_jax.data import augment, pipeline, sources


@pytest.mark.parametrize('kind', ['encoded', 'arrays'])
@pytest.mark.parametrize('level', ['none', 'light', 'deit'])
def test_resume_is_bit_exact(backend, kind, level, make, train):
  """Within an epoch, over its end, and from a stranger's position."""
  source = getattr(make, kind)()
  options = {'backend': backend, 'augment': level}
  whole, positions, _ = train.take(7, source, **options)
  assert positions == [6, 12, 18, 24, 30, 36, 42]
  for batch in whole:
    assert batch['image'].shape == (6, 16, 16, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['tokens'].dtype == np.int32
  for at in (1, 4) if level == 'light' else (4,):
    rest, _, _ = train.take(7 - at, source, start=positions[at - 1], **options)
    train.assert_equal(rest, whole[at:])


def test_another_seed_gives_other_batches(make, train):
  ours, _, _ = train.take(1, make.arrays(), seed=3)
  theirs, _, _ = train.take(1, make.arrays(), seed=4)
  assert (ours[0]['image'] != theirs[0]['image']).any()


@pytest.mark.parametrize('kind', ['encoded', 'arrays'])
def test_an_epoch_sees_each_sample_once(backend, kind, make, train):
  names = [(i, f'{word} {i}') for i in range(18) for word in ('a', 'the')]
  index = {train.sign(name): i for i, name in names}
  batches, _, _ = train.take(6, getattr(make, kind)(18), backend=backend)
  signs = np.concatenate([b['tokens'][:, 0, 1] for b in batches])
  for epoch in signs.reshape(2, 18):
    assert sorted(index[s] for s in epoch.tolist()) == list(range(18))


@pytest.mark.parametrize('kind', ['encoded', 'arrays'])
def test_two_processes_partition_the_global_batch(backend, kind, make, train):
  source = getattr(make, kind)()
  options = {'backend': backend, 'start': 5}
  whole, positions, _ = train.take(4, source, **options)
  parts = [
    train.take(4, source, batch_size=3, process=i, processes=2, **options)
    for i in range(2)
  ]
  for number in range(4):
    joined = {
      key: np.concatenate([part[0][number][key] for part in parts])
      for key in whole[0]
    }
    train.assert_equal([joined], [whole[number]])
  assert parts[0][1] == parts[1][1] == positions


@pytest.mark.parametrize('size', [5, 40])
def test_backends_give_the_same_bits(size, make, train):
  """Batches of less than a chunk, and of several."""
  pytest.importorskip('tensorflow')
  options = {'batch_size': size, 'augment': 'deit'}
  ours, _, _ = train.take(3, make.encoded(), backend='tf', **options)
  theirs, _, _ = train.take(3, make.encoded(), backend='numpy', **options)
  train.assert_equal(ours, theirs)


@pytest.mark.parametrize('level', ['none', 'flip', 'light', 'deit'])
def test_arrays_take_the_quick_way_to_the_same_batches(
  level, make, train, monkeypatch
):
  source = make.arrays()
  listed = make.listed([dict(source[i]) for i in range(len(source))])
  options = {'augment': level, 'image_size': 24, 'batch_size': 20}
  theirs, _, _ = train.take(2, listed, backend='numpy', **options)
  for threads_from in (0, 10**9):
    monkeypatch.setattr(pipeline, '_THREADS_FROM', threads_from)
    ours, _, _ = train.take(2, source, **options)
    train.assert_equal(ours, theirs)


def test_long_captions_are_cut_and_several_take_turns(make, train):
  source = sources.ArraySource(np.zeros((1, 8, 8, 3), np.uint8), ['x' * 20_000])
  ((batch,), _, _) = train.take(1, source, image_size=8)
  assert (batch['tokens'][:, 0, 0] == 10_000).all()
  ((batch,), _, _) = train.take(1, make.arrays(1), batch_size=200)
  share = (batch['tokens'][:, 0, 0] == len('a 0')).mean()
  assert 0.35 < share < 0.65


def test_an_unknown_backend(make, train):
  with pytest.raises(ValueError, match="backend 'grain'; choose from"):
    train.open(make.arrays(), backend='grain')


def test_own_augmentation(make, train):
  crop = augment.Augment(scale=(0.5, 0.5))
  ((batch,), _, _) = train.take(1, make.arrays(), augment=crop)
  assert batch['image'].shape == (6, 16, 16, 3)


def test_training_never_reads_a_mask(make, train):
  class Sample(dict):
    def __getitem__(self, key):
      assert key != 'mask'
      return super().__getitem__(key)

  listed = make.encoded()
  listed.samples = [Sample(s, mask=None) for s in listed.samples]
  batches, _, _ = train.take(2, listed, backend='numpy')
  assert all(batch.keys() == {'image', 'tokens'} for batch in batches)


def run(script):
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(script)],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout.strip()


def test_numpy_batches_need_no_tensorflow():
  printed = run("""
    import sys
    sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None
    import numpy as np
    from groupvit_jax.data import pipeline, reading, sampling, sources
    source = sources.SceneSource('train', 8, 32)
    def batches(backend):
      return pipeline.train_batches(
        reading.Reader(source, 0),
        lambda captions, positions: np.zeros((4, 1, 2), np.int32),
        sampling.Positions(0, 4), image_size=32, augment='deit',
        backend=backend)
    with batches('auto') as made:
      print(next(made)['image'].shape)
    try:
      batches('tf')
    except ImportError as error:
      print(error)
  """)
  shape, error = printed.splitlines()
  assert shape == '(4, 32, 32, 3)'
  assert 'choose data.backend=numpy' in error


def test_tensorflow_leaves_the_gpu_alone():
  pytest.importorskip('tensorflow')
  assert not pipeline.tensorflow().config.get_visible_devices('GPU')


def test_a_source_without_a_usable_sample_ends_the_batches(
  backend, make, train
):
  class Broken(make.listed):
    def __getitem__(self, index):
      raise OSError('the disk is gone')

  with (
    train.open(Broken(make.encoded().samples), backend=backend) as batches,
    pytest.raises(errors.SourceError, match='unreadable; .* the disk is gone'),
  ):
    next(batches)
  with pytest.raises(StopIteration):
    next(batches)


def test_a_sample_that_is_never_read_ends_the_batches(
  backend, make, train, monkeypatch
):
  monkeypatch.setattr(pipeline, '_LONGEST', 0.5)
  monkeypatch.setattr(pipeline, '_FAREWELL', 0.1)
  answer = threading.Event()

  class Hanging(make.listed):
    def __getitem__(self, index):
      answer.wait()
      return super().__getitem__(index)

  source = Hanging(make.encoded().samples)
  try:
    with (
      train.open(source, backend=backend) as batches,
      pytest.raises(
        errors.SourceError, match=r'listed: sample \d+ is not read'
      ),
    ):
      next(batches)
  finally:
    answer.set()
    for thread in threading.enumerate():
      if thread.name == 'train_batches':
        thread.join()


def test_a_suspended_process_has_not_waited(make, train, monkeypatch):
  hours = itertools.count(0, 3600)
  clock = types.SimpleNamespace(monotonic=lambda: float(next(hours)))
  monkeypatch.setattr(pipeline, 'time', clock)
  asked = threading.Event()

  class Slow(make.listed):
    def __getitem__(self, index):
      asked.wait(0.2)  # meanwhile `next` looks several times
      asked.set()
      return super().__getitem__(index)

  with train.open(Slow(make.encoded().samples)) as batches:
    assert 'image' in next(batches)
    assert 0 < batches.waited < 600


@pytest.mark.parametrize('busy', [True, False])
def test_waiting_counts_while_no_step_runs(busy, make, train):
  class Slow(make.listed):
    def __getitem__(self, index):
      time.sleep(0.02)
      return super().__getitem__(index)

  with train.open(Slow(make.encoded().samples)) as batches:
    batches.busy = lambda: busy
    next(batches)
    assert (batches.waited > 0) == (not busy)


def test_batcher_errors_reach_the_consumer(make, train):
  def broken(captions, positions):
    raise KeyError('no such word')

  with (
    train.open(make.arrays(), batcher=broken) as batches,
    pytest.raises(KeyError, match='no such word'),
  ):
    next(batches)


def test_closing_ends_the_thread(backend, make, train):
  def workers():
    return sum(t.name == 'train_batches' for t in threading.enumerate())

  before = workers()
  batches = train.open(make.encoded(), backend=backend)
  next(batches)
  assert workers() == before + 1
  batches.close()
  assert workers() == before
  batches.close()  # twice does no harm
  with pytest.raises(StopIteration):
    next(batches)
  unused = train.open(make.encoded(), backend=backend)
  del unused  # nobody keeps it: closed
  assert workers() == before


def test_the_interpreter_exits_with_batches_open(backend):
  printed = run(f"""
    import numpy as np
    from groupvit_jax.data import pipeline, reading, sampling, sources
    source = sources.ArraySource(np.zeros((9, 8, 8, 3), np.uint8), ['a'] * 9)
    class Listed(reading.Source):
      __len__ = lambda self: 9
      __getitem__ = lambda self, i: source[i]
    batches = pipeline.train_batches(
      reading.Reader(Listed(), 0),
      lambda captions, positions: np.zeros((4, 1, 2), np.int32),
      sampling.Positions(0, 4), image_size=8, augment='light',
      backend={backend!r})
    print(next(batches)['image'].shape)
  """)
  assert printed == '(4, 8, 8, 3)'
