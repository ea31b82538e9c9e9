"""Training batches of small sources, run for tests of the pipeline."""

import importlib.util
import zlib

import numpy as np
import pytest
from sample_data import Listed, encode, noise

from groupvit_jax.data import pipeline, sources

_NEEDS_TENSORFLOW = pytest.mark.skipif(
  importlib.util.find_spec('tensorflow') is None,
  reason="tensorflow comes with pip install 'groupvit_jax[train]'",
)
BACKENDS = (pytest.param('tf', marks=_NEEDS_TENSORFLOW), 'numpy')


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
