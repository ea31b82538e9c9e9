"""What the painters of things share: colours near a thing's own, eyes.

`things` says what a painter is.
"""

import numpy as np

from groupvit_jax.data.scenes import canvas as cv
from groupvit_jax.data.scenes.canvas import Canvas

Tone = tuple[float, float, float]
DARK = cv.rgb(0.08, 0.4, 0.08)
WHITE = cv.rgb(0.12, 0.03, 0.97)


def colour(tone: Tone, hue=0.0, saturation=1.0, value=1.0) -> np.ndarray:
  """The thing's colour, shifted in hue and scaled in the rest."""
  h, s, v = tone
  return cv.rgb(h + hue, s * saturation, v * value)


def blend_up(tone: Tone) -> np.ndarray:
  """A paler relative of the colour."""
  return cv.rgb(tone[0], tone[1] * 0.55, min(1.0, tone[2] * 1.3 + 0.08))


def eye(g: Canvas, x, y, radius, iris=None):
  """A round eye with a pupil and a glint."""
  if iris is not None:
    g.disc(x, y, radius, iris)
    g.disc(x, y, radius * 0.6, DARK)
  else:
    g.disc(x, y, radius, DARK)
  g.disc(x - radius * 0.3, y - radius * 0.3, radius * 0.3, WHITE)
