"""Layout of a scene: things, ground and places, random, before any pixel.

A layout knows no image size, so one scene is the same at every size, and
captions are written from it alone.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from groupvit_jax.scenes.canvas import Light, Pose
from groupvit_jax.scenes.rng import Rng

GROUNDS = ('brick', 'grass', 'gravel', 'sand', 'snow', 'water', 'wood')

THINGS = (
  'apple',
  'ball',
  'bird',
  'boat',
  'butterfly',
  'cactus',
  'cat',
  'fish',
  'flower',
  'leaf',
  'mushroom',
  'starfish',
)

# The order of mask values: grounds first, then things, each by alphabet.
CLASS_NAMES = GROUNDS + THINGS

PLURALS = {
  'butterfly': 'butterflies',
  'cactus': 'cacti',
  'fish': 'fish',
  'leaf': 'leaves',
  'starfish': 'starfish',
}

# (singular, plural) of other words for a thing; the class name stays the word
# of four captions in five, because zero-shot evaluation asks for it.
SYNONYMS = {
  'apple': (('fruit', 'fruits'),),
  'ball': (('toy ball', 'toy balls'), ('rubber ball', 'rubber balls')),
  'bird': (('songbird', 'songbirds'), ('little bird', 'little birds')),
  'boat': (('ship', 'ships'), ('vessel', 'vessels')),
  'butterfly': (('moth', 'moths'),),
  'cactus': (('cactus plant', 'cactus plants'), ('succulent', 'succulents')),
  'cat': (('kitten', 'kittens'), ('kitty', 'kitties')),
  'fish': (('goldfish', 'goldfish'), ('little fish', 'little fish')),
  'flower': (('blossom', 'blossoms'), ('bloom', 'blooms')),
  'leaf': (('tree leaf', 'tree leaves'), ('fallen leaf', 'fallen leaves')),
  'mushroom': (('toadstool', 'toadstools'), ('fungus', 'fungi')),
  'starfish': (('sea star', 'sea stars'),),
}

# Ways to speak of a ground; the first is the plain one.
GROUND_WORDS = {
  'brick': ('brick', 'the brick', 'a brick wall', 'old brick', 'red bricks'),
  'grass': ('grass', 'the grass', 'green grass', 'a lawn', 'a meadow'),
  'gravel': ('gravel', 'the gravel', 'gray gravel', 'pebbles', 'stones'),
  'sand': ('sand', 'the sand', 'warm sand', 'a beach', 'a sandy beach'),
  'snow': ('snow', 'the snow', 'fresh snow', 'white snow', 'a snowy field'),
  'water': ('water', 'the water', 'blue water', 'a lake', 'a pond'),
  'wood': ('wood', 'the wood', 'old wood', 'wooden boards', 'a wooden floor'),
}

# Hue, saturation, value (each 0 to 1) at the middle of a colour word.
COLOURS = {
  'red': (0.985, 0.80, 0.76),
  'orange': (0.065, 0.82, 0.90),
  'yellow': (0.135, 0.78, 0.92),
  'green': (0.300, 0.62, 0.55),
  'blue': (0.600, 0.68, 0.72),
  'purple': (0.775, 0.50, 0.60),
  'pink': (0.930, 0.42, 0.92),
  'white': (0.110, 0.06, 0.93),
  'black': (0.620, 0.16, 0.16),
  'gray': (0.600, 0.07, 0.56),
  'brown': (0.065, 0.58, 0.46),
}

# Colours of a thing with their odds. As in the world, most things have a usual
# colour, and every colour is shared by several things: colour is a hint that
# holds about six times in ten, never a name.
PALETTES = {
  'apple': (('red', 6), ('green', 3), ('yellow', 1)),
  'ball': (('blue', 5), ('white', 2), ('red', 2), ('green', 1)),
  'bird': (('yellow', 6), ('blue', 2), ('red', 1), ('black', 1)),
  'boat': (('white', 6), ('red', 2), ('blue', 1), ('brown', 1)),
  'butterfly': (('purple', 6), ('blue', 2), ('orange', 1), ('yellow', 1)),
  'cactus': (('green', 1),),
  'cat': (('black', 6), ('gray', 2), ('orange', 2)),
  'fish': (('gray', 6), ('orange', 3), ('blue', 1)),
  'flower': (('pink', 6), ('white', 2), ('yellow', 2)),
  'leaf': (('green', 5), ('orange', 2), ('yellow', 2), ('brown', 1)),
  'mushroom': (('brown', 6), ('red', 3), ('white', 1)),
  'starfish': (('orange', 6), ('red', 2), ('purple', 1), ('pink', 1)),
}


def vocabulary() -> list[str]:
  """Names of classes and colours as captions write them, sorted."""
  synonyms = sum(SYNONYMS.values(), ())
  grounds = sum(GROUND_WORDS.values(), ())
  plurals = map(plural, THINGS)
  return sorted(
    {*CLASS_NAMES, *plurals, *sum(synonyms, ()), *grounds, *COLOURS}
  )


def plural(word: str) -> str:
  """Plural of a class name."""
  return PLURALS.get(word, word + 's')


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

# Share of the image that one thing covers, by how many there are.
_SHARES = {1: (0.12, 0.3), 2: (0.09, 0.22), 3: (0.07, 0.15), 4: (0.06, 0.11)}
_COUNTS = ((1, 25), (2, 40), (3, 23), (4, 12))


class Thing(NamedTuple):
  """One thing: class, pose, colour (word and exact tone), share of image."""

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


def _tone(colour: str, rng: Rng) -> tuple[float, float, float]:
  """A shade that one would still call by the colour's name."""
  hue, saturation, value = COLOURS[colour]
  return (
    rng.around(hue, 0.03),
    saturation * rng.uniform(0.78, 1.15),
    value * rng.uniform(0.78, 1.1),
  )


def _place(
  rng: Rng, taken: Sequence[tuple[Any, float]], radius: float
) -> tuple[float, float]:
  """A centre that leaves the things already there mostly visible.

  A few tries, the loneliest of them wins when none is free: things may
  overlap, but seldom by much.
  """
  best, place = -math.inf, (0.5, 0.5)
  inset = min(0.42, radius * rng.uniform(0.55, 1.05))
  overlap = rng.choice((0.62, 0.8, 0.95, 1.0))
  for _ in range(12):
    x, y = rng.uniform(inset, 1 - inset), rng.uniform(inset, 1 - inset)
    room = min(
      (math.hypot(x - p.x, y - p.y) / (radius + r) - overlap for p, r in taken),
      default=0.0,
    )
    if room > best:
      best, place = room, (x, y)
    if best >= 0:
      break
  return place


def draw(rng: Rng) -> Layout:
  """Draws a layout."""
  ground = rng.choice(GROUNDS)
  bearing = math.radians(rng.uniform(-165, -15))
  height = math.radians(rng.uniform(32, 68))
  light = Light(
    math.cos(bearing) * math.cos(height),
    math.sin(bearing) * math.cos(height),
    math.sin(height),
    rng.uniform(0.35, 0.6),
  )
  count = rng.weighted(_COUNTS)
  kinds = rng.shuffled(THINGS)[:count]
  if count > 1 and rng.chance(0.16):
    kinds[1] = kinds[0]
  things, taken = [], []
  for kind in kinds:
    share = rng.uniform(*_SHARES[count])
    scale = math.sqrt(share / AREAS[kind])
    x, y = _place(rng, taken, scale * 0.9)
    pose = Pose(
      x,
      y,
      scale,
      rng.around(0.0, _LEAN[kind]),
      rng.choice((-1, 1)),
      rng.around(1.0, 0.15),
    )
    colour = rng.weighted(PALETTES[kind])
    things.append(Thing(kind, pose, colour, _tone(colour, rng), share))
    taken.append((pose, scale * 0.9))
  return Layout(ground, tuple(things), light)
