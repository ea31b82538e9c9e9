"""Augmentations: random numbers as timm's and torchvision's, pixels by hand."""

import numpy as np
import pytest
from PIL import Image

from groupvit_jax.data import augment, crops


def photo(height=60, width=72, seed=0):
  """A smooth random image with values from 20 to 230."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
  smooth = np.asarray(small.resize((width, height), Image.BICUBIC), int)
  noisy = smooth + rng.integers(-12, 13, smooth.shape)
  return np.clip(noisy, 20, 230).astype(np.uint8)


def argument(name, level, sign):
  index = np.array([augment.OPERATIONS.index(name)])
  return float(
    augment.argument(index, np.array([float(level)]), np.array([sign]))[0]
  )


def stretch(x):
  low, high = x.min((0, 1)).astype(float), x.max((0, 1)).astype(float)
  return np.floor((x - low) * 255 / (high - low) + 1e-9)


def shifted(x, columns):
  out = np.broadcast_to(augment.FILL, x.shape).copy()
  out[:, :-columns] = x[:, columns:]
  return out


def grey(x):
  return (x @ [19595, 38470, 7471] + 0x8000 >> 16)[..., None]


def blend(base, x, factor):
  return np.clip(base + factor * (x.astype(float) - base), 0, 255)


@pytest.mark.parametrize(
  ('name', 'value', 'reference', 'tolerance'),
  [
    ('auto_contrast', 0, stretch, 1),
    ('invert', 0, lambda x: 255 - x, 0),
    ('rotate', 180, lambda x: x[::-1, ::-1], 0),
    ('posterize', 3, lambda x: x & 0b11100000, 0),
    ('posterize', 0, np.zeros_like, 0),
    ('solarize', 100, lambda x: np.where(x < 100, x, 255 - x), 0),
    ('solarize_add', 60, lambda x: np.where(x < 128, x + 60, x), 0),
    ('color', 0.3, lambda x: blend(grey(x), x, 0.3), 1),
    ('contrast', 1.8, lambda x: blend(np.rint(grey(x).mean()), x, 1.8), 1),
    ('brightness', 1.8, lambda x: blend(0, x, 1.8), 1),
    ('translate_x', 0.25, lambda x: shifted(x, 18), 0),
    (
      'translate_y',
      0.1,
      lambda x: shifted(x.swapaxes(0, 1), 6).swapaxes(0, 1),
      0,
    ),
  ],
)
def test_operations_by_hand(name, value, reference, tolerance):
  image = photo()
  want = reference(image.astype(int))
  got = np.asarray(
    augment.operate(Image.fromarray(image), name, float(value)), int
  )
  assert abs(got - want).max() <= tolerance


def test_equalize_spreads_the_levels_in_their_order():
  rng = np.random.default_rng(0)
  image = rng.integers(50, 150, (60, 72, 3), np.uint8)
  got = augment.operate(Image.fromarray(image), 'equalize', 0.0)
  for before, after in zip(image.T, np.asarray(got, int).T, strict=True):
    assert after.min() < 15 and after.max() > 240
    assert (np.diff(after.ravel()[np.argsort(before.ravel())]) >= 0).all()


def test_sharpness_leaves_a_ramp_and_lifts_an_edge():
  ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None], (40, 40))
  image = np.repeat(ramp[..., None], 3, 2)
  got = augment.operate(Image.fromarray(image), 'sharpness', 1.9)
  np.testing.assert_array_equal(got, image)
  image = np.repeat(np.where(ramp < 20, 50, 150)[..., None], 3, 2)
  got = np.asarray(
    augment.operate(Image.fromarray(image.astype(np.uint8)), 'sharpness', 1.9)
  )
  assert got.min() < 50 and got.max() > 150


@pytest.mark.parametrize('name', ['shear_x', 'shear_y'])
def test_shear_shifts_lines_in_proportion(name):
  image = photo(60, 60)
  got = np.asarray(augment.operate(Image.fromarray(image), name, 0.2), int)
  if name == 'shear_y':
    image, got = image.swapaxes(0, 1), got.swapaxes(0, 1)
  # The centre of row r lies 0.2 (r + 0.5) pixels to the right.
  for row in (2, 22, 42):
    shift = round(0.2 * (row + 0.5) - 0.5) + 1
    want = image[row, shift : shift + 40].astype(int)
    assert abs(got[row, :40] - want).mean() < 8
    assert (got[row, -1] == augment.FILL).all()


@pytest.mark.parametrize('name', augment.OPERATIONS)
@pytest.mark.parametrize('flat', [0, 77, 255])
def test_operations_bear_flat_images(name, flat):
  image = Image.fromarray(np.full((9, 9, 3), flat, np.uint8))
  for level, sign in ((9, 1), (10, -1), (0, 1)):
    got = augment.operate(image, name, argument(name, level, sign))
    assert got.size == image.size and got.mode == 'RGB'


def test_apply_crops_resizes_flips_and_operates():
  image = Image.fromarray(photo(80, 100))
  drawn = augment.Draw(
    scale=(0.5, 0.5),
    crops=np.full((2, 10, 4), 0.5),
    flips=np.array([False, True]),
    operations=np.array([[-1, 4], [-1, -1]], np.int32),
    arguments=np.array([[0, 3], [0, 0]], np.float32),
  )
  want = crops.crop_resize(np.asarray(image), drawn.box(0, 80, 100), 32)
  got = [augment.apply(image, drawn, i, 32) for i in range(2)]
  np.testing.assert_array_equal(got[0], want & 0b11100000)
  np.testing.assert_array_equal(got[1], want[:, ::-1])


def boxes_of(level, sizes, seed=0):
  """Crops of images of these sizes, at positions from 0 on."""
  drawn = augment.draw(augment.AUGMENTS[level], seed, np.arange(len(sizes)))
  return np.array(
    [drawn.box(i, *size) for i, size in enumerate(sizes.tolist())]
  )


def test_squares_have_the_shorter_side_and_reach_both_ends():
  sizes = np.array([[24, 32], [32, 24], [20, 20]] * 200)
  boxes = boxes_of('square', sizes)
  np.testing.assert_array_equal(
    boxes[:, 2:], sizes.min(1)[:, None].repeat(2, 1)
  )
  corners = boxes[:, :2].reshape(200, 3, 2)
  assert corners.min(0).tolist() == [[0, 0]] * 3
  assert corners.max(0).tolist() == [[0, 8], [8, 0], [0, 0]]


def test_crops_fit_and_cover_as_torchvision_draws_them():
  sizes = np.tile([[240, 320]], (4000, 1))
  boxes = boxes_of('deit', sizes)
  top, left, height, width = boxes.T
  assert (top >= 0).all() and (left >= 0).all()
  assert (top + height <= 240).all() and (left + width <= 320).all()
  area = height * width / (240 * 320)
  assert area.min() > 0.07 and area.max() <= 1.0
  ratio = width / height
  assert ratio.min() > 0.73 and ratio.max() < 1.36
  # Reference: torchvision's get_params, written out for one sample.
  rng = np.random.default_rng(0)
  drawn = [_torchvision(rng, 240, 320) for _ in range(4000)]
  want_area = np.mean([h * w for h, w in drawn]) / (240 * 320)
  assert abs(area.mean() - want_area) < 0.02
  assert abs(np.log(ratio).mean() - _log_ratio(drawn)) < 0.01
  # Every corner is met.
  assert top.min() == 0 and left.min() == 0
  assert (top + height).max() == 240 and (left + width).max() == 320


def _torchvision(rng, height, width):
  for _ in range(10):
    area = rng.uniform(0.08, 1) * height * width
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    if 0 < w <= width and 0 < h <= height:
      return h, w
  return height, width


def _log_ratio(drawn):
  return np.mean([np.log(w / h) for h, w in drawn])


def test_extreme_shapes_fall_back_to_the_centre():
  sizes = np.array([[10, 1000], [1000, 10], [1, 1]])
  boxes = boxes_of('deit', sizes)
  for (top, left, height, width), full in zip(boxes, sizes, strict=True):
    assert 1 <= height <= full[0] and 1 <= width <= full[1]
    assert 0 <= top <= full[0] - height and 0 <= left <= full[1] - width
  never = np.ones((10, 4)).tolist()  # area 1, ratio 4/3: never fits a strip
  assert augment.crop_box(never, (10, 1000), (1.0, 1.0)) == (0, 493, 10, 13)


def test_rand_augment_statistics():
  n = 30_000
  drawn = augment.draw(augment.AUGMENTS['deit'], 1, np.arange(n))
  happens = drawn.operations >= 0
  assert drawn.operations.shape == (n, 2)
  np.testing.assert_allclose(happens.mean(0), 0.5, atol=0.02)
  assert abs(np.corrcoef(happens.T)[0, 1]) < 0.03
  counts = np.bincount(drawn.operations[happens], minlength=15)
  np.testing.assert_allclose(counts / counts.sum(), 1 / 15, atol=0.006)
  rotated = drawn.operations == augment.OPERATIONS.index('rotate')
  degrees = drawn.arguments[rotated]
  assert abs((degrees > 0).mean() - 0.5) < 0.05
  assert abs(np.abs(degrees).mean() - 27) < 0.15
  assert abs(np.abs(degrees).std() - 1.5) < 0.15
  assert np.abs(degrees).max() <= 30  # the magnitude is cut at 10
  assert abs(drawn.flips.mean() - 0.5) < 0.02


def test_levels_by_hand():
  """timm's LEVEL_TO_ARG at magnitude 9, both signs."""
  want = {
    'auto_contrast': (0, 0),
    'equalize': (0, 0),
    'invert': (0, 0),
    'rotate': (27, -27),
    'posterize': (1, 1),
    'solarize': (26, 26),
    'solarize_add': (99, 99),
    'color': (1.81, 0.19),
    'contrast': (1.81, 0.19),
    'brightness': (1.81, 0.19),
    'sharpness': (1.81, 0.19),
    'shear_x': (0.27, -0.27),
    'shear_y': (0.27, -0.27),
    'translate_x': (0.405, -0.405),
    'translate_y': (0.405, -0.405),
  }
  assert tuple(want) == augment.OPERATIONS
  for name, values in want.items():
    got = [argument(name, 9, sign) for sign in (1, -1)]
    np.testing.assert_allclose(got, values, rtol=1e-6)
  assert argument('brightness', 10, -1) == pytest.approx(0.1)


def test_levels_by_name():
  sizes = np.full((100, 2), 50)
  positions = np.arange(100)
  none = augment.draw(augment.AUGMENTS['none'], 0, positions)
  np.testing.assert_array_equal(boxes_of('none', sizes), [[0, 0, 50, 50]] * 100)
  assert not none.flips.any() and none.operations.shape == (100, 0)
  flip = augment.draw(augment.AUGMENTS['flip'], 0, positions)
  np.testing.assert_array_equal(
    boxes_of('flip', sizes), boxes_of('none', sizes)
  )
  assert 30 < flip.flips.sum() < 70
  area = boxes_of('light', sizes)[:, 2:].prod(1) / 2500
  assert area.min() > 0.55


def test_a_draw_belongs_to_its_position():
  level = augment.AUGMENTS['deit']
  whole = augment.draw(level, 7, np.arange(20))
  part = augment.draw(level, 7, np.arange(12, 16))
  other = augment.draw(level, 8, np.arange(20))
  for field in ('crops', 'flips', 'operations', 'arguments'):
    theirs = getattr(part, field)
    np.testing.assert_array_equal(getattr(whole, field)[12:16], theirs)
  assert (whole.crops != other.crops).any()
