"""Augmentation, normalisation and random erasing inside the jitted step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from groupvit_jax import sharding
from groupvit_jax.data import augment, on_device


def test_normalize_by_hand():
  images = np.array([0, 128, 255], np.uint8).reshape(1, 3, 1, 1)
  images = np.repeat(images, 3, axis=3)
  got = jax.jit(on_device.normalize)(images)
  want = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  assert got.dtype == jnp.float32 and got.shape == (1, 3, 1, 3)
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_normalised_images_pass_through(dtype):
  images = jnp.linspace(-2, 2, 12, dtype=dtype).reshape(2, 2, 3)
  got = on_device.normalize(images)
  assert got.dtype == images.dtype
  np.testing.assert_array_equal(got, images)


ERASE = jax.jit(on_device.random_erase)


@functools.cache
def erased(probability=1.0, n=1500, h=40, w=50):
  """Erased constant images, and where they changed [n, h, w]."""
  images = jnp.full((n, h, w, 3), 100.0)
  out = ERASE(jax.random.key(0), images, probability)
  assert out.shape == images.shape and out.dtype == images.dtype
  out = np.asarray(out)
  return out, (out != 100).any(-1)


def test_erasing_happens_with_its_probability():
  _, changed = erased(0.25)
  share = changed.any((1, 2)).mean()
  assert abs(share - 0.25) < 0.04
  assert not erased(0.0)[1].any()
  assert erased(1.0)[1].any((1, 2)).all()


def test_erased_is_a_rectangle_of_normal_noise():
  out, changed = erased()
  rows, columns = changed.any(2), changed.any(1)
  box = rows[:, :, None] & columns[:, None, :]
  np.testing.assert_array_equal(changed, box)
  for line in (rows, columns):  # one run each
    starts = (np.diff(np.pad(line, ((0, 0), (1, 0))).astype(int)) == 1).sum(1)
    np.testing.assert_array_equal(starts, 1)
  noise = out[changed]
  assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
  # Drawn per pixel and channel, and for each image anew.
  assert abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02
  assert len(np.unique(noise)) > 0.85 * noise.size  # float32 repeats some


def test_erased_boxes_are_drawn_as_timm_draws_them():
  _, changed = erased()
  height, width = changed.any(2).sum(1), changed.any(1).sum(1)
  area, aspect = height * width / 2000, np.log(height / width)
  drawn = np.array(
    [_timm(np.random.default_rng(i), 40, 50) for i in range(1500)]
  )
  want_height, want_width = drawn.T
  want_area = want_height * want_width / 2000
  want_aspect = np.log(want_height / want_width)
  assert area.min() > 0.015 and area.max() < 0.36
  assert height.max() < 40 and width.max() < 50
  for got, want, spread in (
    (area, want_area, 0.1),
    (aspect, want_aspect, 0.65),
  ):
    error = 4 * spread * (2 / 1500) ** 0.5
    assert abs(got.mean() - want.mean()) < error
    assert abs(got.std() - want.std()) < error
  # Any place is met, the corners included.
  where = changed.mean(0)
  assert where.min() > 0 and where[20, 25] > where[0, 0]


def _timm(rng, height, width):
  """RandomErasing._erase of timm, for the size of one box."""
  while True:
    area = rng.uniform(0.02, 1 / 3) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
    h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    if w < width and h < height:
      return h, w


def test_erasing_depends_on_the_key():
  images = jnp.full((1500, 40, 50, 3), 100.0)
  one, same, other = (ERASE(jax.random.key(k), images, 1.0) for k in (1, 1, 2))
  np.testing.assert_array_equal(one, same)
  assert (one != other).any()


def test_raw_keys_serve_too():
  images = jnp.zeros((4, 16, 16, 3), jnp.bfloat16)
  out = jax.eval_shape(on_device.random_erase, jax.random.PRNGKey(0), images)
  assert (out.shape, out.dtype) == (images.shape, images.dtype)


AUGMENT = jax.jit(on_device.augment)


def smooth(seed, height=48, width=56):
  """An image with flat and busy parts."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
  large = np.asarray(small.resize((width, height), Image.BICUBIC), int)
  return np.clip(large + rng.integers(-9, 10, large.shape), 9, 240)


@pytest.mark.parametrize('name', augment.OPERATIONS)
def test_operations_are_those_of_pillow(name):
  """Which timm calls; at both signs, from the least level to the most."""
  number = augment.OPERATIONS.index(name)
  levels = np.array([0, 1.7, 4.2, 8.6, 9.3, 10, 10, 10, 10])
  signs = np.array([1, -1, 1, -1, 1, -1, 1, 1, -1])
  operations = np.full((9, 1), number, np.int32)
  arguments = augment.argument(operations[:, 0], levels, signs)[:, None]
  images = np.stack([*map(smooth, range(6)), *np.zeros((3, 48, 56, 3))])
  images[7:] = 77  # flat ones
  images = images.astype(np.uint8)
  got = AUGMENT(images, np.zeros(9, bool), operations, arguments)
  for image, value, ours in zip(images, arguments[:, 0], got, strict=True):
    pillow = augment.operate(Image.fromarray(image), name, float(value))
    apart = abs(np.asarray(ours, int) - np.asarray(pillow, int))
    exact = name in ('invert', 'equalize', 'posterize', 'solarize')
    assert apart.max() <= (not exact) and apart.mean() < 0.05


def test_a_device_does_what_the_host_does(make, train):
  """The same numbers, wherever they are used, on any number of devices."""
  options = {'augment': 'deit', 'batch_size': 16, 'image_size': 32}
  source = make.encoded()
  host, _, _ = train.take(3, source, **options)
  device, _, _ = train.take(3, source, augment_on='device', **options)
  mesh = sharding.make_mesh()
  step = jax.jit(lambda batch: on_device.augmented(batch, mesh))
  for ours, theirs in zip(device, host, strict=True):
    assert ours.keys() == {'image', 'tokens', *augment.DRAWN}
    done = step(sharding.shard_batch(ours, mesh))
    assert done.keys() == theirs.keys()
    apart = abs(np.asarray(done['image'], int) - theirs['image'])
    # Two operations in a row may lift a level of difference.
    assert (apart > 1).mean() < 0.02
    np.testing.assert_array_equal(done['tokens'], theirs['tokens'])
  rest, _, _ = train.take(1, source, augment_on='device', start=32, **options)
  train.assert_equal(rest, device[2:])
