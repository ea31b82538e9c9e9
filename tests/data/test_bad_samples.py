"""Bad samples in training: replaced, counted by reason, named if many."""

import numpy as np
import pytest

from groupvit_jax.data import augment, reading


def test_bad_samples_are_replaced_and_counted(
  backend, make, train, monkeypatch, caplog
):
  monkeypatch.setattr(augment, 'MAX_PIXELS', 150_000)
  whole = make.encode(make.noise(0, 64, 64))
  png = make.encode(make.noise(1), 'PNG')
  tables = make.encode(make.noise(2)).replace(b'\xff\xdb', b'\xff\xee')
  bad = [
    (b'', 'zero size'),
    (b'<html>', 'no image'),
    (whole[: len(whole) // 2], 'cut jpeg'),
    (png[: len(png) // 2], 'cut png'),
    (whole[:40], 'cut header'),
    (tables, 'header and end are fine, but no decoder accepts it'),
    (make.encode(np.zeros((400, 500, 3), np.uint8), 'PNG'), 'a bomb'),
    (np.zeros((8, 8), np.uint8), 'a grey array'),
    (whole, ' \n'),
  ]
  good = [(make.encode(make.noise(i)), f'good {i}') for i in range(14)]
  samples = [{'image': i, 'caption': c} for i, c in good + bad]
  source = make.listed([*samples, {'image': whole}])  # a KeyError
  options = {'backend': backend, 'batch_size': 12}
  batches, _, counts = train.take(4, source, **options)
  usable = {train.sign(f'good {i}') for i in range(14)}
  for batch in batches:
    assert usable.issuperset(batch['tokens'][:, 0, 1].tolist())
    assert batch['image'].std((1, 2, 3)).min() > 3  # no blank
  # Two epochs meet the ten bad ones twice, and some again as stand-ins.
  assert counts.total() >= 20
  least = {
    'image_empty': 2,
    'image_format': 4,
    'image_damaged': 6,
    'image_size': 2,
    'caption': 2,
    'unreadable': 2,
  }
  assert counts.keys() == least.keys()
  assert all(counts[reason] >= least[reason] for reason in least), counts
  again, _, more = train.take(4, source, **options)
  train.assert_equal(again, batches)
  assert more == counts
  rest, _, later = train.take(2, source, start=24, **options)
  train.assert_equal(rest, batches[2:])
  assert 10 <= later.total() < counts.total()
  assert 'listed: sample ' in caplog.text and ' skipped: the ' in caplog.text


def test_a_source_that_is_mostly_bad_is_named(backend, make, train):
  good = [{'image': make.encode(make.noise(0)), 'caption': 'good'}] * 3
  bad = [{'image': b'<html>', 'caption': 'bad'}] * 7
  source = make.listed(good + bad)
  message = r'listed: \d+ of the first \d+ samples are .*\d+ image_format; the'
  with (
    train.open(source, backend=backend, batch_size=100) as batches,
    pytest.raises(reading.BadSourceError, match=message),
  ):
    for _ in range(50):
      next(batches)


def test_a_source_without_one_good_sample_ends(backend, make, train):
  bad = make.listed([{'image': b'', 'caption': 'x'}])
  with (
    train.open(bad, backend=backend) as batches,
    pytest.raises(reading.BadSourceError, match='listed: .*zero bytes'),
  ):
    next(batches)


def test_few_bad_samples_in_a_large_run_are_fine(backend, make, train):
  good = [{'image': make.encode(make.noise(0)), 'caption': 'good'}] * 7
  bad = [{'image': b'<html>', 'caption': 'bad'}] * 3
  source = make.listed(good + bad)
  _, _, counts = train.take(5, source, backend=backend, batch_size=100)
  assert 100 < counts.total() < 350
