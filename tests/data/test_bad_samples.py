"""Bad samples in training: replaced, counted, and named if they are many."""

import numpy as np
import pytest
from pipeline_runs import BACKENDS, assert_equal, open_, sign, take
from sample_data import Listed, encode, noise

from groupvit_jax.data import augment_tf, images, sampling


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
    pytest.raises(sampling.BadSourceError, match=message),
  ):
    for _ in range(50):
      next(batches)


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_source_without_one_good_sample_ends(backend):
  bad = Listed([{'image': b'', 'caption': 'x'}])
  with (
    open_(bad, backend=backend) as batches,
    pytest.raises(sampling.BadSourceError, match='listed: .* zero bytes'),
  ):
    next(batches)


def test_a_source_that_never_decodes_ends(monkeypatch):
  """tf.data alone would look for a good image for ever."""
  pytest.importorskip('tensorflow')
  monkeypatch.setattr(augment_tf, '_LOST', 100)
  data = without_tables(encode(noise(0)))
  source = Listed([{'image': data, 'caption': 'x'}] * 4)
  with (
    open_(source, backend='tf', batch_size=2, augment='none') as batches,
    pytest.raises(sampling.BadSourceError, match='none of the last .* decodes'),
  ):
    next(batches)


@pytest.mark.parametrize('backend', BACKENDS)
def test_few_bad_samples_in_a_large_run_are_fine(backend):
  good = [{'image': encode(noise(0)), 'caption': 'good'}] * 7
  bad = [{'image': b'<html>', 'caption': 'bad'}] * 3
  _, _, skipped = take(5, Listed(good + bad), backend=backend, batch_size=100)
  assert 100 < skipped < 350
