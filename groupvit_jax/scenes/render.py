"""From layout to pixels: ground, shadows, things, light, camera.

Also the mask: the thing that covers most of a pixel, or else the ground.
"""

import math

import numpy as np
from PIL import Image, ImageFilter

from groupvit_jax.scenes import canvas as canvas_lib
from groupvit_jax.scenes import grounds, objects
from groupvit_jax.scenes import layout as layout_lib
from groupvit_jax.scenes.canvas import Canvas
from groupvit_jax.scenes.layout import Layout
from groupvit_jax.scenes.rng import Rng

# Things reach this far from their centre, in own coordinates.
_REACH = 1.14


def _shadow(
  image: np.ndarray, canvas: Canvas, alpha: np.ndarray, strength: float
) -> None:
  """Darkens the image with a blurred copy of `alpha`, away from the light."""
  size, light = image.shape[1], canvas.light
  scale = canvas.pose.scale
  length = 0.16 * scale * size / max(0.5, light.z)
  blur = max(0.4, 0.07 * scale * size)
  pad = math.ceil(length + 2 * blur) + 1
  height, width = alpha.shape
  plate = Image.new('L', (width + 2 * pad, height + 2 * pad))
  plate.paste(Image.fromarray((alpha * 255).astype(np.uint8)), (pad, pad))
  soft = np.asarray(plate.filter(ImageFilter.BoxBlur(blur)), np.float32)
  x = canvas.left - pad - round(light.x * length)
  y = canvas.top - pad - round(light.y * length)
  x0, y0 = max(0, x), max(0, y)
  x1, y1 = min(size, x + soft.shape[1]), min(size, y + soft.shape[0])
  if x1 > x0 and y1 > y0:
    part = soft[y0 - y : y1 - y, x0 - x : x1 - x]
    image[:, y0:y1, x0:x1] *= 1 - part * np.float32(strength / 255)


def _daylight(
  image: np.ndarray, rng: Rng, light: canvas_lib.Light, size: int
) -> None:
  """Exposure, colour of the light, and its fall-off across the image."""
  line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
  slope = rng.uniform(0.0, 0.45)
  gain = rng.uniform(0.8, 1.18)
  across = np.float32(slope * light.x) * line
  down = np.float32(slope * light.y) * line
  image *= np.float32(gain) * (1 + across[None, :] + down[:, None])
  warmth, tint = rng.around(0, 0.09), rng.around(0, 0.03)
  image *= np.array([1 + warmth, 1 + tint, 1 - warmth], np.float32).reshape(
    3, 1, 1
  )


def _camera(image: np.ndarray, rng: Rng, size: int) -> np.ndarray:
  """Slight blur and sensor noise; uint8 [h, w, 3]."""
  # Blur in image lengths, so that a larger image is not a sharper scene.
  radius = rng.uniform(0.0, 0.006) * size
  spread = min(0.3, radius * radius)
  if spread > 0.02:
    for axis in (1, 2):
      inner = np.s_[:, 1:-1] if axis == 1 else np.s_[:, :, 1:-1]
      before = np.s_[:, :-2] if axis == 1 else np.s_[:, :, :-2]
      after = np.s_[:, 2:] if axis == 1 else np.s_[:, :, 2:]
      mixed = (image[before] + image[after]) * np.float32(spread)
      mixed += image[inner] * np.float32(1 - 2 * spread)
      image[inner] = mixed
  grey = canvas_lib.white(size, rng.below(512), rng.below(512))
  level = rng.uniform(0.004, 0.022)
  image += grey * np.float32(level)
  np.clip(image, 0.0, 1.0, out=image)
  image *= 255
  image += 0.5
  return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))


def render(
  layout: Layout, rngs: list[Rng], size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Renders a layout.

  Args:
    layout: what to draw.
    rngs: one for ground and camera each, then one for each thing.
    size: side of the image in pixels.

  Returns:
    Image uint8 [size, size, 3] and mask uint8 [size, size], an index into
    `layout.CLASS_NAMES`.
  """
  image = grounds.paint(layout.ground, rngs[0], layout.light, size)
  image = np.ascontiguousarray(image, np.float32)
  mask = np.full(
    (size, size), layout_lib.CLASS_NAMES.index(layout.ground), np.uint8
  )
  oversample = 2 if size <= 128 else 1
  strength = rngs[1].uniform(0.2, 0.6)
  for thing, own in zip(layout.things, rngs[2:], strict=False):
    canvas = Canvas(thing.pose, layout.light, size, oversample, _REACH)
    objects.PAINTERS[thing.name](canvas, own, thing.tone)
    colours, alpha = canvas.downsample()
    _shadow(image, canvas, alpha, strength)
    rows = slice(canvas.top, canvas.top + canvas.size_y)
    columns = slice(canvas.left, canvas.left + canvas.size_x)
    under = image[:, rows, columns]
    under *= 1 - alpha
    under += colours * np.float32(own.uniform(0.88, 1.1))
    mask[rows, columns][alpha >= 0.5] = layout_lib.CLASS_NAMES.index(thing.name)
  _daylight(image, rngs[1], layout.light, size)
  return _camera(image, rngs[1], size), mask
