"""Batches: a function of the position, the same for every backend."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from pipeline_runs import (
  BACKENDS,
  arrays,
  assert_equal,
  encoded,
  open_,
  sign,
  take,
)
from sample_data import Listed, encode, noise

from groupvit_jax.data import augment, pipeline, sources


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('make', [encoded, arrays])
@pytest.mark.parametrize('level', ['none', 'light', 'deit'])
def test_resume_is_bit_exact(backend, make, level):
  """Within an epoch, over its end, and from a stranger's position."""
  options = {'backend': backend, 'augment': level}
  whole, positions, _ = take(7, make(), **options)
  assert positions == [6, 12, 18, 24, 30, 36, 42]
  for batch in whole:
    assert batch['image'].shape == (6, 16, 16, 3)
    assert batch['image'].dtype == np.uint8
    assert batch['tokens'].dtype == np.int32
  for at in (1, 4) if level == 'light' else (4,):
    rest, _, _ = take(7 - at, make(), start=positions[at - 1], **options)
    assert_equal(rest, whole[at:])


def test_another_seed_gives_other_batches():
  ours, _, _ = take(1, arrays(), seed=3)
  theirs, _, _ = take(1, arrays(), seed=4)
  assert (ours[0]['image'] != theirs[0]['image']).any()


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('make', [encoded, arrays])
def test_an_epoch_sees_each_sample_once(backend, make):
  index = {sign(f'{word} {i}'): i for i in range(18) for word in ('a', 'the')}
  batches, _, _ = take(6, make(18), backend=backend)
  signs = np.concatenate([b['tokens'][:, 0, 1] for b in batches])
  for epoch in signs.reshape(2, 18):
    assert sorted(index[s] for s in epoch.tolist()) == list(range(18))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('make', [encoded, arrays])
def test_two_processes_partition_the_global_batch(backend, make):
  options = {'backend': backend, 'start': 5}
  whole, positions, _ = take(4, make(), **options)
  parts = [
    take(4, make(), batch_size=3, process_index=i, process_count=2, **options)
    for i in range(2)
  ]
  for number in range(4):
    joined = {
      key: np.stack([part[0][number][key] for part in parts], 1).reshape(
        whole[0][key].shape
      )
      for key in whole[0]
    }
    assert_equal([joined], [whole[number]])
  assert parts[0][1] == parts[1][1] == positions


def test_backends_agree_on_samples_and_crops():
  """Same order, captions, boxes and flips; pixels up to rounding."""
  pytest.importorskip('tensorflow')
  png = Listed(
    [{'image': encode(noise(i), 'PNG'), 'caption': f'{i}'} for i in range(12)]
  )
  ours, _, _ = take(3, png, backend='tf', augment='light')
  theirs, _, _ = take(3, png, backend='numpy', augment='light')
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(a['tokens'], b['tokens'])
    apart = np.abs(a['image'].astype(int) - b['image'].astype(int))
    assert apart.max() <= 1


def test_flipped_gathers_equal_pil():
  """The batch-level path does what the picture-level path does."""
  source = arrays()
  listed = Listed([dict(source[i]) for i in range(len(source))])
  for level in ('none', 'flip'):
    ours, _, _ = take(3, source, augment=level, image_size=24)
    theirs, _, _ = take(
      3, listed, augment=level, image_size=24, backend='numpy'
    )
    assert_equal(ours, theirs)


def test_long_captions_are_cut():
  source = sources.ArraySource(np.zeros((1, 8, 8, 3), np.uint8), ['x' * 20_000])
  ((batch,), _, skipped) = take(1, source, image_size=8, augment='none')
  assert (batch['tokens'][:, 0, 0] == 10_000).all() and skipped == 0


def test_several_captions_take_turns():
  source = arrays(1)
  ((batch,), _, _) = take(1, source, batch_size=200, augment='none')
  share = (batch['tokens'][:, 0, 0] == len('a 0')).mean()
  assert 0.35 < share < 0.65
  listed = Listed([dict(source[0])])
  ((same,), _, _) = take(
    1, listed, batch_size=200, augment='none', backend='numpy'
  )
  np.testing.assert_array_equal(batch['tokens'], same['tokens'])


def test_auto_backend(monkeypatch):
  choose = pipeline.choose_backend
  assert choose(arrays(), 'auto') == 'numpy'
  assert choose(encoded(), 'numpy') == 'numpy'
  available = 'groupvit_jax.data.augment_tf.available'
  for there, want in ((True, 'tf'), (False, 'numpy')):
    monkeypatch.setattr(available, lambda there=there: there)
    assert choose(encoded(), 'auto') == want
  with pytest.raises(ValueError, match="backend 'torch'; choose from"):
    choose(encoded(), 'torch')


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'augment': 'strong'}, "augmentation 'strong'"),
    ({'backend': 'grain'}, "backend 'grain'"),
    ({'batch_size': 0}, 'batch_size >= 1'),
    ({'start': -1}, 'start must be >= 0'),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    open_(arrays(), **options)


def test_an_empty_source():
  with pytest.raises(ValueError, match='listed is empty'):
    open_(Listed([]))


def test_own_augmentation():
  crop = augment.Augment(scale=(0.5, 0.5))
  ((batch,), _, _) = take(1, arrays(), augment=crop)
  assert batch['image'].shape == (6, 16, 16, 3)


def test_training_never_reads_a_mask():
  """A source whose masks bite trains all the same."""

  class Sample(dict):
    def __getitem__(self, key):
      assert key != 'mask'
      return super().__getitem__(key)

  listed = encoded()
  listed.samples = [Sample(s, mask=None) for s in listed.samples]
  batches, _, _ = take(2, listed, backend='numpy')
  assert all(batch.keys() == {'image', 'tokens'} for batch in batches)


def test_importing_and_numpy_batches_need_no_tensorflow():
  script = """
    import sys
    sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None
    import numpy as np
    from groupvit_jax.data import augment_tf, pipeline, sources
    source = sources.SceneSource('train', 8, 32, progress=False, workers=1)
    with pipeline.train_batches(
      source, batch_size=4, image_size=32, augment='deit', seed=0,
      batcher=lambda captions, positions: np.zeros((4, 1, 2), np.int32),
    ) as batches:
      print(next(batches)['image'].shape)
    try:
      pipeline.train_batches(
        source, batch_size=4, image_size=32, augment='deit', seed=0,
        batcher=None, backend='tf')
    except ImportError as error:
      print(error)
  """
  run = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(script)],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert run.returncode == 0, run.stderr[-2000:]
  shape, error = run.stdout.strip().splitlines()
  assert shape == '(4, 32, 32, 3)'
  assert "choose backend='numpy'" in error
