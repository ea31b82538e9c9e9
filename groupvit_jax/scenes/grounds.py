"""How each ground is painted: layers of periodic noise, seen at a slant.

A painter takes (view, rng) and returns linear colours; `view` samples noise
at ground coordinates, in which the image is about one unit wide.
"""

import math

import numpy as np
from jaxtyping import Float32

from groupvit_jax.scenes import canvas
from groupvit_jax.scenes.canvas import Light, Number, Value, blend, rgb, smooth
from groupvit_jax.scenes.rng import Rng

Colours = Float32[np.ndarray, '3 h w']


class View:
  """Ground coordinates of every pixel, turned, scaled and tilted.

  Fields: u, v (float32 [size, size]), step (pixel width), light (its
  direction on the ground: unit vector (x, y)).
  """

  def __init__(self, rng: Rng, light: Light, size: int, turn: float):
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = line[None, :], line[:, None]
    # A mild tilt of the camera: what is higher up lies further away.
    tilt = rng.uniform(0.0, 0.7)
    depth = 1.0 / (1.0 + np.float32(tilt) * y)
    zoom = rng.uniform(0.8, 1.5)
    cos, sin = math.cos(turn) * zoom, math.sin(turn) * zoom
    x = x * depth
    y = y * depth * np.float32(1 + tilt)
    offset = rng.unit(), rng.unit()
    self.u = x * np.float32(cos) - y * np.float32(sin) + np.float32(offset[0])
    self.v = x * np.float32(sin) + y * np.float32(cos) + np.float32(offset[1])
    self.step = zoom / size
    flat = math.hypot(light.x, light.y) + 1e-6
    self.light = (
      (light.x * math.cos(turn) - light.y * math.sin(turn)) / flat,
      (light.x * math.sin(turn) + light.y * math.cos(turn)) / flat,
    )

  def noise(
    self,
    name: str,
    along: Number,
    across: Number | None = None,
    shear: Number = 0.0,
    warp: Value = 0.0,
  ) -> np.ndarray:
    """A noise table over the ground.

    Args:
      name: the table, see `canvas.sample`.
      along: repeats per unit of u.
      across: repeats per unit of v; None means as many.
      shear: repeats along u per unit of v, which slants the pattern.
      warp: added to the table's coordinate across (a number or a map).

    Returns:
      float32 [size, size].
    """
    across = along if across is None else across
    u = self.u * np.float32(along)
    if shear:
      u += self.v * np.float32(shear)
    v = self.v * np.float32(across) + warp
    # Smooth tables need no coarser level across than along.
    repeats = min(along, across) if name == 'cloud' else max(along, across)
    return canvas.sample(name, u, v, self.step * repeats)

  def bumps(self, name: str, scale: Number, reach: Number = 0.02) -> np.ndarray:
    """Light on a bumpy ground: the noise's slope towards the light."""
    u, v = self.u * np.float32(scale), self.v * np.float32(scale)
    dx, dy = self.light[0] * reach, self.light[1] * reach
    step = self.step * scale
    here = canvas.sample(name, u - np.float32(dx), v - np.float32(dy), step)
    return here - canvas.sample(
      name, u + np.float32(dx), v + np.float32(dy), step
    )


def grass(view: View, rng: Rng) -> Colours:
  """Blades in two directions over patches, some of them dry."""
  hue, value = rng.uniform(0.20, 0.33), rng.uniform(0.34, 0.6)
  saturation = rng.uniform(0.5, 0.78)
  dense = rng.uniform(1.0, 2.0)
  blades = view.noise('blades', dense, dense * rng.uniform(0.6, 1.0))
  tufts = view.noise('rough', 0.8 * dense)
  tone = smooth(0.0, 1.0, 0.95 * blades + 0.10 * tufts)
  deep = rgb(hue + 0.05, saturation, value * 0.3)
  bright = rgb(hue - 0.02, saturation * 0.85, value * 1.75)
  out = blend(deep, bright, tone)
  dry = smooth(0.2, 2.2, view.noise('cloud', rng.uniform(0.5, 1.0)))
  straw = rgb(rng.uniform(0.12, 0.18), 0.5, value * 1.35)
  return blend(out, straw * (0.45 + 0.6 * tone), dry * rng.uniform(0.2, 0.8))


def sand(view: View, rng: Rng) -> Colours:
  """Grain, wind ripples, damp patches, a few dark and light specks."""
  hue, value = rng.uniform(0.075, 0.13), rng.uniform(0.66, 0.9)
  base = rgb(hue, rng.uniform(0.22, 0.45), value)
  cloud = view.noise('cloud', 0.7)
  wave = rng.uniform(30, 70)
  ripple = np.sin(view.v * np.float32(wave) + cloud * rng.uniform(1.0, 3.0))
  shade = rng.uniform(0.0, 0.11) * ripple
  shade += 0.045 * view.noise('grain', 2.2)
  shade += 0.10 * view.bumps('rough', rng.uniform(0.7, 1.4))
  damp = smooth(0.0, 2.2, view.noise('cloud', 0.45, warp=0.37))
  shade -= damp * rng.uniform(0.05, 0.3)
  specks = smooth(1.9, 2.4, view.noise('grain', 1.1))
  out = base * (1 + shade)
  dark = rgb(hue - 0.02, 0.4, value * rng.choice((0.4, 1.15)))
  return blend(out, dark, specks * 0.5)


def water(view: View, rng: Rng) -> Colours:
  """Crossing waves with crests that glint, over light and dark depths."""
  hue, value = rng.uniform(0.47, 0.62), rng.uniform(0.35, 0.68)
  saturation = rng.uniform(0.35, 0.75)
  scale = rng.uniform(0.8, 1.5)
  warp = 0.06 * view.noise('cloud', 0.8 * scale, shear=0.3)
  slant = rng.uniform(-0.5, 0.5)
  swell = view.noise('cloud', 0.8 * scale, 3.1 * scale, slant, warp)
  chop = view.noise('rough', 1.1 * scale, 4.3 * scale, 0.4 - slant, warp * 2)
  height = 0.6 * swell + 0.5 * chop
  crest = 1 - np.abs(height) * 1.1
  deep = rgb(hue + 0.02, saturation, value * 0.62)
  pale = rgb(hue - 0.03, saturation * 0.7, min(1.0, value * 1.35))
  out = blend(deep, pale, smooth(-1.2, 1.5, height))
  depth = smooth(-1.5, 1.5, view.noise('cloud', 0.4))
  out = out * (0.8 + 0.4 * depth)
  glint = smooth(0.6, 1.0, crest) * smooth(-0.3, 1.2, chop)
  return blend(out, rgb(hue, 0.08, 1.0), glint * rng.uniform(0.25, 0.8))


def snow(view: View, rng: Rng) -> Colours:
  """Low drifts with bluish hollows, crust, and glittering grains."""
  value = rng.uniform(0.8, 0.94)
  sunny = rgb(rng.choice((0.1, 0.58)), rng.uniform(0.0, 0.05), value)
  shadow = rgb(rng.uniform(0.57, 0.66), rng.uniform(0.1, 0.3), value * 0.6)
  # Wind carves long low ridges; crust and grains lie over them.
  along = rng.uniform(0.4, 0.8)
  ridge = view.noise('cloud', along, along * rng.uniform(1.0, 3.0))
  ridge = np.sin(ridge * np.float32(rng.uniform(1.5, 3.0))) * 0.5
  drift = view.bumps('cloud', rng.uniform(0.4, 0.8), 0.03)
  crust = view.bumps('rough', rng.uniform(1.2, 2.6), 0.008)
  grain = view.noise('grain', 1.8)
  tone = 0.82 + 0.16 * drift + 0.12 * ridge + 0.045 * grain
  tone += crust * rng.uniform(0.16, 0.42)
  out = blend(shadow, sunny, np.clip(tone, 0.0, 1.15))
  glitter = smooth(2.0, 2.6, view.noise('grain', 2.6))
  return blend(out, rgb(0, 0, 1.0), glitter * 0.8)


def brick(view: View, rng: Rng) -> Colours:
  """Courses of bricks, each its own tone, in rough mortar."""
  rows = rng.uniform(4.5, 8.0)
  long = rng.uniform(1.9, 2.6)
  y = view.v * np.float32(rows)
  row = np.floor(y)
  x = view.u * np.float32(rows / long) + row * np.float32(
    rng.choice((0.5, 0.33))
  )
  column = np.floor(x)
  # Distance to the joint, in brick heights.
  across = (0.5 - np.abs(x - column - 0.5)) * np.float32(long)
  along = 0.5 - np.abs(y - row - 0.5)
  rough = view.noise('rough', 1.6)
  joint = np.minimum(across, along) + 0.012 * rough
  gap = rng.uniform(0.05, 0.09)
  soft = max(0.03, view.step * rows * 0.7)
  face = smooth(gap - soft, gap + soft, joint)
  tone = np.sin(row * np.float32(127.1) + column * np.float32(311.7)) * 43.7
  tone = tone - np.floor(tone)
  hue, value = rng.uniform(0.005, 0.055), rng.uniform(0.42, 0.66)
  saturation = rng.uniform(0.4, 0.68)
  first = rgb(hue, saturation, value)
  second = rgb(hue + rng.uniform(0.0, 0.04), saturation * 0.7, value * 0.62)
  clay = blend(first, second, tone)
  clay = clay * (1 + 0.10 * rough + 0.07 * view.noise('grain', 1.7))
  mortar = rgb(0.09, rng.uniform(0.05, 0.2), rng.uniform(0.5, 0.8))
  out = blend(mortar * (1 + 0.08 * rough), clay, face)
  # The upper edge of a brick catches the light, the lower one is in shade.
  edge = smooth(gap + 0.14, gap, along) * face * np.sign(y - row - 0.5)
  return out * (1 + 0.16 * edge * np.float32(view.light[1]))


def wood(view: View, rng: Rng) -> Colours:
  """Boards with grain lines that bend round knots, and dark gaps."""
  boards = rng.uniform(2.5, 6.0)
  y = view.v * np.float32(boards)
  board = np.floor(y)
  lot = np.sin(board * np.float32(78.2)) * 43.7
  lot = lot - np.floor(lot)
  shift = lot * np.float32(7.3)
  u = view.u + shift
  bend = canvas.sample(
    'cloud', u * np.float32(0.35), view.v * np.float32(0.9) + shift, view.step
  )
  lines = np.sin(
    view.v * np.float32(rng.uniform(70, 130))
    + bend * np.float32(rng.uniform(4, 9))
  )
  fibre = canvas.sample(
    'rough',
    u * np.float32(0.6),
    view.v * np.float32(7.0),
    view.step * 2.5,
  )
  hue, value = rng.uniform(0.055, 0.105), rng.uniform(0.4, 0.8)
  saturation = rng.uniform(0.18, 0.62)
  light = rgb(hue, saturation, value)
  dark = rgb(hue - 0.015, min(1.0, saturation * 1.2), value * 0.55)
  tone = 0.5 + 0.22 * lines + 0.24 * fibre + 0.12 * bend
  out = blend(light, dark, np.clip(tone, 0, 1) * rng.uniform(0.55, 0.9))
  out = out * (0.82 + 0.36 * lot)
  gap = 0.5 - np.abs(y - board - 0.5)
  soft = view.step * boards
  return out * (0.3 + 0.7 * smooth(0.015, 0.04 + soft, gap))


def gravel(view: View, rng: Rng) -> Colours:
  """Rounded stones of many grays, lit from the side, dark between."""
  scale = rng.uniform(0.7, 1.3)
  gap = view.noise('gap', scale)
  tone = view.noise('tone', scale)
  relief = view.bumps('dome', scale, 0.014)
  small = view.noise('rough', 2.0)
  hue, value = rng.uniform(0.05, 0.65), rng.uniform(0.5, 0.75)
  cool = rgb(hue, rng.uniform(0.02, 0.12), value)
  warm = rgb(rng.uniform(0.04, 0.1), rng.uniform(0.08, 0.3), value * 0.6)
  out = blend(cool, warm, tone)
  shine = 0.85 + 0.4 * (np.abs(tone * 7.7 % 1.0) - 0.3)
  out = out * (shine + 0.5 * relief + 0.08 * small)
  return out * (0.28 + 0.72 * smooth(0.02, 0.3, gap))


_PAINTERS = {
  'brick': (brick, 0.15),
  'grass': (grass, 0.6),
  'gravel': (gravel, math.pi),
  'sand': (sand, math.pi),
  'snow': (snow, math.pi),
  'water': (water, 0.3),
  'wood': (wood, math.pi),
}


def paint(name: str, rng: Rng, light: Light, size: int) -> Colours:
  """Linear colours of a ground, about 0 to 1."""
  painter, freedom = _PAINTERS[name]
  view = View(rng, light, size, rng.uniform(-freedom, freedom))
  return painter(view, rng)
