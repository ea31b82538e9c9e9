"""Batches: a function of the position, past bad samples, closing cleanly."""

import io
import subprocess
import sys
import textwrap
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.data import (
  augment,
  images,
  pipeline,
  reader,
  sources,
  tf_backend,
)

BACKENDS = ('tf', 'numpy')


@pytest.fixture(autouse=True)
def needs_tensorflow(request):
  call = getattr(request.node, 'callspec', None)
  if call and call.params.get('backend') == 'tf':
    pytest.importorskip('tensorflow')


def sign(caption):
  """A number that tells captions apart."""
  return zlib.crc32(caption.encode()) & 0x7FFFFFFF


def batcher(captions, positions):
  """Rows [length, sign, position]: enough to tell samples."""
  rows = [
    (len(caption), sign(caption), position)
    for caption, position in zip(captions, positions, strict=True)
  ]
  return np.array(rows, np.int32)[:, None]


def encode(array, kind='JPEG'):
  out = io.BytesIO()
  Image.fromarray(array).save(out, kind)
  return out.getvalue()


def noise(seed, height=40, width=48):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


class Listed:
  """A source of given samples."""

  name = 'listed'

  def __init__(self, samples):
    self.samples = samples

  def __len__(self):
    return len(self.samples)

  def __getitem__(self, index):
    return self.samples[index]


def encoded(count=20):
  """JPEG and PNG files and arrays, of several sizes, two captions each."""
  samples = []
  for i in range(count):
    array = noise(i, 30 + i, 50 - i)
    kinds = (encode(array), encode(array, 'PNG'), array)
    captions = (f'a {i}', f'the {i}')
    samples.append({'image': kinds[i % 3], 'caption': captions})
  return Listed(samples)


def arrays(count=20):
  stack = np.stack([noise(i, 24, 24) for i in range(count)])
  return sources.ArraySource(
    stack, [(f'a {i}', f'the {i}') for i in range(count)]
  )


def open_(source, **kwargs):
  defaults = {
    'batch_size': 6,
    'image_size': 16,
    'augment': 'light',
    'batcher': batcher,
    'seed': 3,
  }
  return pipeline.train_batches(source, **(defaults | kwargs))


def take(count, source, **kwargs):
  """The first batches, the position after each, and the skipped."""
  with open_(source, **kwargs) as batches:
    out = [(next(batches), batches.position) for _ in range(count)]
    return [b for b, _ in out], [p for _, p in out], batches.skipped


def assert_equal(ours, theirs):
  for a, b in zip(ours, theirs, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


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


def bad_samples():
  """Twelve good samples among eight of every kind of bad."""
  whole = encode(noise(0, 64, 64))
  big = encode(np.zeros((400, 500, 3), np.uint8), 'PNG')
  png = encode(noise(1), 'PNG')
  bad = [
    (b'', 'zero size'),
    (b'<html>', 'no image'),
    (whole[: len(whole) // 2], 'cut jpeg'),
    (png[: len(png) // 2], 'cut png'),
    (whole[:40], 'cut header'),
    (big, 'a bomb'),
    (whole, ' \n'),
    (whole, ()),
  ]
  good = [(encode(noise(i)), f'good {i}') for i in range(12)]
  return Listed([{'image': i, 'caption': c} for i, c in good + bad])


@pytest.mark.parametrize('backend', BACKENDS)
def test_bad_samples_are_replaced_and_counted(backend, caplog):
  source = bad_samples()
  options = {'backend': backend, 'batch_size': 10, 'max_pixels': 150_000}
  batches, _, skipped = take(4, source, **options)
  usable = {sign(f'good {i}') for i in range(12)}
  for batch in batches:
    assert usable.issuperset(batch['tokens'][:, 0, 1].tolist())
    assert batch['image'].std((1, 2, 3)).min() > 3  # no blank
  # Two epochs meet the eight bad ones twice, and some again as stand-ins.
  assert skipped >= 16
  again, _, more = take(4, source, **options)
  assert_equal(again, batches)
  assert more == skipped
  rest, _, later = take(2, source, start=20, **options)
  assert_equal(rest, batches[2:])
  assert 8 <= later < skipped
  warnings = [r for r in caplog.records if 'listed: sample' in r.message]
  assert warnings


def without_tables(data):
  """A JPEG whose header and end are fine, but that no decoder accepts."""
  data = data.replace(b'\xff\xdb', b'\xff\xee')  # tables become a comment
  assert images.encoded_size(data) and not images.looks_cut(data)
  return data


@pytest.mark.parametrize('bad', [{3}, {0, 4, 8, 12}])
def test_undecodable_jpegs_leave_no_gap(bad, caplog):
  """Damage that only the decoder finds: tf.data drops it, we fill in."""
  pytest.importorskip('tensorflow')
  samples = []
  for i in range(16):
    data = encode(noise(i))
    if i in bad:
      data = without_tables(data)
    samples.append({'image': data, 'caption': f'{i}'})
  source = Listed(samples)
  options = {'backend': 'tf', 'batch_size': 5, 'augment': 'none'}
  whole, _, skipped = take(8, source, **options)
  assert skipped >= 2 * len(bad)
  assert f'sample {min(bad)} skipped: ' in caplog.text
  seen = np.concatenate([b['tokens'][:, 0, 2] for b in whole])
  np.testing.assert_array_equal(seen, np.arange(40))
  names = {sign(f'{i}') for i in bad}
  for batch in whole:
    assert names.isdisjoint(batch['tokens'][:, 0, 1].tolist())
  rest, _, _ = take(5, source, start=15, **options)
  assert_equal(rest, whole[3:])


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_source_that_is_mostly_bad_is_named(backend):
  good = [{'image': encode(noise(0)), 'caption': 'good'}] * 3
  bad = [{'image': b'<html>', 'caption': 'bad'}] * 7
  message = r'listed: \d+ of the first \d+ samples are unusable .*not a read'
  with (
    open_(Listed(good + bad), backend=backend, batch_size=100) as batches,
    pytest.raises(reader.BadSourceError, match=message),
  ):
    for _ in range(50):
      next(batches)


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_source_without_one_good_sample_ends(backend):
  bad = Listed([{'image': b'', 'caption': 'x'}])
  with (
    open_(bad, backend=backend) as batches,
    pytest.raises(reader.BadSourceError, match='listed: .* zero bytes'),
  ):
    next(batches)


def test_a_source_that_never_decodes_ends(monkeypatch):
  """tf.data alone would look for a good image for ever."""
  pytest.importorskip('tensorflow')
  monkeypatch.setattr(tf_backend, '_LOST', 100)
  data = without_tables(encode(noise(0)))
  source = Listed([{'image': data, 'caption': 'x'}] * 4)
  with (
    open_(source, backend='tf', batch_size=2, augment='none') as batches,
    pytest.raises(reader.BadSourceError, match='none of the last .* decodes'),
  ):
    next(batches)


@pytest.mark.parametrize('backend', BACKENDS)
def test_few_bad_samples_in_a_large_run_are_fine(backend):
  good = [{'image': encode(noise(0)), 'caption': 'good'}] * 7
  bad = [{'image': b'<html>', 'caption': 'bad'}] * 3
  _, _, skipped = take(5, Listed(good + bad), backend=backend, batch_size=100)
  assert 100 < skipped < 350


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


def test_auto_backend(monkeypatch):
  choose = pipeline.choose_backend
  assert choose(arrays(), 'auto') == 'numpy'
  assert choose(encoded(), 'numpy') == 'numpy'
  available = 'groupvit_jax.data.tensorflow_import.available'
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


def truth(count=5, size=8):
  masks = np.arange(count, dtype=np.uint8)[:, None, None]
  return sources.ArraySource(
    np.stack([noise(i, size, size) for i in range(count)]),
    ['x'] * count,
    np.broadcast_to(masks, (count, size, size)),
  )


def test_evaluation_is_one_padded_epoch():
  source = truth()
  batches = list(pipeline.eval_batches(source, batch_size=3, image_size=8))
  assert [b['mask'].tolist() for b in batches] == [[1, 1, 1], [1, 1, 0]]
  joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
  np.testing.assert_array_equal(joined['image'][:5], source.images)
  np.testing.assert_array_equal(joined['label'][:5], source.masks)
  assert joined['label'].dtype == np.int32
  assert (joined['label'][5] == 255).all() and not joined['image'][5].any()


def test_evaluation_resizes_without_mixing_labels():
  source = truth()
  mask = np.zeros((8, 8), np.uint8)
  mask[:, 4:] = 200
  source.masks = np.stack([mask] * 5)
  (batch,) = pipeline.eval_batches(source, batch_size=5, image_size=20)
  assert batch['image'].shape == (5, 20, 20, 3)
  assert (batch['label'][:, :, :10] == 0).all()
  assert (batch['label'][:, :, 10:] == 200).all()


def test_evaluation_shares_samples_between_processes():
  """Each sample once; equally many batches, even for who has fewer."""
  parts = [
    list(
      pipeline.eval_batches(
        truth(7),
        batch_size=2,
        image_size=8,
        process_index=i,
        process_count=3,
      )
    )
    for i in range(3)
  ]
  assert {len(part) for part in parts} == {2}
  seen = [
    int(label[0, 0])
    for part in parts
    for batch in part
    for label, real in zip(batch['label'], batch['mask'], strict=True)
    if real
  ]
  assert sorted(seen) == list(range(7))


def test_evaluation_names_what_is_wrong():
  with pytest.raises(ValueError, match='arrays, sample 0 has no mask'):
    next(pipeline.eval_batches(arrays(), batch_size=2, image_size=8))
  torn = Listed([{'image': b'x', 'caption': '', 'mask': np.zeros((2, 2))}])
  with pytest.raises(ValueError, match='listed, sample 0: .*does not decode'):
    next(pipeline.eval_batches(torn, batch_size=2, image_size=8))


def test_importing_and_numpy_batches_need_no_tensorflow():
  script = """
    import sys
    sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None
    import numpy as np
    from groupvit_jax.data import pipeline, sources, transforms
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
