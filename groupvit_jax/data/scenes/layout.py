"""What is in a scene and where: drawn from dice, before any pixel.

A layout knows no picture size, so one scene is the same at every size, and
captions are written from it alone.
"""

import math
from typing import NamedTuple

from groupvit_jax.data.scenes import names
from groupvit_jax.data.scenes.canvas import Light, Pose
from groupvit_jax.data.scenes.dice import Dice

# Area of a thing in its own coordinates (mean over its forms), to draw things
# of different build at comparable sizes; tests hold the resulting shares.
AREAS = {
  'apple': 1.86,
  'ball': 2.43,
  'bird': 1.37,
  'boat': 1.55,
  'butterfly': 2.2,
  'cactus': 1.55,
  'cat': 2.18,
  'fish': 1.43,
  'flower': 1.78,
  'leaf': 1.35,
  'mushroom': 1.69,
  'starfish': 1.36,
}

# How far a thing may lean from upright, in radians.
_LEAN = {
  'apple': 0.7,
  'ball': math.pi,
  'bird': 0.45,
  'boat': 0.3,
  'butterfly': 1.6,
  'cactus': 0.3,
  'cat': 0.45,
  'fish': 0.9,
  'flower': 0.7,
  'leaf': math.pi,
  'mushroom': 0.4,
  'starfish': math.pi,
}

# Share of the picture that one thing covers, by how many there are.
_SHARES = {1: (0.12, 0.3), 2: (0.09, 0.22), 3: (0.07, 0.15), 4: (0.06, 0.11)}
_COUNTS = ((1, 25), (2, 40), (3, 23), (4, 12))


class Thing(NamedTuple):
  """One thing: class, pose, colour (word and exact tone), share of picture."""

  name: str
  pose: Pose
  colour: str
  tone: tuple[float, float, float]
  share: float


class Layout(NamedTuple):
  """A scene; things are in drawing order, the first lies undermost."""

  ground: str
  things: tuple[Thing, ...]
  light: Light


def _tone(colour: str, dice: Dice) -> tuple[float, float, float]:
  """A shade that one would still call by the colour's name."""
  hue, saturation, value = names.COLOURS[colour]
  return (
    dice.around(hue, 0.03),
    saturation * dice.uniform(0.78, 1.15),
    value * dice.uniform(0.78, 1.1),
  )


def _place(dice: Dice, taken, radius: float) -> tuple[float, float]:
  """A centre that leaves the things already there mostly visible.

  A few tries, the loneliest of them wins when none is free: things may
  overlap, but seldom by much.
  """
  best, place = -math.inf, (0.5, 0.5)
  inset = min(0.42, radius * dice.uniform(0.55, 1.05))
  overlap = dice.choice((0.62, 0.8, 0.95, 1.0))
  for _ in range(12):
    x, y = dice.uniform(inset, 1 - inset), dice.uniform(inset, 1 - inset)
    room = min(
      (math.hypot(x - p.x, y - p.y) / (radius + r) - overlap for p, r in taken),
      default=0.0,
    )
    if room > best:
      best, place = room, (x, y)
    if best >= 0:
      break
  return place


def draw(dice: Dice) -> Layout:
  """Draws a layout."""
  ground = dice.choice(names.GROUNDS)
  bearing = math.radians(dice.uniform(-165, -15))
  height = math.radians(dice.uniform(32, 68))
  light = Light(
    math.cos(bearing) * math.cos(height),
    math.sin(bearing) * math.cos(height),
    math.sin(height),
    dice.uniform(0.35, 0.6),
  )
  count = dice.weighted(_COUNTS)
  kinds = dice.shuffled(names.THINGS)[:count]
  if count > 1 and dice.chance(0.16):
    kinds[1] = kinds[0]
  things, taken = [], []
  for kind in kinds:
    share = dice.uniform(*_SHARES[count])
    scale = math.sqrt(share / AREAS[kind])
    x, y = _place(dice, taken, scale * 0.9)
    pose = Pose(
      x,
      y,
      scale,
      dice.around(0.0, _LEAN[kind]),
      dice.choice((-1, 1)),
      dice.around(1.0, 0.15),
    )
    colour = dice.weighted(names.PALETTES[kind])
    things.append(Thing(kind, pose, colour, _tone(colour, dice), share))
    taken.append((pose, scale * 0.9))
  return Layout(ground, tuple(things), light)
