"""How what grows is painted: apple, cactus, flower, leaf, mushroom.

`things` says what a painter is.
"""

import math

import numpy as np

from groupvit_jax.data.scenes import canvas as cv
from groupvit_jax.data.scenes.canvas import Canvas
from groupvit_jax.data.scenes.dice import Dice
from groupvit_jax.data.scenes.things_parts import Tone, blend_up, colour


def apple(g: Canvas, dice: Dice, tone: Tone):
  """Two lobes, streaks from the stem, freckles; stem and often a leaf."""
  # A circle, narrower below, with a deep dip at the stalk, a shallow one below.
  x = g.x * (1 + np.float32(dice.uniform(0.06, 0.24)) * g.y)
  y = (g.y - np.float32(0.12)) * np.float32(dice.uniform(0.94, 1.06))
  above = np.arctan2(np.abs(x), -y)
  dip = np.exp(above * above * np.float32(-5.0)) * np.float32(0.17)
  below = above - np.float32(math.pi)
  dip += np.exp(below * below * np.float32(-9.0)) * np.float32(0.06)
  body = np.hypot(x, y) - (np.float32(0.79) - dip)
  g.paint(body, colour(tone))
  # Streaks run from pole to pole: noise over the bearing from the dimple.
  bearing = np.arctan2(g.x, g.y + 1.3)
  blush = g.noise('rough', 0.35, dice) * 0.5 + 0.5 * np.sin(
    bearing * dice.uniform(14, 26) + dice.unit() * 6
  )
  other = colour(tone, dice.choice((0.07, 0.1, -0.03)), 0.85, 1.15)
  g.tint(
    cv.smooth(-0.1, 1.6, blush) * np.float32(dice.uniform(0.3, 0.9)), other
  )
  freckles = cv.smooth(1.6, 2.2, g.noise('grain', 1.1, dice))
  g.tint(freckles * 0.5, cv.rgb(0.13, 0.3, 0.95))
  dimple = g.window(0, -0.42, 0.3)
  dent = cv.ellipse(g.x[dimple], g.y[dimple], 0, -0.44, 0.26, 0.1)
  g.tint(cv.smooth(0.1, -0.1, dent) * 0.6, cv.rgb(0.1, 0.7, 0.2), dimple)
  g.relief(cv.dome(body, 0.75, 0.62), shine=dice.uniform(0.3, 0.8))
  lean = dice.around(0, 0.2)
  bark = cv.rgb(0.08, 0.5, dice.uniform(0.2, 0.35))
  g.stroke(((0, -0.42), (lean * 0.4, -0.65), (lean, -0.86)), 0.05, bark)
  if dice.chance(0.65):
    side = dice.choice((-1, 1))
    tip = (side * dice.uniform(0.5, 0.65), -dice.uniform(0.7, 0.95))
    green = cv.rgb(dice.around(0.29, 0.04), 0.7, dice.uniform(0.4, 0.6))
    window = g.window(side * 0.3, -0.72, 0.45)
    x, y = g.x[window], g.y[window]
    g.paint(cv.lens(x, y, (0.02, -0.6), tip, 0.13), green, window)
    g.stroke(((0.02, -0.6), tip), 0.015, cv.rgb(0.25, 0.5, 0.75), on=True)


def cactus(g: Canvas, dice: Dice, tone: Tone):
  """A ribbed column with arms or a round barrel, spines, often a pot."""
  potted = dice.chance(0.45)
  foot = 0.55 if potted else 0.95
  if dice.chance(0.7):
    width = dice.uniform(0.2, 0.26)
    body = cv.capsule(g.x, g.y, (0, -0.7), (0, foot), width, width * 1.05)
    across = g.x / np.float32(width)
    for side in (-1, 1):
      if not dice.chance(0.85):
        continue
      low, high = dice.uniform(0.0, 0.35), dice.uniform(-0.6, -0.25)
      out = side * dice.uniform(0.52, 0.66)
      arm = cv.capsule(g.x, g.y, (0, low), (out, low - 0.08), 0.12, 0.14)
      rise = cv.capsule(g.x, g.y, (out, low - 0.08), (out, high), 0.14, 0.13)
      arm = np.minimum(arm, rise)
      across = np.where(arm < body, (g.x - out) / np.float32(0.14), across)
      body = cv.smooth_union(body, arm, 0.1)
    ribs = 6.5
  else:
    body = cv.ellipse(g.x, g.y, 0, foot - 0.62, 0.66, dice.uniform(0.6, 0.8))
    across = np.arcsin(np.clip(g.x / np.float32(0.66), -1, 1)) * 1.0
    ribs = dice.uniform(9, 12)
  body = np.maximum(body, g.y - np.float32(foot))
  g.paint(body, colour(tone))
  wave = np.cos(across * np.float32(ribs))
  g.shade(0.85 + 0.15 * wave)
  g.tint(cv.smooth(0.8, 1.0, wave) * 0.25, blend_up(tone))
  g.relief(cv.dome(body, 0.24, 0.2))
  spines = cv.smooth(0.6, 1.0, wave) * cv.smooth(0.55, 0.95, np.sin(g.y * 38))
  g.tint(spines * 0.85, cv.rgb(0.14, 0.2, 0.95))
  if dice.chance(0.45):
    bloom = cv.rgb(dice.uniform(0.86, 1.0), 0.65, 0.92)
    top = -0.9 if ribs == 6.5 else foot - 1.32
    for turn in (-0.7, 0.0, 0.7):
      dx = 0.09 * math.sin(turn)
      g.ellipse(dx, top - 0.03, 0.05, 0.1, turn, bloom)
  if potted:
    clay = (
      dice.around(0.045, 0.02),
      dice.uniform(0.5, 0.7),
      dice.uniform(0.5, 0.75),
    )
    pot = cv.convex(
      g.x, g.y, ((-0.5, 0.42), (0.5, 0.42), (0.36, 1), (-0.36, 1))
    )
    rim = cv.convex(
      g.x, g.y, ((-0.56, 0.4), (0.56, 0.4), (0.54, 0.58), (-0.54, 0.58))
    )
    cover = g.paint(pot, cv.rgb(*clay))
    rim_cover = g.paint(rim, cv.rgb(clay[0], clay[1], clay[2] * 1.12))
    under = cv.smooth(0.7, 0.58, g.y) * (1 - rim_cover)
    g.shade(1 - cover * 0.35 * under)
    round_off = 1 - 0.3 * np.abs(g.x - 0.35 * g.light.x)
    g.shade(1 + np.maximum(cover, rim_cover) * (round_off - 1))


def flower(g: Canvas, dice: Dice, tone: Tone):
  """Petals around an eye of florets; sometimes stem and leaves."""
  stem = dice.chance(0.5)
  cy = -0.32 if stem else 0.0
  size = 0.64 if stem else 0.96
  if stem:
    green = cv.rgb(dice.around(0.3, 0.04), 0.65, dice.uniform(0.35, 0.55))
    bend = dice.uniform(-0.12, 0.12)
    g.stroke(((0, cy), (bend, 0.4), (bend * 0.5, 1.0)), 0.06, green)
    for side in (-1, 1):
      tip = (side * dice.uniform(0.4, 0.55), dice.uniform(0.3, 0.5))
      window = g.window(side * 0.27, 0.6, 0.5)
      blade = cv.lens(g.x[window], g.y[window], (bend * 0.8, 0.78), tip, 0.11)
      g.paint(blade, green, window)
      g.stroke(
        ((bend * 0.8, 0.78), tip), 0.015, cv.rgb(0.26, 0.5, 0.7), on=True
      )
  x, y = g.x * np.float32(1 / size), (g.y - cy) * np.float32(1 / size)
  count = dice.choice((5, 6, 8, 8, 11, 13))
  slice_ = 2 * math.pi / count
  bearing = np.arctan2(y, x) + dice.unit() * 6
  radius = np.hypot(x, y)
  folded = (bearing + slice_ / 2) % slice_ - slice_ / 2
  px, py = radius * np.cos(folded), radius * np.sin(folded)
  plump = min(0.42, dice.uniform(0.85, 1.1) * math.sin(slice_ / 2) * 0.66)
  petal = cv.ellipse(px, py, 0.6, 0, 0.38, plump)
  petal = np.minimum(petal, cv.ellipse(px, py, 0.35, 0, 0.3, plump * 0.7))
  petal *= np.float32(size)
  cover = g.paint(petal, colour(tone))
  inner = colour(
    tone, dice.choice((0.0, 0.06, -0.08)), dice.uniform(0.3, 1.2), 1.1
  )
  g.tint(cover * cv.smooth(0.75, 0.25, radius) * 0.8, inner)
  veins = np.abs(np.sin(py * 34))
  g.shade(1 - cover * 0.16 * cv.smooth(0.4, 0.0, veins))
  fold = cv.smooth(plump * 0.55, plump * 1.05, np.abs(py))
  g.shade(1 - cover * 0.3 * fold)
  g.relief(cv.dome(petal, 0.2, 0.1))
  eye = dice.uniform(0.2, 0.3) if count > 6 else dice.uniform(0.14, 0.22)
  seed = dice.around(0.11, 0.04), 0.85, dice.uniform(0.4, 0.95)
  window = g.window(0, cy, eye * size)
  disc = np.hypot(g.x[window], g.y[window] - cy) - eye * size
  cover = g.paint(disc, cv.rgb(*seed), window)
  florets = np.sin(g.x[window] * 70) * np.sin(g.y[window] * 70)
  ring = cv.smooth(-0.08, 0.0, disc)
  g.shade(1 + cover * (0.25 * florets - 0.3 * ring), window)


def leaf(g: Canvas, dice: Dice, tone: Tone):
  """A blade (ovate, lobed or maple), midrib, side veins, worn edges."""
  kind = dice.choice(('ovate', 'ovate', 'oak', 'maple'))
  x, y = g.x, g.y + np.float32(0.12)
  vein = blend_up(tone) if tone[2] < 0.8 else colour(tone, -0.02, 1.0, 0.6)
  if kind == 'maple':
    bearing = np.arctan2(x, -y)
    # Five points; 0 on the rib of a lobe, 1 in the notch between two.
    notch = np.abs((bearing * (2.5 / math.pi) + 0.5) % 1.0 - 0.5) * 2
    teeth = np.abs(np.sin(bearing * 12.5))
    rim = 0.92 - np.float32(dice.uniform(0.36, 0.46)) * notch**0.6
    rim = rim + 0.11 * teeth * cv.smooth(0.0, 0.5, notch)
    rim = rim * (1 - 0.3 * cv.smooth(1.4, 2.6, np.abs(bearing)))
    radius = np.hypot(x, y)
    blade = (radius - rim) * 0.45
    ribs = np.abs(np.sin(bearing * 2.5)) * radius
    ribs = ribs + (np.abs(bearing) > 2.6)
    side = np.abs(np.sin(radius * 22 + 6 * np.abs(np.sin(bearing * 2.5))))
  else:
    wide = dice.uniform(0.36, 0.5) if kind == 'ovate' else 0.48
    bend = dice.uniform(-0.15, 0.15)
    x = x + np.float32(bend) * (y * y - 0.4)
    blade = cv.lens(x, y, (0, -0.88), (0, 0.8), wide)
    egg = cv.ellipse(x, y, 0, 0.18, wide * 0.96, 0.55)
    blade = cv.smooth_union(blade, egg, 0.1)
    if kind == 'oak':
      blade = blade + 0.13 * (np.cos(y * 13) * cv.smooth(0.05, 0.35, np.abs(x)))
    elif dice.chance(0.5):
      blade = blade + 0.025 * np.abs(np.sin((y + np.abs(x)) * 20))
    ribs = np.abs(x)
    side = np.abs(np.sin((y + np.abs(x) * dice.uniform(0.7, 1.1)) * 13))
  g.stroke(((0, 0.0), (dice.uniform(-0.1, 0.1), 0.98)), 0.04, vein)
  g.paint(blade, colour(tone))
  mottle = g.noise('rough', 0.45, dice)
  other = colour(
    tone, dice.choice((-0.05, 0.05, 0.08)), 1.0, dice.uniform(0.7, 1.2)
  )
  g.tint(
    cv.smooth(-0.3, 1.4, mottle) * np.float32(dice.uniform(0.3, 1.0)), other
  )
  if dice.chance(0.35):
    rust = cv.smooth(1.0, 1.5, g.noise('rough', 0.7, dice))
    g.tint(rust * 0.8, cv.rgb(0.07, 0.6, 0.3))
  g.tint(cv.smooth(-0.09, 0.0, blade) * 0.4, colour(tone, -0.03, 1.0, 0.55))
  g.tint(cv.smooth(0.22, 0.05, side) * cv.smooth(0.5, 0.05, ribs) * 0.55, vein)
  g.tint(cv.smooth(0.045, 0.02, ribs), vein)
  g.relief(
    cv.dome(blade, 0.3, 0.1) + 0.012 * mottle - 0.02 * cv.smooth(0.3, 0, side)
  )


def mushroom(g: Canvas, dice: Dice, tone: Tone):
  """A domed cap, spotted or plain, gills below, a stem with a ring."""
  pale = (
    dice.around(0.1, 0.03),
    dice.uniform(0.08, 0.3),
    dice.uniform(0.8, 0.95),
  )
  width = dice.uniform(0.17, 0.26)
  window = g.window(0, 0.45, 0.65)
  x, y = g.x[window], g.y[window]
  stem = cv.capsule(x, y, (0, -0.1), (0, 0.72), width * 0.85, width * 1.2)
  cover = g.paint(stem, cv.rgb(*pale), window)
  fibre = np.sin(x * 60 + 2 * np.sin(y * 5))
  round_off = np.abs(x - 0.1 * g.light.x) / width
  g.shade(1 + cover * (0.06 * fibre - 0.3 * round_off), window)
  wide = dice.uniform(0.8, 0.95)
  brim = dice.uniform(0.02, 0.12)
  gills = cv.ellipse(g.x, g.y, 0, brim, wide * 0.92, 0.17)
  cover = g.paint(gills, cv.rgb(pale[0], pale[1] + 0.1, pale[2] * 0.72))
  lamellae = np.sin(np.arctan2(g.y + 0.8, g.x) * 70)
  g.shade(1 - cover * 0.2 * cv.smooth(0, 1, lamellae))
  tall = dice.uniform(0.72, 0.98)
  cap = cv.ellipse(g.x, g.y, 0, brim, wide, tall)
  cap = np.maximum(cap, g.y - brim - 0.08 * (1 - (g.x / np.float32(wide)) ** 2))
  cover = g.cover(cap)
  low = g.cover(cap - 0.05) * (1 - cover)
  g.shade(1 - 0.35 * low)
  g.paint(cap, colour(tone))
  g.tint(
    cover * cv.smooth(-0.3, brim, g.y) * 0.5, colour(tone, 0.02, 0.9, 0.65)
  )
  shade = g.noise('cloud', 0.5, dice)
  g.shade(1 + cover * 0.08 * shade)
  if dice.chance(0.7 if tone[1] > 0.7 else 0.3):
    fleck = cv.rgb(0.12, 0.1, 0.95)
    spots = ((0, -0.62), (-0.38, -0.42), (0.4, -0.46), (0.06, -0.26))
    spots += ((-0.62, -0.1), (0.64, -0.14), (-0.3, -0.06), (0.34, -0.06))
    for sx, sy in spots:
      size = dice.uniform(0.05, 0.12)
      dx, dy = dice.around(0, 0.06), dice.around(0, 0.05)
      sy = sy * tall / 0.85
      g.ellipse(
        (sx + dx) * wide / 0.9, sy + dy, size, size * 0.8, sx, fleck, on=True
      )
  inside = np.minimum(cv.dome(cap, 0.55, 0.45), 1)
  g.relief(inside, shine=dice.uniform(0.0, 0.5))
