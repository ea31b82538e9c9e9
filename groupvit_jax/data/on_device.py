"""Image operations that run on the accelerator, inside the jitted step.

Images travel to the device as uint8. There they are flipped and put through
RandAugment (`data.augment_on=device`), normalised and randomly erased. The
operations do what Pillow does in `augment.operate`, from the same numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8, UInt32

from groupvit_jax import sharding
from groupvit_jax.data.augment import DRAWN, FILL, OPERATIONS

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# openai/CLIP clip.py: of its own training images.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NORMALIZATIONS = {'imagenet': (MEAN, STD), 'clip': (CLIP_MEAN, CLIP_STD)}

_AREA = (0.02, 1 / 3)
_ASPECT = (0.3, 1 / 0.3)
_ATTEMPTS = 10


def normalize(
  images: UInt8[Array, '*b h w 3'] | Float[Array, '*b h w 3'],
  mean: Sequence[float] = MEAN,
  std: Sequence[float] = STD,
) -> Float[Array, '*b h w 3']:
  """Normalises pixels: (x / 255 - mean) / std.

  Args:
    images: uint8 in 0..255; floating images count as normalised already and
      pass through.
    mean, std: of the channels in 0..1; by default ImageNet's.

  Returns:
    float32 for uint8 input, else the input.
  """
  if jnp.issubdtype(images.dtype, jnp.floating):
    return images
  scale = 1 / (255 * np.asarray(std, np.float32))
  shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
  return images.astype(jnp.float32) * scale - shift


def random_erase(
  rng: PRNGKeyArray | UInt32[Array, '2'],
  images: Float[Array, 'b h w c'],
  probability: float | Float[Array, ''] = 0.25,
) -> Float[Array, 'b h w c']:
  """Fills a random rectangle of some images with normal noise.

  timm's RandomErasing in mode 'pixel', count 1 (timm/data/random_erasing.py):
  the first of ten random rectangles of 2 % to a third of the area and aspect
  0.3 to 3.3 that is smaller than the image; per pixel N(0, 1).

  Args:
    rng: key of jax.random.
    images: normalised images.
    probability: share of the images that are touched.

  Returns:
    Images of the same shape and dtype.
  """
  b, h, w, _ = images.shape
  box_rng, noise_rng = jax.random.split(rng)
  uniform = sharding.drawn(
    lambda shape: jax.random.uniform(box_rng, shape), (5, b, _ATTEMPTS), axis=1
  )
  area = h * w * (_AREA[0] + uniform[0] * (_AREA[1] - _AREA[0]))
  low, high = jnp.log(jnp.array(_ASPECT))
  aspect = jnp.exp(low + uniform[1] * (high - low))
  height = jnp.round(jnp.sqrt(area * aspect))
  width = jnp.round(jnp.sqrt(area / aspect))
  fits = (height < h) & (width < w)
  top = jnp.floor(uniform[2] * (h - height + 1))
  left = jnp.floor(uniform[3] * (w - width + 1))
  boxes = jnp.stack([top, left, top + height, left + width])
  first = jnp.argmax(fits, axis=1)
  boxes = jnp.take_along_axis(boxes, first[None, :, None], 2)
  top, left, bottom, right = boxes  # each [b, 1]
  touched = uniform[4, :, :1] < probability
  touched &= fits.any(1, keepdims=True)
  rows, columns = jnp.arange(h)[None], jnp.arange(w)[None]
  inside_rows = (rows >= top) & (rows < bottom) & touched
  inside_columns = (columns >= left) & (columns < right)
  inside = inside_rows[:, :, None] & inside_columns[:, None, :]
  noise = sharding.drawn(
    lambda shape: jax.random.normal(noise_rng, shape, images.dtype),
    images.shape,
  )
  return jnp.where(inside[..., None], noise, images)


def augmented(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
  """A batch whose images are augmented as its own entries say.

  Args:
    batch: with `image`, and with `flips`, `operations` and `arguments` (see
      `augment.Draw`) if there is anything to do.
    mesh: the batch is split over its devices.

  Returns:
    The batch without these three.
  """
  drawn = [batch[name] for name in DRAWN if name in batch]
  batch = {name: batch[name] for name in batch if name not in DRAWN}
  if drawn:
    rows = PartitionSpec(sharding.batch_axes(mesh))
    apply = jax.shard_map(augment, mesh=mesh, in_specs=rows, out_specs=rows)
    batch['image'] = apply(batch['image'], *drawn)
  return batch


def augment(
  images: UInt8[Array, 'b h w 3'],
  flips: Bool[Array, 'b'],
  operations: Int[Array, 'b o'],
  arguments: Float[Array, 'b o'],
) -> UInt8[Array, 'b h w 3']:
  """Flips images, then applies RandAugment's operations, as Pillow does.

  Args:
    images: RGB.
    flips, operations, arguments: see `augment.Draw`.
  """

  def one(drawn):
    image, flip, operations, arguments = drawn
    x = jnp.where(flip, image[:, ::-1], image).astype(jnp.int32)
    for k in range(operations.shape[0]):
      x = _operate(x, operations[k], arguments[k])
    return x.astype(jnp.uint8)

  drawn = images, flips, operations, arguments
  if sharding.platform() == 'cpu':  # one image at a time takes one branch
    return jax.lax.map(one, drawn)
  return jax.vmap(one)(drawn)  # all branches, of all images at once


def _operate(x, operation, value):
  """One operation, or none (-1), of an int32 image with values 0..255."""
  functions = list(dict.fromkeys(_FUNCTIONS.values()))
  table = [0, *(1 + functions.index(_FUNCTIONS[name]) for name in OPERATIONS)]
  branches = [lambda x, *unused: x, *functions]
  which = jnp.array(table)[operation + 1]
  return jax.lax.switch(which, branches, x, value, operation)


def _auto_contrast(x, *unused):
  low, high = x.min((0, 1)), x.max((0, 1))
  stretched = (x - low) * 255 // jnp.maximum(high - low, 1)
  return jnp.where(high > low, stretched, x)


def _equalize(x, *unused):
  channels = jnp.arange(3)
  counts = jnp.zeros((3, 256), jnp.int32).at[channels, x].add(1)
  last = counts[channels, x.max((0, 1))]
  step = ((x.shape[0] * x.shape[1] - last) // 255)[:, None]
  before = jnp.cumsum(counts, 1) - counts
  table = (step // 2 + before) // jnp.maximum(step, 1)
  table = jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256))
  return table[channels, x]


def _invert(x, *unused):
  return 255 - x


def _posterize(x, bits, *unused):
  return x & (256 - (1 << (8 - bits.astype(jnp.int32))))


def _solarize(x, threshold, *unused):
  return jnp.where(x < threshold.astype(jnp.int32), x, 255 - x)


def _solarize_add(x, amount, *unused):
  added = jnp.minimum(255, x + amount.astype(jnp.int32))
  return jnp.where(x < 128, added, x)


def _blend(base, x, factor):
  """PIL.Image.blend: between two images, or beyond the second."""
  mixed = base + factor * (x - base).astype(jnp.float32)
  return jnp.floor(jnp.clip(mixed, 0, 255)).astype(jnp.int32)


def _grey(x):
  """Luma of ITU-R 601-2 as PIL's mode L has it, [h, w, 1]."""
  weights = jnp.array([19595, 38470, 7471])
  return ((x * weights).sum(-1, keepdims=True) + 0x8000) >> 16


def _color(x, factor, *unused):
  return _blend(_grey(x), x, factor)


def _contrast(x, factor, *unused):
  count = x.shape[0] * x.shape[1]
  mean = (2 * _grey(x).sum() + count) // (2 * count)
  return _blend(mean, x, factor)


def _brightness(x, factor, *unused):
  return _blend(jnp.zeros_like(x), x, factor)


def _sharpness(x, factor, *unused):
  """Against ImageFilter.SMOOTH, which leaves the border as it is."""
  h, w, _ = x.shape
  window = [x[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)]
  smooth = (2 * (sum(window) + 4 * x[1:-1, 1:-1]) + 13) // 26
  return _blend(x.at[1:-1, 1:-1].set(smooth), x, factor)


def _affine(x, value, operation):
  """Rotates, shears or shifts, bilinearly, as PIL.Image.transform."""
  h, w, _ = x.shape
  cos, sin = jnp.cos(jnp.radians(value)), jnp.sin(jnp.radians(value))
  # Of x and y in the input from those in the output.
  matrices = {
    'rotate': (
      *(cos, -sin, w / 2 * (1 - cos) + h / 2 * sin),
      *(sin, cos, h / 2 * (1 - cos) - w / 2 * sin),
    ),
    'shear_x': (1, value, 0, 0, 1, 0),
    'shear_y': (1, 0, 0, value, 1, 0),
    'translate_x': (1, 0, value * w, 0, 1, 0),
    'translate_y': (1, 0, 0, 0, 1, value * h),
  }
  none = (1, 0, 0, 0, 1, 0)
  rows = [
    jnp.stack(jnp.broadcast_arrays(*matrices.get(n, none))) * 1.0
    for n in OPERATIONS
  ]
  a, b, c, d, e, f = jnp.stack(rows)[operation]
  across, down = jnp.arange(w) + 0.5, jnp.arange(h)[:, None] + 0.5
  at_x = a * across + b * down + c
  at_y = d * across + e * down + f
  inside = (at_x >= 0) & (at_x < w) & (at_y >= 0) & (at_y < h)
  left, top = jnp.floor(at_x - 0.5), jnp.floor(at_y - 0.5)
  dx, dy = (at_x - 0.5 - left)[..., None], (at_y - 0.5 - top)[..., None]

  def pixel(down, right):
    row = jnp.clip(top + down, 0, h - 1).astype(jnp.int32)
    column = jnp.clip(left + right, 0, w - 1).astype(jnp.int32)
    return x[row, column].astype(jnp.float32)

  above = pixel(0, 0) + (pixel(0, 1) - pixel(0, 0)) * dx
  below = pixel(1, 0) + (pixel(1, 1) - pixel(1, 0)) * dx
  mixed = jnp.floor(above + (below - above) * dy).astype(jnp.int32)
  return jnp.where(inside[..., None], mixed, jnp.array(FILL))


_FUNCTIONS = {
  'auto_contrast': _auto_contrast,
  'equalize': _equalize,
  'invert': _invert,
  'posterize': _posterize,
  'solarize': _solarize,
  'solarize_add': _solarize_add,
  'color': _color,
  'contrast': _contrast,
  'brightness': _brightness,
  'sharpness': _sharpness,
  'rotate': _affine,
  'shear_x': _affine,
  'shear_y': _affine,
  'translate_x': _affine,
  'translate_y': _affine,
}
