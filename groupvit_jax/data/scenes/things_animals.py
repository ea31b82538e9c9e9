"""How animals are painted: bird, butterfly, cat, fish, starfish.

`things` says what a painter is.
"""

import math

import numpy as np

from groupvit_jax.data.scenes import canvas as cv
from groupvit_jax.data.scenes.canvas import Canvas
from groupvit_jax.data.scenes.dice import Dice
from groupvit_jax.data.scenes.things_parts import (
  DARK,
  WHITE,
  Tone,
  blend_up,
  colour,
  eye,
)


def bird(g: Canvas, dice: Dice, tone: Tone):
  """A songbird from the side: tail, body, head, folded wing, beak, legs."""
  dark = colour(tone, 0.0, 1.0, 0.62)
  leg = cv.rgb(0.07, 0.6, 0.4)
  for x in (-0.08, 0.14):
    foot = x + 0.03
    g.stroke(((x, 0.4), (foot, 0.86), (foot + 0.16, 0.9)), 0.032, leg)
  lift = dice.uniform(-0.1, 0.35)
  g.convex(
    ((-0.35, 0.0), (-0.3, 0.3), (-1.02, 0.36 - lift), (-1.05, 0.16 - lift)),
    dark,
    radius=0.03,
  )
  beak = cv.rgb(dice.uniform(0.07, 0.14), 0.8, dice.uniform(0.35, 0.95))
  length = dice.uniform(0.95, 1.12)
  g.convex(((0.72, -0.5), (0.74, -0.3), (length, -0.36)), beak, radius=0.015)
  body = cv.ellipse(g.x, g.y, 0, 0.1, 0.62, dice.uniform(0.4, 0.48), -0.35)
  head = np.hypot(g.x - 0.5, g.y + 0.4) - dice.uniform(0.28, 0.34)
  both = cv.smooth_union(body, head, 0.3)
  g.paint(both, colour(tone))
  pale = cv.rgb(dice.choice((0.06, 0.1, 0.13)), dice.uniform(0.05, 0.6), 0.92)
  belly = cv.ellipse(g.x, g.y, 0.2, 0.3, 0.55, 0.28, -0.6)
  g.tint(cv.smooth(0.12, -0.12, belly) * 0.9, pale)
  down = g.noise('rough', 0.8, dice, 1.6)
  g.shade(1 + 0.07 * down)
  g.relief(cv.dome(both, 0.4, 0.36))
  if dice.chance(0.4):
    g.ellipse(0.5, -0.6, 0.25, 0.11, -0.1, dark, on=True)
  window = g.window(-0.15, 0.08, 0.6)
  x, y = g.x[window], g.y[window]
  wing = cv.lens(x, y, (0.32, -0.12), (-0.62, 0.26), 0.22)
  wing = np.maximum(wing, -np.hypot(x - 0.3, y + 0.75) + 0.62)
  cover = g.paint(wing, dark, window)
  feathers = np.sin((x * 0.4 + y) * dice.uniform(26, 40))
  pale_edge = blend_up(tone)
  g.tint(cover * cv.smooth(0.4, 1.0, feathers) * 0.7, pale_edge, window)
  eye(g, 0.58, -0.46, 0.065)


def butterfly(g: Canvas, dice: Dice, tone: Tone):
  """Four wings with dark borders, veins and spots, body and feelers."""
  x, y = np.abs(g.x), g.y
  spread = dice.uniform(0.45, 0.62)
  rise = dice.uniform(0.30, 0.42)
  upper = cv.ellipse(x, y, 0.5, -rise, 0.56, 0.36, -0.75)
  lower = cv.ellipse(x, y, 0.4, 0.4, 0.44, dice.uniform(0.28, 0.34), spread)
  if dice.chance(0.35):
    tail = cv.capsule(x, y, (0.5, 0.6), (0.62, 0.95), 0.07, 0.03)
    lower = cv.smooth_union(lower, tail, 0.12)
  wings = np.minimum(upper, lower)
  g.paint(wings, colour(tone))
  second = colour(tone, dice.choice((0.05, -0.06, 0.12)), 0.9, 1.2)
  g.tint(cv.smooth(0.5, 0.05, np.hypot(x, y)) * 0.8, second)
  # Veins fan out from where the wings join.
  veins = np.abs(np.sin(np.arctan2(y, x + 0.05) * dice.choice((6, 7, 8))))
  g.tint(cv.smooth(0.22, 0.06, veins) * cv.smooth(0.2, 0.4, x) * 0.75, DARK)
  border = dice.uniform(0.05, 0.12)
  ragged = wings + 0.03 * np.sin(np.arctan2(y, x) * 26)
  g.tint(cv.smooth(-border - 0.04, -border + 0.02, ragged), DARK)
  dots = dice.chance(0.75)
  spot = WHITE if dice.chance(0.6) else second
  if dots:
    for side in (-1, 1):
      for dx, dy in ((0.86, -0.62), (0.93, -0.42), (0.72, 0.55), (0.55, 0.68)):
        g.disc(side * dx * 0.93, dy * 0.95, 0.045, spot, on=True)
      if tone[2] > 0.3:
        g.disc(side * 0.52, -0.36, 0.09, DARK, on=True)
        g.disc(side * 0.52, -0.36, 0.045, spot, on=True)
  scales = g.noise('grain', 0.9, dice)
  g.shade(1 + 0.06 * scales + 0.12 * g.light.x * np.sign(g.x))
  for side in (-1, 1):
    bend = (side * 0.2, -0.75)
    g.stroke(((0, -0.4), bend, (side * 0.32, -0.92)), 0.022, DARK)
    g.disc(side * 0.32, -0.92, 0.04, DARK)
  g.stroke(((0, -0.42), (0, 0.5)), 0.085, cv.rgb(0.08, 0.4, 0.16), taper=0.6)
  g.disc(0, -0.45, 0.09, cv.rgb(0.08, 0.4, 0.12))


def cat(g: Canvas, dice: Dice, tone: Tone):
  """A cat's face: ears, fur, muzzle, eyes, nose, whiskers, often tabby."""
  dark = colour(tone, 0.0, 1.05, 0.55)
  ear = dice.uniform(0.86, 1.0)
  width = dice.uniform(0.74, 0.82)
  face = cv.ellipse(g.x, g.y, 0, 0.14, width, 0.66)
  cheeks = cv.ellipse(np.abs(g.x), g.y, 0.42, 0.36, 0.4, 0.34)
  head = cv.smooth_union(face, cheeks, 0.2)
  x = np.abs(g.x)
  ears = cv.convex(x, g.y, ((0.14, -0.36), (0.7, -0.05), (0.66, -ear))) - 0.03
  head = cv.smooth_union(head, ears, 0.06)
  fur = g.noise('rough', 0.5, dice, 1.4)
  head = head + 0.012 * fur
  g.paint(head, colour(tone))
  if dice.chance(0.55):
    wave = np.sin(np.hypot(g.x * 1.2, g.y - 0.25) * dice.uniform(20, 27))
    stripes = cv.smooth(0.1, 0.7, wave + 0.5 * fur)
    where = cv.smooth(0.34, 0.6, np.hypot(g.x * 0.8, g.y - 0.25))
    g.tint(stripes * where * 0.75, dark)
  elif dice.chance(0.5):
    patch = g.noise('cloud', 0.4, dice)
    other = WHITE if tone[2] < 0.7 else cv.rgb(0.07, 0.6, 0.3)
    g.tint(cv.smooth(0.3, 0.45, patch), other)
  g.shade(1 + 0.09 * fur)
  g.relief(cv.dome(head, 0.5, 0.34))
  pink = cv.rgb(0.98, 0.35, 0.82)
  for side in (-1, 1):
    inner = ((0.33, -0.42), (0.58, -0.3), (0.6, -ear + 0.17))
    g.convex([(side * a, b) for a, b in inner], pink, opacity=0.85)
  pale = cv.rgb(0.1, 0.12, 0.95)
  for side in (-1, 1):
    g.ellipse(side * 0.15, 0.46, 0.24, 0.19, 0, pale, on=True, opacity=0.85)
  g.ellipse(0, 0.62, 0.16, 0.1, 0, pale, on=True, opacity=0.85)
  iris = cv.rgb(dice.choice((0.15, 0.22, 0.3, 0.55)), 0.7, 0.85)
  slit = dice.uniform(0.035, 0.09)
  for side in (-1, 1):
    ex = side * 0.33
    g.ellipse(ex, 0.08, 0.18, 0.145, side * 0.2, DARK)
    g.ellipse(ex, 0.08, 0.155, 0.12, side * 0.2, iris)
    g.ellipse(ex, 0.08, slit, 0.115, 0, DARK)
    g.disc(ex - 0.05, 0.03, 0.03, WHITE)
  g.convex(
    ((-0.1, 0.3), (0.1, 0.3), (0, 0.41)), cv.rgb(0.97, 0.5, 0.7), radius=0.02
  )
  g.stroke(((0, 0.4), (0, 0.5)), 0.02, DARK)
  for side in (-1, 1):
    g.stroke(((0, 0.5), (side * 0.12, 0.56), (side * 0.22, 0.52)), 0.02, DARK)
    for drop in (-0.05, 0.06):
      start = (side * 0.25, 0.44 + drop)
      g.stroke((start, (side * 0.86, 0.4 + drop * 2.4)), 0.012, WHITE, on=True)


def fish(g: Canvas, dice: Dice, tone: Tone):
  """Body with scales or stripes, forked tail, fins, gill, eye."""
  fin = colour(tone, dice.around(0, 0.05), 0.9, dice.uniform(0.65, 1.05))
  deep = dice.uniform(0.38, 0.52)
  tail = dice.uniform(0.3, 0.42)
  g.convex(((-0.5, 0.02), (-1.0, -tail), (-0.78, 0.04)), fin, radius=0.03)
  g.convex(((-0.5, -0.02), (-1.0, tail), (-0.78, -0.04)), fin, radius=0.03)
  g.convex(
    ((-0.3, -0.25), (0.3, -0.3), (-0.05, -deep - 0.24), (-0.34, -deep - 0.14)),
    fin,
    radius=0.03,
  )
  g.convex(((-0.1, 0.28), (0.2, 0.3), (-0.12, deep + 0.2)), fin, radius=0.03)
  rays = np.sin((g.x * 0.3 + g.y) * 48)
  g.shade(1 + 0.12 * rays)
  body = cv.lens(g.x, g.y, (-0.76, 0), (1.02, 0), deep)
  body = cv.smooth_union(
    body, cv.ellipse(g.x, g.y, 0.32, 0, 0.5, deep * 0.86), 0.2
  )
  cover = g.paint(body, colour(tone))
  belly = cv.rgb(tone[0], tone[1] * 0.2, 0.95)
  g.tint(cover * cv.smooth(0.0, deep, g.y) * 0.8, belly)
  g.tint(cover * cv.smooth(0.0, -deep, g.y) * 0.45, colour(tone, 0, 1, 0.5))
  pattern = dice.choice(('scales', 'scales', 'bars', 'lines'))
  if pattern == 'scales':
    # Overlapping rows, each scale a rounded plate with a dark rim.
    u = g.x * np.float32(dice.uniform(6.5, 9.5))
    column = np.floor(u)
    v = g.y * np.float32(9.0) + column * np.float32(0.5)
    plate = np.hypot(u - column, (v - np.floor(v) - 0.5) * 1.3)
    where = cover * cv.smooth(0.5, 0.3, g.x)
    g.shade(1 + where * (0.1 - 0.36 * cv.smooth(0.55, 1.0, plate)))
  elif pattern == 'bars':
    bar = np.abs((g.x * 2.1 + dice.unit() + 0.1 * np.cos(g.y * 4)) % 1 - 0.5)
    ink = WHITE if tone[2] > 0.6 and dice.chance(0.6) else DARK
    g.tint(cover * cv.smooth(0.16, 0.11, bar) * 0.92, ink)
  else:
    line = np.abs(g.y + 0.05 * np.sin(g.x * 5) + dice.uniform(-0.1, 0.1)) - 0.07
    ink = cv.rgb(tone[0] + 0.5, 0.6, dice.uniform(0.2, 0.9))
    g.tint(cover * cv.smooth(0.02, -0.02, line), ink)
  g.relief(cv.dome(body, 0.4, 0.3), shine=dice.uniform(0.1, 0.5))
  gill = np.abs(np.hypot(g.x - 0.72, g.y) - 0.36) - 0.02
  g.tint(
    cover
    * cv.smooth(0.025, 0.0, gill)
    * (g.x < 0.5)
    * (np.abs(g.y) < 0.25)
    * 0.7,
    colour(tone, 0, 1.1, 0.4),
  )
  g.ellipse(0.18, 0.12, 0.18, 0.08, 0.5, fin, on=True, opacity=0.8)
  g.disc(0.66, -0.1, 0.115, WHITE)
  eye(g, 0.68, -0.1, 0.075)


def starfish(g: Canvas, dice: Dice, tone: Tone):
  """Five tapering, slightly bent arms with rows of bumps."""
  twist = dice.uniform(-0.35, 0.35)
  radius = np.hypot(g.x, g.y)
  bearing = np.arctan2(g.x, -g.y) + np.float32(twist) * radius
  slice_ = 2 * math.pi / 5
  folded = (bearing + slice_ / 2) % slice_ - slice_ / 2
  along, across = radius * np.cos(folded), radius * np.sin(folded)
  thick = dice.uniform(0.26, 0.34)
  arm = cv.capsule(
    along, across, (0, 0), (0.88, 0), thick, dice.uniform(0.06, 0.12)
  )
  # Arms melt into each other near the middle.
  mirrored = slice_ - np.abs(folded)
  next_arm = cv.capsule(
    radius * np.cos(mirrored), radius * np.sin(mirrored), (0, 0), (0.88, 0),
    thick, 0.08,
  )  # fmt: skip
  body = cv.smooth_union(arm, next_arm, 0.16)
  g.paint(body, colour(tone))
  pale = blend_up(tone)
  g.tint(cv.smooth(-0.14, 0.0, body) * 0.5, colour(tone, 0.01, 1.05, 0.65))
  skin = g.noise('gap', 0.45, dice)
  g.tint(cv.smooth(0.25, 0.6, skin) * 0.35, pale)
  ridge = np.abs(across)
  beads = cv.smooth(0.35, 0.9, np.cos(along * dice.uniform(42, 56)))
  row = cv.smooth(0.055, 0.025, ridge) * cv.smooth(0.86, 0.8, along)
  g.tint(beads * row * 0.9, cv.rgb(0.11, 0.2, 0.97))
  if dice.chance(0.5):
    side = cv.smooth(0.03, 0.01, np.abs(body + 0.08))
    g.tint(beads * side * 0.8, cv.rgb(0.11, 0.2, 0.97))
  g.relief(cv.dome(body, 0.28, 0.22) + 0.03 * cv.smooth(0.2, 0.6, skin))
