"""Augmentations: TensorFlow equals PIL, and chance is as timm's."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from groupvit_jax.data import augment, augment_pil, augment_tf, images
from groupvit_jax.data.augment_tf import tensorflow

tf = pytest.importorskip('tensorflow')


def photo(height=60, width=72, seed=0):
  """A smooth random picture with values from 20 to 230."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
  picture = np.asarray(small.resize((width, height), Image.BICUBIC), int)
  noisy = picture + rng.integers(-12, 13, picture.shape)
  return np.clip(noisy, 20, 230).astype(np.uint8)


def jpeg(array, quality=95):
  out = io.BytesIO()
  Image.fromarray(array).save(out, 'JPEG', quality=quality)
  return out.getvalue()


def difference(a, b):
  return np.abs(np.asarray(a, int) - np.asarray(b, int))


def argument(name, level, sign):
  index = np.array([augment.OPERATIONS.index(name)])
  return float(
    augment.argument(index, np.array([float(level)]), np.array([sign]))[0]
  )


@pytest.mark.parametrize('name', augment.OPERATIONS)
def test_operation_equals_pil(name):
  """Eagerly, for weak and strong levels of both signs."""
  image = photo()
  for level, sign in ((9, 1), (9.3, -1), (2.6, 1), (10, -1), (0, 1)):
    value = argument(name, level, sign)
    want = augment_pil.operate(Image.fromarray(image), name, value)
    got = augment_tf.FUNCTIONS[name](tf.constant(image), tf.constant(value))
    assert got.dtype == tf.uint8
    apart = difference(got, want)
    # A sum that lies on a whole number may be cut to either side of it.
    assert apart.max() <= 1, (level, sign)
    if name.startswith(('rotate', 'shear', 'translate')):
      assert (apart > 0).mean() < 0.35
    else:
      assert apart.max() == 0 or (apart > 0).mean() < 1e-3


def test_operations_in_tf_data_equal_eager():
  image = photo(seed=1)
  count = len(augment.OPERATIONS)
  values = [argument(name, 9, 1) for name in augment.OPERATIONS]
  data = tf.data.Dataset.from_tensor_slices(
    ([image] * count, np.arange(count, dtype=np.int32), np.float32(values))
  )
  mapped = data.map(augment_tf.operate, num_parallel_calls=2)
  for name, value, got in zip(
    augment.OPERATIONS, values, mapped.as_numpy_iterator(), strict=True
  ):
    want = augment_tf.FUNCTIONS[name](tf.constant(image), tf.constant(value))
    np.testing.assert_array_equal(got, want, err_msg=name)
    assert difference(got, image).max() > 0, name  # it does something


@pytest.mark.parametrize('name', augment.OPERATIONS)
@pytest.mark.parametrize('flat', [0, 77, 255])
def test_operations_bear_flat_pictures(name, flat):
  image = np.full((9, 9, 3), flat, np.uint8)
  value = argument(name, 9, 1)
  want = augment_pil.operate(Image.fromarray(image), name, value)
  got = augment_tf.FUNCTIONS[name](tf.constant(image), tf.constant(value))
  np.testing.assert_array_equal(got, want)


def test_no_operation():
  image = photo()
  got = augment_tf.operate(tf.constant(image), tf.constant(-1), 0.5)
  np.testing.assert_array_equal(got, image)


def test_posterize_as_pillow_spells_it():
  image = Image.fromarray(photo())
  for bits in (1, 3, 8):
    np.testing.assert_array_equal(
      augment_pil.operate(image, 'posterize', bits),
      ImageOps.posterize(image, bits),
    )
  assert not np.asarray(augment_pil.operate(image, 'posterize', 0)).any()


@pytest.mark.parametrize('shape', [(60, 72), (30, 200), (9, 11), (48, 48)])
def test_resize_equals_pil(shape):
  image = photo(*shape)
  want = Image.fromarray(image).resize((48, 48), Image.BILINEAR)
  got = augment_tf.resize(tf.constant(image), 48)
  assert difference(got, want).max() <= 1


def test_apply_equals_pil_from_jpeg_and_from_raw():
  """The fused decode, the crop and the flip, in tf.data."""
  data = jpeg(photo(80, 100))
  picture = images.decode_pil(data)
  box, size = [7, 13, 61, 70], 32
  operations, arguments = [4, -1], [3.0, 0.0]
  elements = {
    'data': [data, np.asarray(picture).tobytes()] * 2,
    'is_jpeg': [True, False] * 2,
    'shape': [[80, 100]] * 4,
    'box': [box] * 4,
    'flip': [False, False, True, True],
    'operations': [operations] * 4,
    'arguments': [arguments] * 4,
  }
  mapped = tf.data.Dataset.from_tensor_slices(elements).map(
    lambda element: augment_tf.apply(**element, size=size)
  )
  for got, flip in zip(
    mapped.as_numpy_iterator(), elements['flip'], strict=True
  ):
    want = augment_pil.apply(picture, box, flip, operations, arguments, size)
    assert got.shape == (size, size, 3) and got.dtype == np.uint8
    # Posterized to 3 bits: one level at an edge becomes 32.
    apart = difference(got, want)
    assert (apart > 0).mean() < 0.05
    assert set(np.unique(apart)) <= {0, 32}


def test_crops_fit_and_cover_as_torchvision_draws_them():
  sizes = np.tile([[240, 320]], (4000, 1))
  level = augment.AUGMENTS['deit']
  boxes = augment.draw(level, 0, np.arange(4000), sizes).boxes
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
  boxes = augment.draw(augment.AUGMENTS['deit'], 0, np.arange(3), sizes).boxes
  for (top, left, height, width), full in zip(boxes, sizes, strict=True):
    assert 1 <= height <= full[0] and 1 <= width <= full[1]
    assert 0 <= top <= full[0] - height and 0 <= left <= full[1] - width
  never = np.ones((1, 10, 4))  # area 1, ratio 4/3: never fits a strip
  boxes = augment.crop_boxes(never, np.array([[10, 1000]]), (1, 1))
  np.testing.assert_array_equal(boxes, [[0, 493, 10, 13]])


def test_rand_augment_statistics():
  n = 30_000
  sizes = np.full((n, 2), 64)
  drawn = augment.draw(augment.AUGMENTS['deit'], 1, np.arange(n), sizes)
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
  none = augment.draw(augment.get_augment('none'), 0, positions, sizes)
  np.testing.assert_array_equal(none.boxes, [[0, 0, 50, 50]] * 100)
  assert not none.flips.any() and none.operations.shape == (100, 0)
  flip = augment.draw(augment.get_augment('flip'), 0, positions, sizes)
  np.testing.assert_array_equal(flip.boxes, none.boxes)
  assert 30 < flip.flips.sum() < 70
  light = augment.draw(augment.get_augment('light'), 0, positions, sizes)
  area = light.boxes[:, 2] * light.boxes[:, 3] / 2500
  assert area.min() > 0.55
  with pytest.raises(ValueError, match="'heavy'; choose from .*'deit'"):
    augment.get_augment('heavy')


def test_a_draw_belongs_to_its_position():
  level, sizes = augment.AUGMENTS['deit'], np.full((20, 2), 64)
  whole = augment.draw(level, 7, np.arange(20), sizes)
  part = augment.draw(level, 7, np.arange(12, 16), sizes[:4])
  other = augment.draw(level, 8, np.arange(20), sizes)
  for field in ('boxes', 'flips', 'operations', 'arguments'):
    np.testing.assert_array_equal(
      getattr(whole, field)[12:16], getattr(part, field)
    )
  assert (whole.boxes != other.boxes).any()


def test_tensorflow_leaves_the_gpu_alone():
  assert not tensorflow().config.get_visible_devices('GPU')
