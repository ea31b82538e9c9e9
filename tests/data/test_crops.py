"""Crops: as if decoded in full, then cropped and resized by Pillow."""

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.data import crops


def photo(height, width):
  """Smooth regions, edges and some noise."""
  rng = np.random.default_rng(0)
  small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
  large = np.asarray(small.resize((width, height), Image.BICUBIC), int).copy()
  large[height // 3 : height // 2, width // 4 : width // 2] = (200, 40, 90)
  noisy = large + rng.normal(0, 4, large.shape)
  return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def reference(encoded, box, size):
  """Full decoding by Pillow, then torchvision's crop and antialiased resize."""
  top, left, height, width = box
  image = crops.images.decode(encoded)
  image = image.crop((left, top, left + width, top + height))
  return np.asarray(image.resize((size, size), Image.BILINEAR), int)


@pytest.mark.parametrize('packages', [True, False])
@pytest.mark.parametrize(
  ('box', 'reduced'),
  [
    ((5, 20, 390, 400), True),  # at a quarter
    ((11, 21, 200, 210), True),  # at a half
    ((0, 0, 400, 500), True),
    ((9, 3, 150, 160), True),  # in full, colours of half the size repeated
    ((31, 7, 90, 120), False),
    ((5, 5, 40, 30), False),
  ],
)
def test_crops_are_close_to_full_decoding(
  packages, box, reduced, make, monkeypatch
):
  if not packages:
    monkeypatch.setattr(crops, 'packages', lambda: None)
  image = photo(400, 500)
  for options in ({'subsampling': 0}, {}, {'progressive': True}):
    encoded = make.encode(image, quality=90, **options)
    got = crops.decode_crop(encoded, lambda *unused: box, 64)
    apart = abs(np.asarray(got, int) - reference(encoded, box, 64))
    assert apart.mean() < (0.8 if reduced else 0.4)
    assert np.quantile(apart, 0.99) <= (5 if reduced else 1)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK', 'P'])
def test_any_image_is_cropped_upright(mode, make):
  image = photo(100, 140).convert(mode)
  exif = Image.Exif()
  exif[0x0112] = 6  # a quarter turn: 100 x 140 becomes 140 x 100
  kind = 'PNG' if mode == 'P' else 'JPEG'
  encoded = make.encode(image, kind, exif=exif)
  seen = []

  def box_of(*size):
    seen.append(size)
    return 10, 20, 90, 70

  got = crops.decode_crop(encoded, box_of, 32)
  assert seen == [(140, 100)] and got.shape == (32, 32, 3)
  apart = abs(np.asarray(got, int) - reference(encoded, (10, 20, 90, 70), 32))
  assert apart.max() <= 4


def test_simplejpeg_decodes_to_the_bits_of_pillow(make):
  if crops.packages() is None:
    pytest.skip("needs pip install 'groupvit_jax[train]'")
  for options in ({}, {'subsampling': 0}, {'subsampling': 1}):
    encoded = make.encode(photo(77, 91), **options)
    got = crops._jpeg(encoded, fast=False)
    np.testing.assert_array_equal(got, crops.images.decode(encoded))
  # Pillow says what is wrong.
  assert crops._jpeg(encoded[:900], fast=False) is None
