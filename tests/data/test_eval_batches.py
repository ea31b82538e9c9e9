"""Evaluation batches: every sample once, padded, its labels unmixed."""

import numpy as np
import pytest
from pipeline_runs import arrays
from sample_data import Listed, noise

from groupvit_jax.data import pipeline, sources


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
