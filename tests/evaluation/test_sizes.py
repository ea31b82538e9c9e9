"""Sizes of images: scaling, padded shapes, windows and batches."""

import zlib

import jax
import numpy as np
import pytest

from groupvit_jax.errors import ImageError
from groupvit_jax.evaluation import resize, sizes
from groupvit_jax.evaluation.config import SegmentConfig

RELEASED = sizes.Plan(448, 2048, None, None, 16)
SLIDE = sizes.Plan(448, 2048, 448, 224, 16)


def test_the_released_sizes_are_the_default():
  assert sizes.plan(SegmentConfig(), 448, 16) == RELEASED
  assert sizes.plan(SegmentConfig(mode='slide'), 448, 16) == SLIDE
  small = sizes.plan(SegmentConfig(mode='slide', short_side=64), 448, 16)
  assert small == sizes.Plan(64, 293, 64, 32, 16)


@pytest.mark.parametrize(
  ('config', 'reason'),
  [
    (SegmentConfig(short_side=8), 'short_side=8 is less than one patch of 16'),
    (SegmentConfig(long_side=100), 'long_side=100 is less than short_side=448'),
    (SegmentConfig(mode='slide', window=32, stride=40), 'stride of 40 skips'),
  ],
)
def test_sizes_that_cannot_work(config, reason):
  with pytest.raises(ValueError, match=reason):
    sizes.plan(config, 448, 16)


def test_config_checks_its_sizes():
  with pytest.raises(ValueError, match="'whole' or 'slide', not 'tile'"):
    SegmentConfig(mode='tile')
  with pytest.raises(ValueError, match='stride is in pixels, .*; got 0'):
    SegmentConfig(stride=0)
  with pytest.raises(ValueError, match='short_side is .* 16384, .*; got 10000'):
    SegmentConfig(short_side=10_000_000)


@pytest.mark.parametrize(
  ('size', 'scaled', 'padded'),
  [
    ((480, 640), (448, 597), (448, 608)),  # 4:3
    ((640, 480), (597, 448), (608, 448)),
    ((333, 500), (448, 673), (448, 688)),  # 3:2
    ((1080, 1920), (448, 796), (448, 800)),  # 16:9
    ((300, 300), (448, 448), (448, 448)),
    ((1, 1), (448, 448), (448, 448)),
    ((448, 4096), (224, 2048), (448, 2048)),
    ((1000, 30_000), (68, 2048), (448, 2048)),
  ],
)
def test_scaled_sizes_and_padded_shapes(size, scaled, padded):
  assert sizes.scaled_size(size, RELEASED) == scaled
  assert sizes.padded_window(scaled, RELEASED) == padded


def test_a_line_is_refused():
  with pytest.raises(ImageError, match='30,000 x 20 pixels: too long and thin'):
    sizes.scaled_size((20, 30_000), RELEASED)


@pytest.mark.parametrize('short', [16, 20, 64, 100, 224, 336, 448])
def test_every_image_has_one_of_few_padded_shapes(short):
  plan = sizes.plan(SegmentConfig(), short, 16)
  rng = np.random.default_rng(0)
  found = set()
  for size in map(tuple, rng.integers(40, 3000, (1000, 2)).tolist()):
    try:
      scaled = sizes.scaled_size(size, plan)
    except ImageError:
      continue
    padded = sizes.padded_window(scaled, plan)
    assert scaled[0] <= padded[0] and scaled[1] <= padded[1]
    assert not padded[0] % 16 and not padded[1] % 16
    found.add(padded)
  assert len(found) <= 2 * len(sizes.LONG_SIDES) + 1


def test_windows_are_those_of_mmsegmentation():
  assert sizes.windows((448, 597), RELEASED) == [(0, 0, 448, 597)]
  lefts = [w[1] for w in sizes.windows((448, 597), SLIDE)]
  assert lefts == [0, 149]  # the last one shifted inward
  lefts = [w[1] for w in sizes.windows((448, 896), SLIDE)]
  assert lefts == [0, 224, 448]
  assert sizes.windows((300, 448), SLIDE) == [(0, 0, 300, 448)]
  for size in ((448, 449), (1000, 700), (448, 2048)):
    covered = np.zeros(size, int)
    for top, left, height, width in sizes.windows(size, SLIDE):
      assert (height, width) == (448, 448)
      covered[top : top + height, left : left + width] += 1
    assert covered.min() == 1


@pytest.mark.parametrize(
  ('old', 'new'), [((50, 70), (31, 97)), ((20, 30), (64, 96)), ((1, 5), (9, 9))]
)
def test_resize_is_bilinear_without_antialiasing(old, new):
  image = np.random.default_rng(1).integers(0, 256, (*old, 3), np.uint8)
  expected = jax.image.resize(
    image.astype(np.float32), (*new, 3), 'linear', antialias=False
  )
  difference = np.asarray(resize.resize_image(image, new)) - np.asarray(
    expected
  )
  # Two of its three roundings are downward, to quarters of a level.
  assert difference.min() > -1.05 and difference.max() < 0.55
  assert -0.25 < difference.mean() < 0.05


def integers(height, width):
  """An image of integers, the same in every version of NumPy."""
  values = np.arange(height * width * 3, dtype=np.int64) ** 2 * 7919 % 251
  return values.astype(np.uint8).reshape(height, width, 3)


def test_resize_equals_opencv_in_every_pixel():
  """Recorded: cv2.resize(..., INTER_LINEAR) of OpenCV 5.0.0 on x86."""
  expected = [
    [[0, 138, 50], [85, 160, 99], [221, 195, 177], [218, 218, 117],
     [194, 237, 53], [157, 242, 102], [134, 246, 132]],
    [[17, 175, 106], [87, 182, 140], [199, 194, 195], [173, 192, 161],
     [132, 187, 124], [129, 169, 148], [127, 158, 164]],
    [[43, 230, 191], [91, 215, 203], [167, 191, 222], [106, 154, 228],
     [40, 113, 230], [87, 60, 219], [116, 26, 212]],
    [[120, 186, 176], [146, 149, 166], [187, 89, 149], [164, 92, 195],
     [138, 102, 237], [150, 98, 190], [157, 96, 161]],
    [[172, 157, 167], [183, 105, 142], [200, 21, 101], [204, 50, 173],
     [204, 94, 241], [192, 124, 171], [184, 143, 127]],
  ]  # fmt: skip
  assert resize.resize_image(integers(3, 4), (5, 7)).tolist() == expected
  expected = [
    [[154, 130, 172], [188, 129, 221], [116, 169, 184]],
    [[153, 103, 139], [46, 170, 193], [167, 110, 162]],
  ]
  assert resize.resize_image(integers(5, 7), (2, 3)).tolist() == expected


@pytest.mark.parametrize(
  ('old', 'new', 'checksum'),
  [
    ((375, 500), (448, 597), 2154392579),
    ((480, 640), (224, 299), 221378463),
    ((53, 37), (71, 29), 1783157602),
  ],
)
def test_resize_of_photos_equals_opencv(old, new, checksum):
  """CRC-32 of all pixels, first and last rows included; recorded as above."""
  resized = resize.resize_image(integers(*old), new)
  assert zlib.crc32(resized.tobytes()) == checksum


def test_resize_by_hand():
  row = np.array([0, 100, 200, 50], np.uint8)
  image = np.repeat(row[None, :, None], 3, -1).repeat(4, 0)
  # Halving means the mean of two neighbours; equal sizes change nothing.
  halved = resize.resize_image(image, (2, 2))
  assert halved[..., 0].tolist() == [[50, 125], [50, 125]]
  assert resize.resize_image(image, (4, 4)) is image
  flat = np.full((7, 9, 3), 231, np.uint8)
  assert (resize.resize_image(flat, (13, 40)) == 231).all()


def test_bucket():
  assert [sizes.bucket(n) for n in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
  assert [sizes.bucket(n, 8) for n in (1, 8, 9, 59)] == [8, 8, 16, 64]


def test_paste():
  images = [np.full((2, 3, 3), 7, np.uint8), np.full((4, 1, 3), 9, np.uint8)]
  pasted = sizes.pad_images(images, (4, 4), 4)
  assert pasted.shape == (4, 4, 4, 3)
  assert pasted.sum() == 3 * (6 * 7 + 4 * 9)
  assert (pasted[0, :2, :3] == 7).all() and (pasted[1, :, :1] == 9).all()


def test_large_labels_make_small_batches():
  if jax.default_backend() != 'cpu':
    pytest.skip('an accelerator takes what is asked for')
  assert sizes.at_a_time((64, 64), 8, 50, (64, 64)) == 50
  assert sizes.at_a_time((64, 64), 8, 50, (512, 512)) == 4
  assert sizes.at_a_time((64, 64), 8, 50, (4096, 4096)) == 1
