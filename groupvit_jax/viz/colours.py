"""Colours of classes and groups: far apart, and always the same."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from groupvit_jax.text import prompts

# Colours are chosen in Oklab (Ottosson 2020), where equal distances look equal:
# each one as far as it can be from those before it.
_LAB_TO_LMS = np.array(
  [
    [1.0, 0.3963377774, 0.2158037573],
    [1.0, -0.1055613458, -0.0638541728],
    [1.0, -0.0894841775, -1.2914855480],
  ]
)
_LMS_TO_RGB = np.array(
  [
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
  ]
)
_NUM_HUES = 48
_BACKGROUND = (0, 0, 0)  # as in the masks of VOC
_APART = 0.09  # in Oklab: a class keeps so far from the natural colours

# Colours that people expect of stuff, by name.
_NATURAL = {
  'grass': (106, 168, 66),
  'tree': (30, 104, 52),
  'water': (46, 120, 196),
  'sea': (24, 92, 150),
  'river': (74, 144, 200),
  'sky': (142, 202, 240),
  'snow': (234, 240, 248),
  'sand': (226, 200, 138),
  'brick': (176, 80, 58),
  'wood': (134, 92, 52),
  'gravel': (158, 150, 146),
  'road': (92, 88, 98),
  'ground': (150, 122, 92),
  'mountain': (120, 104, 112),
}
_ALSO = {'earth': 'ground', 'lake': 'river', 'field': 'grass', 'palm': 'tree'}


def palette(size: int) -> UInt8[np.ndarray, 'n 3']:
  """The first colours of a fixed list, strong ones.

  Args:
    size: how many; colour i does not depend on it. After some hundreds the list
      begins again.

  Returns:
    RGB colours.
  """
  colours = _farthest((0.15, 0.115, 0.08), (0.58, 0.68, 0.78, 0.86, 0.48), 250)
  return colours[np.arange(size) % len(colours)]


def group_palette(size: int) -> UInt8[np.ndarray, 'n 3']:
  """The first colours of another list: pale, so that none looks like a class.

  Returns:
    RGB colours.
  """
  colours = _farthest((0.06, 0.035), (0.88, 0.74, 0.62, 0.5), 40)
  return colours[np.arange(size) % len(colours)]


def class_colours(
  names: Sequence[str], background: bool = False
) -> UInt8[np.ndarray, 'n 3']:
  """Colours of classes.

  Args:
    names: of synonyms "grass|lawn" the first counts. Grass, water, sky and
      other stuff have the colour that people expect, and the other names one
      that is far from those.
    background: whether class 0 is the background, which is black.

  Returns:
    RGB colours. They depend on the names before them alone, but for natural
    colours, which no other name takes.
  """
  named = _of_names(tuple(names[background:]))
  if not background:
    return named
  return np.concatenate([np.array([_BACKGROUND], np.uint8), named])


@functools.lru_cache(64)
def _of_names(names: Sequence[str]) -> UInt8[np.ndarray, 'n 3']:
  shown = [prompts.shown_name(name).lower() for name in names]
  natural = {
    i: _NATURAL[key]
    for i, name in enumerate(shown)
    if (key := _ALSO.get(name, name)) in _NATURAL
  }
  # Two names of one natural colour: only the first has it.
  first = {colour: i for i, colour in reversed(natural.items())}
  natural = {i: colour for colour, i in first.items()}
  candidates = palette(512)
  if natural:
    taken = _to_lab(np.array(list(natural.values()), np.uint8))
    off = _to_lab(candidates)[:, None] - taken
    free = np.linalg.norm(off, axis=-1).min(1) > _APART
    candidates = candidates[free]
  others = iter(candidates[np.arange(len(names)) % len(candidates)])
  colours = [
    natural[i] if i in natural else next(others) for i in range(len(names))
  ]
  return np.array(colours, np.uint8).reshape(-1, 3)


@functools.cache
def _farthest(
  chromas: tuple[float, ...], lightnesses: tuple[float, ...], first_hue: int
) -> UInt8[np.ndarray, 'n 3']:
  """All colours of a grid that a screen can show; `first_hue` in degrees."""
  hues = np.deg2rad(first_hue) + 2 * np.pi * np.arange(_NUM_HUES) / _NUM_HUES
  lab = np.array(
    [
      (lightness, chroma * np.cos(hue), chroma * np.sin(hue))
      for chroma in chromas
      for lightness in lightnesses
      for hue in hues
    ]
  )
  linear = (lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
  shown = ((linear >= 0) & (linear <= 1)).all(-1)
  lab, linear = lab[shown], linear[shown]
  order, nearest = [], np.full(len(lab), np.inf)
  for _ in range(len(lab)):
    order.append(int(nearest.argmax()))  # the first of all at the start
    distance = np.linalg.norm(lab - lab[order[-1]], axis=-1)
    nearest = np.minimum(nearest, distance)
    nearest[order] = -1.0
  srgb = np.where(
    linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
  )
  return np.rint(255 * srgb).astype(np.uint8)[order]


def _linear(colours: UInt8[np.ndarray, '*n 3']) -> Float[np.ndarray, '*n 3']:
  srgb = colours.astype(np.float64) / 255
  return np.where(
    srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4
  )


def _to_lab(colours: UInt8[np.ndarray, 'n 3']) -> Float[np.ndarray, 'n 3']:
  lms = np.cbrt(_linear(colours) @ np.linalg.inv(_LMS_TO_RGB).T)
  return lms @ np.linalg.inv(_LAB_TO_LMS).T


def contrasting(colour: UInt8[np.ndarray, '3']) -> tuple[int, int, int]:
  """Black or white, whichever reads better on a colour.

  By WCAG 2's contrast ratio: on a relative luminance above .179, black does.
  """
  light = _linear(colour) @ np.array([0.2126, 0.7152, 0.0722])
  return (17, 17, 17) if light > 0.179 else (255, 255, 255)


def hex_colour(colour: Sequence[int] | np.ndarray) -> str:
  """'#rrggbb' of an RGB colour."""
  return '#{:02x}{:02x}{:02x}'.format(*(int(c) for c in colour))
