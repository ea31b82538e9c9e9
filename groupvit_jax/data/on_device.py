"""Image operations that run on the accelerator, inside the jitted step.

Images travel to the device as uint8; they are normalised and randomly erased
there.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8, UInt32

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
  uniform = jax.random.uniform(box_rng, (5, b, _ATTEMPTS))
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
  noise = jax.random.normal(noise_rng, images.shape, images.dtype)
  return jnp.where(inside[..., None], noise, images)
