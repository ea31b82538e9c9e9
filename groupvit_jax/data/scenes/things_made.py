"""How what people made is painted: ball and boat.

`things` says what a painter is.
"""

import math

import numpy as np

from groupvit_jax.data.scenes import canvas as cv
from groupvit_jax.data.scenes.canvas import Canvas
from groupvit_jax.data.scenes.dice import Dice
from groupvit_jax.data.scenes.things_parts import DARK, WHITE, Tone, colour


def ball(g: Canvas, dice: Dice, tone: Tone):
  """Beach ball, banded ball, football or basketball, turned in space."""
  edge = np.hypot(g.x, g.y) - 0.88
  g.paint(edge, colour(tone))
  x, y, z = _sphere(g, dice)
  soft = g.px * 1.2
  kind = dice.choice(('beach', 'band', 'spots', 'basket', 'star'))
  light = WHITE if tone[1] > 0.2 else cv.rgb(dice.unit(), 0.75, 0.75)
  if kind == 'beach':
    count = dice.choice((3, 4))
    wave = np.sin(np.arctan2(x, z) * count)
    g.tint(cv.smooth(-soft * 4, soft * 4, wave), light)
    third = cv.rgb(tone[0] + dice.uniform(0.2, 0.8), 0.75, 0.85)
    panel = np.sin(np.arctan2(x, z) * count * 0.5 + 0.8) > 0
    g.tint(cv.smooth(-soft * 4, soft * 4, wave) * panel * 0.85, third)
    g.tint(cv.smooth(0.95 - soft, 0.95 + soft, np.abs(y)), light)
  elif kind == 'band':
    width = dice.uniform(0.2, 0.45)
    g.tint(cv.smooth(width + soft, width - soft, np.abs(y)), light)
    thin = np.abs(np.abs(y) - width - 0.14) - 0.035
    g.tint(cv.smooth(soft, -soft, thin), light)
  elif kind == 'spots':
    # A football's twelve pentagons sit on the corners of an icosahedron.
    golden, ink = 0.85065, cv.rgb(tone[0] + 0.5, 0.3, 0.15)
    if tone[1] > 0.2:
      ink = WHITE
    near = np.maximum(
      np.abs(y) * 0.52573 + np.abs(x) * golden,
      np.maximum(
        np.abs(z) * 0.52573 + np.abs(y) * golden,
        np.abs(x) * 0.52573 + np.abs(z) * golden,
      ),
    )
    g.tint(cv.smooth(0.93 - soft, 0.93 + soft, near), ink)
  elif kind == 'basket':
    seam = np.minimum(np.abs(x), np.abs(y))
    seam = np.minimum(seam, np.abs(np.abs(x) - 0.62 - 0.2 * y * y))
    g.tint(cv.smooth(0.05 + soft, 0.03, seam), DARK)
    pimples = g.noise('grain', 1.6, dice)
    g.shade(1 + 0.06 * pimples)
  else:
    bearing = np.arctan2(x, z)
    arm = np.abs((bearing * (2.5 / math.pi)) % 1.0 - 0.5) * 2
    rim = 0.35 + 0.35 * arm
    height = np.hypot(x, z)
    star = (height < rim) * cv.smooth(rim, rim - 0.1, height)
    g.tint(star.astype(np.float32), light)
    g.tint(cv.smooth(0.06 + soft, 0.06 - soft, np.abs(y)), light)
  g.relief(cv.dome(edge, 0.88, 0.8), shine=dice.uniform(0.2, 0.9))


def _sphere(g: Canvas, dice: Dice):
  """Unit vectors on a ball of radius .88, turned at random."""
  x, y = g.x * np.float32(1 / 0.88), g.y * np.float32(1 / 0.88)
  z = np.sqrt(np.maximum(1.0 - x * x - y * y, 0.0))
  tilt, turn = dice.uniform(0.3, 1.2), dice.uniform(0, 6.3)
  c, s = np.float32(math.cos(tilt)), np.float32(math.sin(tilt))
  y, z = c * y - s * z, s * y + c * z
  c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
  return c * x - s * z, y, s * x + c * z


def boat(g: Canvas, dice: Dice, tone: Tone):
  """A sailing boat (two sails) or a little steamer, hull with a stripe."""
  trim = cv.rgb(dice.unit(), dice.uniform(0.0, 0.8), dice.uniform(0.3, 0.95))
  if dice.chance(0.65):
    _sails(g, dice, trim)
  else:
    _cabin(g, dice, trim)
  bow = dice.uniform(0.85, 1.0)
  hull = cv.convex(
    g.x, g.y, ((-0.88, 0.34), (bow, 0.26), (0.58, 0.8), (-0.66, 0.8))
  )
  hull = np.maximum(hull, np.hypot(g.x, g.y + 0.9) - 1.66) - 0.02
  cover = g.paint(hull, colour(tone))
  g.tint(cover * cv.smooth(0.0, 0.02, g.y - 0.62), colour(tone, 0.5, 0.8, 0.45))
  stripe = np.abs(g.y - 0.42 + 0.03 * g.x) - 0.035
  g.tint(cover * cv.smooth(g.px, -g.px, stripe), trim)
  planks = np.sin(g.y * 55) * cover
  g.shade(1 + 0.05 * planks + cover * 0.05 * g.noise('rough', 0.5, dice))
  g.shade(1 - cover * 0.35 * cv.smooth(-0.6, 0.9, -g.light.x * g.x + g.y - 0.3))


def _sails(g: Canvas, dice: Dice, trim):
  """Mast with a main sail and a jib."""
  cloth = cv.rgb(
    dice.choice((0.1, 0.12, 0.0, 0.58)), dice.unit() ** 2 * 0.7, 0.95
  )
  top = -dice.uniform(0.86, 0.98)
  g.stroke(((0.05, 0.35), (0.05, top)), 0.035, cv.rgb(0.08, 0.5, 0.35))
  main = ((0.0, top + 0.06), (0.0, 0.2), (-0.75, 0.16))
  jib = ((0.1, top + 0.15), (0.1, 0.18), (dice.uniform(0.6, 0.78), 0.2))
  for corners in (main, jib):
    sail = cv.convex(g.x, g.y, corners) - 0.015
    cover = g.paint(sail, cloth)
    seams = np.sin(g.y * 28 + g.x * 4)
    g.shade(1 - cover * 0.10 * cv.smooth(0.6, 1.0, seams))
    # Cloth bellies out: brighter on the side of the light.
    swell = cv.smooth(-0.5, 0.5, g.light.x * (g.x - corners[2][0] * 0.5))
    g.shade(1 - cover * 0.28 * (1 - swell))
  if dice.chance(0.5):
    band = np.abs(g.y + 0.2) - 0.09
    cover = g.cover(np.maximum(band, cv.convex(g.x, g.y, main)))
    g.tint(cover, trim)
  if dice.chance(0.6):
    g.convex(((0.05, top - 0.02), (0.05, top + 0.12), (0.3, top + 0.05)), trim)


def _cabin(g: Canvas, dice: Dice, trim):
  """Deck house with windows and a funnel."""
  chimney = dice.uniform(-0.5, 0.1)
  g.convex(
    (
      (chimney, -0.75),
      (chimney + 0.26, -0.75),
      (chimney + 0.26, 0),
      (chimney, 0),
    ),
    trim,
  )
  g.convex(
    ((chimney, -0.75), (chimney + 0.26, -0.75), (chimney + 0.26, -0.6),
     (chimney, -0.6)),
    DARK,
  )  # fmt: skip
  wall = cv.rgb(0.1, dice.uniform(0.02, 0.3), 0.93)
  g.convex(((-0.6, -0.25), (0.42, -0.25), (0.5, 0.4), (-0.6, 0.4)), wall)
  g.convex(((-0.68, -0.33), (0.5, -0.33), (0.5, -0.23), (-0.68, -0.23)), trim)
  glass = cv.rgb(0.55, 0.4, 0.35)
  for x in (-0.4, -0.07, 0.26):
    g.disc(x, 0.02, 0.105, glass)
    g.disc(x - 0.03, -0.01, 0.035, WHITE)
