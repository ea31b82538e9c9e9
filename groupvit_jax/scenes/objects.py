"""Painters of things: parts, patterns and relief, by signed distance.

A painter takes (canvas, rng, tone); `tone` is (hue, saturation, value) of the
thing's colour. Own coordinates: about a unit circle, y down.
"""

import math

import numpy as np

from groupvit_jax.scenes import canvas as cv
from groupvit_jax.scenes.canvas import Canvas
from groupvit_jax.scenes.rng import Rng

Tone = tuple[float, float, float]
DARK = cv.rgb(0.08, 0.4, 0.08)
WHITE = cv.rgb(0.12, 0.03, 0.97)


def colour(
  tone: Tone,
  hue: cv.Number = 0.0,
  saturation: cv.Number = 1.0,
  value: cv.Number = 1.0,
) -> np.ndarray:
  """The thing's colour, shifted in hue and scaled in the rest."""
  h, s, v = tone
  return cv.rgb(h + hue, s * saturation, v * value)


def blend_up(tone: Tone) -> np.ndarray:
  """A paler relative of the colour."""
  return cv.rgb(tone[0], tone[1] * 0.55, min(1.0, tone[2] * 1.3 + 0.08))


def eye(g: Canvas, x: cv.Number, y: cv.Number, radius: cv.Number) -> None:
  """A round eye with a glint."""
  g.disc(x, y, radius, DARK)
  g.disc(x - radius * 0.3, y - radius * 0.3, radius * 0.3, WHITE)


def apple(g: Canvas, rng: Rng, tone: Tone) -> None:
  """Two lobes, streaks from the stem, freckles; stem and often a leaf."""
  # A circle, narrower below, with a deep dip at the stalk, a shallow one below.
  x = g.x * (1 + np.float32(rng.uniform(0.06, 0.24)) * g.y)
  y = (g.y - np.float32(0.12)) * np.float32(rng.uniform(0.94, 1.06))
  above = np.arctan2(np.abs(x), -y)
  dip = np.exp(above * above * np.float32(-5.0)) * np.float32(0.17)
  below = above - np.float32(math.pi)
  dip += np.exp(below * below * np.float32(-9.0)) * np.float32(0.06)
  body = np.hypot(x, y) - (np.float32(0.79) - dip)
  g.paint(body, colour(tone))
  # Streaks run from pole to pole: noise over the bearing from the dimple.
  bearing = np.arctan2(g.x, g.y + 1.3)
  blush = g.noise('rough', 0.35, rng) * 0.5 + 0.5 * np.sin(
    bearing * rng.uniform(14, 26) + rng.unit() * 6
  )
  other = colour(tone, rng.choice((0.07, 0.1, -0.03)), 0.85, 1.15)
  g.tint(cv.smooth(-0.1, 1.6, blush) * np.float32(rng.uniform(0.3, 0.9)), other)
  freckles = cv.smooth(1.6, 2.2, g.noise('grain', 1.1, rng))
  g.tint(freckles * 0.5, cv.rgb(0.13, 0.3, 0.95))
  dimple = g.window(0, -0.42, 0.3)
  dent = cv.ellipse(g.x[dimple], g.y[dimple], 0, -0.44, 0.26, 0.1)
  g.tint(cv.smooth(0.1, -0.1, dent) * 0.6, cv.rgb(0.1, 0.7, 0.2), dimple)
  g.relief(cv.dome(body, 0.75, 0.62), shine=rng.uniform(0.3, 0.8))
  lean = rng.around(0, 0.2)
  bark = cv.rgb(0.08, 0.5, rng.uniform(0.2, 0.35))
  g.stroke(((0, -0.42), (lean * 0.4, -0.65), (lean, -0.86)), 0.05, bark)
  if rng.chance(0.65):
    side = rng.choice((-1, 1))
    tip = (side * rng.uniform(0.5, 0.65), -rng.uniform(0.7, 0.95))
    green = cv.rgb(rng.around(0.29, 0.04), 0.7, rng.uniform(0.4, 0.6))
    window = g.window(side * 0.3, -0.72, 0.45)
    x, y = g.x[window], g.y[window]
    g.paint(cv.lens(x, y, (0.02, -0.6), tip, 0.13), green, window)
    g.stroke(((0.02, -0.6), tip), 0.015, cv.rgb(0.25, 0.5, 0.75), on=True)


def cactus(g: Canvas, rng: Rng, tone: Tone) -> None:
  """A ribbed column with arms or a round barrel, spines, often a pot."""
  potted = rng.chance(0.45)
  foot = 0.55 if potted else 0.95
  if rng.chance(0.7):
    width = rng.uniform(0.2, 0.26)
    body = cv.capsule(g.x, g.y, (0, -0.7), (0, foot), width, width * 1.05)
    across = g.x / np.float32(width)
    for side in (-1, 1):
      if not rng.chance(0.85):
        continue
      low, high = rng.uniform(0.0, 0.35), rng.uniform(-0.6, -0.25)
      out = side * rng.uniform(0.52, 0.66)
      arm = cv.capsule(g.x, g.y, (0, low), (out, low - 0.08), 0.12, 0.14)
      rise = cv.capsule(g.x, g.y, (out, low - 0.08), (out, high), 0.14, 0.13)
      arm = np.minimum(arm, rise)
      across = np.where(arm < body, (g.x - out) / np.float32(0.14), across)
      body = cv.smooth_union(body, arm, 0.1)
    ribs = 6.5
  else:
    body = cv.ellipse(g.x, g.y, 0, foot - 0.62, 0.66, rng.uniform(0.6, 0.8))
    across = np.arcsin(np.clip(g.x / np.float32(0.66), -1, 1)) * 1.0
    ribs = rng.uniform(9, 12)
  body = np.maximum(body, g.y - np.float32(foot))
  g.paint(body, colour(tone))
  wave = np.cos(across * np.float32(ribs))
  g.shade(0.85 + 0.15 * wave)
  g.tint(cv.smooth(0.8, 1.0, wave) * 0.25, blend_up(tone))
  g.relief(cv.dome(body, 0.24, 0.2))
  spines = cv.smooth(0.6, 1.0, wave) * cv.smooth(0.55, 0.95, np.sin(g.y * 38))
  g.tint(spines * 0.85, cv.rgb(0.14, 0.2, 0.95))
  if rng.chance(0.45):
    bloom = cv.rgb(rng.uniform(0.86, 1.0), 0.65, 0.92)
    top = -0.9 if ribs == 6.5 else foot - 1.32
    for turn in (-0.7, 0.0, 0.7):
      dx = 0.09 * math.sin(turn)
      g.ellipse((dx, top - 0.03), (0.05, 0.1), turn, bloom)
  if potted:
    clay = (
      rng.around(0.045, 0.02),
      rng.uniform(0.5, 0.7),
      rng.uniform(0.5, 0.75),
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


def flower(g: Canvas, rng: Rng, tone: Tone) -> None:
  """Petals around an eye of florets; sometimes stem and leaves."""
  stem = rng.chance(0.5)
  cy = -0.32 if stem else 0.0
  size = 0.64 if stem else 0.96
  if stem:
    green = cv.rgb(rng.around(0.3, 0.04), 0.65, rng.uniform(0.35, 0.55))
    bend = rng.uniform(-0.12, 0.12)
    g.stroke(((0, cy), (bend, 0.4), (bend * 0.5, 1.0)), 0.06, green)
    for side in (-1, 1):
      tip = (side * rng.uniform(0.4, 0.55), rng.uniform(0.3, 0.5))
      window = g.window(side * 0.27, 0.6, 0.5)
      blade = cv.lens(g.x[window], g.y[window], (bend * 0.8, 0.78), tip, 0.11)
      g.paint(blade, green, window)
      g.stroke(
        ((bend * 0.8, 0.78), tip), 0.015, cv.rgb(0.26, 0.5, 0.7), on=True
      )
  x, y = g.x * np.float32(1 / size), (g.y - cy) * np.float32(1 / size)
  count = rng.choice((5, 6, 8, 8, 11, 13))
  slice_ = 2 * math.pi / count
  bearing = np.arctan2(y, x) + rng.unit() * 6
  radius = np.hypot(x, y)
  folded = (bearing + slice_ / 2) % slice_ - slice_ / 2
  px, py = radius * np.cos(folded), radius * np.sin(folded)
  plump = min(0.42, rng.uniform(0.85, 1.1) * math.sin(slice_ / 2) * 0.66)
  petal = cv.ellipse(px, py, 0.6, 0, 0.38, plump)
  petal = np.minimum(petal, cv.ellipse(px, py, 0.35, 0, 0.3, plump * 0.7))
  petal *= np.float32(size)
  cover = g.paint(petal, colour(tone))
  inner = colour(
    tone, rng.choice((0.0, 0.06, -0.08)), rng.uniform(0.3, 1.2), 1.1
  )
  g.tint(cover * cv.smooth(0.75, 0.25, radius) * 0.8, inner)
  veins = np.abs(np.sin(py * 34))
  g.shade(1 - cover * 0.16 * cv.smooth(0.4, 0.0, veins))
  fold = cv.smooth(plump * 0.55, plump * 1.05, np.abs(py))
  g.shade(1 - cover * 0.3 * fold)
  g.relief(cv.dome(petal, 0.2, 0.1))
  eye = rng.uniform(0.2, 0.3) if count > 6 else rng.uniform(0.14, 0.22)
  seed = rng.around(0.11, 0.04), 0.85, rng.uniform(0.4, 0.95)
  window = g.window(0, cy, eye * size)
  disc = np.hypot(g.x[window], g.y[window] - cy) - eye * size
  cover = g.paint(disc, cv.rgb(*seed), window)
  florets = np.sin(g.x[window] * 70) * np.sin(g.y[window] * 70)
  ring = cv.smooth(-0.08, 0.0, disc)
  g.shade(1 + cover * (0.25 * florets - 0.3 * ring), window)


def leaf(g: Canvas, rng: Rng, tone: Tone) -> None:
  """A blade (ovate, lobed or maple), midrib, side veins, worn edges."""
  kind = rng.choice(('ovate', 'ovate', 'oak', 'maple'))
  x, y = g.x, g.y + np.float32(0.12)
  vein = blend_up(tone) if tone[2] < 0.8 else colour(tone, -0.02, 1.0, 0.6)
  if kind == 'maple':
    bearing = np.arctan2(x, -y)
    # Five points; 0 on the rib of a lobe, 1 in the notch between two.
    notch = np.abs((bearing * (2.5 / math.pi) + 0.5) % 1.0 - 0.5) * 2
    teeth = np.abs(np.sin(bearing * 12.5))
    rim = 0.92 - np.float32(rng.uniform(0.36, 0.46)) * notch**0.6
    rim = rim + 0.11 * teeth * cv.smooth(0.0, 0.5, notch)
    rim = rim * (1 - 0.3 * cv.smooth(1.4, 2.6, np.abs(bearing)))
    radius = np.hypot(x, y)
    blade = (radius - rim) * 0.45
    ribs = np.abs(np.sin(bearing * 2.5)) * radius
    ribs = ribs + (np.abs(bearing) > 2.6)
    side = np.abs(np.sin(radius * 22 + 6 * np.abs(np.sin(bearing * 2.5))))
  else:
    wide = rng.uniform(0.36, 0.5) if kind == 'ovate' else 0.48
    bend = rng.uniform(-0.15, 0.15)
    x = x + np.float32(bend) * (y * y - 0.4)
    blade = cv.lens(x, y, (0, -0.88), (0, 0.8), wide)
    egg = cv.ellipse(x, y, 0, 0.18, wide * 0.96, 0.55)
    blade = cv.smooth_union(blade, egg, 0.1)
    if kind == 'oak':
      blade = blade + 0.13 * (np.cos(y * 13) * cv.smooth(0.05, 0.35, np.abs(x)))
    elif rng.chance(0.5):
      blade = blade + 0.025 * np.abs(np.sin((y + np.abs(x)) * 20))
    ribs = np.abs(x)
    side = np.abs(np.sin((y + np.abs(x) * rng.uniform(0.7, 1.1)) * 13))
  g.stroke(((0, 0.0), (rng.uniform(-0.1, 0.1), 0.98)), 0.04, vein)
  g.paint(blade, colour(tone))
  mottle = g.noise('rough', 0.45, rng)
  other = colour(
    tone, rng.choice((-0.05, 0.05, 0.08)), 1.0, rng.uniform(0.7, 1.2)
  )
  g.tint(
    cv.smooth(-0.3, 1.4, mottle) * np.float32(rng.uniform(0.3, 1.0)), other
  )
  if rng.chance(0.35):
    rust = cv.smooth(1.0, 1.5, g.noise('rough', 0.7, rng))
    g.tint(rust * 0.8, cv.rgb(0.07, 0.6, 0.3))
  g.tint(cv.smooth(-0.09, 0.0, blade) * 0.4, colour(tone, -0.03, 1.0, 0.55))
  g.tint(cv.smooth(0.22, 0.05, side) * cv.smooth(0.5, 0.05, ribs) * 0.55, vein)
  g.tint(cv.smooth(0.045, 0.02, ribs), vein)
  g.relief(
    cv.dome(blade, 0.3, 0.1) + 0.012 * mottle - 0.02 * cv.smooth(0.3, 0, side)
  )


def mushroom(g: Canvas, rng: Rng, tone: Tone) -> None:
  """A domed cap, spotted or plain, gills below, a stem with a ring."""
  pale = (
    rng.around(0.1, 0.03),
    rng.uniform(0.08, 0.3),
    rng.uniform(0.8, 0.95),
  )
  width = rng.uniform(0.17, 0.26)
  window = g.window(0, 0.45, 0.65)
  x, y = g.x[window], g.y[window]
  stem = cv.capsule(x, y, (0, -0.1), (0, 0.72), width * 0.85, width * 1.2)
  cover = g.paint(stem, cv.rgb(*pale), window)
  fibre = np.sin(x * 60 + 2 * np.sin(y * 5))
  round_off = np.abs(x - 0.1 * g.light.x) / width
  g.shade(1 + cover * (0.06 * fibre - 0.3 * round_off), window)
  wide = rng.uniform(0.8, 0.95)
  brim = rng.uniform(0.02, 0.12)
  gills = cv.ellipse(g.x, g.y, 0, brim, wide * 0.92, 0.17)
  cover = g.paint(gills, cv.rgb(pale[0], pale[1] + 0.1, pale[2] * 0.72))
  lamellae = np.sin(np.arctan2(g.y + 0.8, g.x) * 70)
  g.shade(1 - cover * 0.2 * cv.smooth(0, 1, lamellae))
  tall = rng.uniform(0.72, 0.98)
  cap = cv.ellipse(g.x, g.y, 0, brim, wide, tall)
  cap = np.maximum(cap, g.y - brim - 0.08 * (1 - (g.x / np.float32(wide)) ** 2))
  cover = g.cover(cap)
  low = g.cover(cap - 0.05) * (1 - cover)
  g.shade(1 - 0.35 * low)
  g.paint(cap, colour(tone))
  g.tint(
    cover * cv.smooth(-0.3, brim, g.y) * 0.5, colour(tone, 0.02, 0.9, 0.65)
  )
  shade = g.noise('cloud', 0.5, rng)
  g.shade(1 + cover * 0.08 * shade)
  if rng.chance(0.7 if tone[1] > 0.7 else 0.3):
    fleck = cv.rgb(0.12, 0.1, 0.95)
    spots = ((0, -0.62), (-0.38, -0.42), (0.4, -0.46), (0.06, -0.26))
    spots += ((-0.62, -0.1), (0.64, -0.14), (-0.3, -0.06), (0.34, -0.06))
    for sx, sy in spots:
      size = rng.uniform(0.05, 0.12)
      dx, dy = rng.around(0, 0.06), rng.around(0, 0.05)
      sy = sy * tall / 0.85
      g.ellipse(
        ((sx + dx) * wide / 0.9, sy + dy),
        (size, size * 0.8),
        sx,
        fleck,
        on=True,
      )
  inside = np.minimum(cv.dome(cap, 0.55, 0.45), 1)
  g.relief(inside, shine=rng.uniform(0.0, 0.5))


def bird(g: Canvas, rng: Rng, tone: Tone) -> None:
  """A songbird from the side: tail, body, head, folded wing, beak, legs."""
  dark = colour(tone, 0.0, 1.0, 0.62)
  leg = cv.rgb(0.07, 0.6, 0.4)
  for x in (-0.08, 0.14):
    foot = x + 0.03
    g.stroke(((x, 0.4), (foot, 0.86), (foot + 0.16, 0.9)), 0.032, leg)
  lift = rng.uniform(-0.1, 0.35)
  g.convex(
    ((-0.35, 0.0), (-0.3, 0.3), (-1.02, 0.36 - lift), (-1.05, 0.16 - lift)),
    dark,
    radius=0.03,
  )
  beak = cv.rgb(rng.uniform(0.07, 0.14), 0.8, rng.uniform(0.35, 0.95))
  length = rng.uniform(0.95, 1.12)
  g.convex(((0.72, -0.5), (0.74, -0.3), (length, -0.36)), beak, radius=0.015)
  body = cv.ellipse(g.x, g.y, 0, 0.1, 0.62, rng.uniform(0.4, 0.48), -0.35)
  head = np.hypot(g.x - 0.5, g.y + 0.4) - rng.uniform(0.28, 0.34)
  both = cv.smooth_union(body, head, 0.3)
  g.paint(both, colour(tone))
  pale = cv.rgb(rng.choice((0.06, 0.1, 0.13)), rng.uniform(0.05, 0.6), 0.92)
  belly = cv.ellipse(g.x, g.y, 0.2, 0.3, 0.55, 0.28, -0.6)
  g.tint(cv.smooth(0.12, -0.12, belly) * 0.9, pale)
  down = g.noise('rough', 0.8, rng, 1.6)
  g.shade(1 + 0.07 * down)
  g.relief(cv.dome(both, 0.4, 0.36))
  if rng.chance(0.4):
    g.ellipse((0.5, -0.6), (0.25, 0.11), -0.1, dark, on=True)
  window = g.window(-0.15, 0.08, 0.6)
  x, y = g.x[window], g.y[window]
  wing = cv.lens(x, y, (0.32, -0.12), (-0.62, 0.26), 0.22)
  wing = np.maximum(wing, -np.hypot(x - 0.3, y + 0.75) + 0.62)
  cover = g.paint(wing, dark, window)
  feathers = np.sin((x * 0.4 + y) * rng.uniform(26, 40))
  pale_edge = blend_up(tone)
  g.tint(cover * cv.smooth(0.4, 1.0, feathers) * 0.7, pale_edge, window)
  eye(g, 0.58, -0.46, 0.065)


def butterfly(g: Canvas, rng: Rng, tone: Tone) -> None:
  """Four wings with dark borders, veins and spots, body and feelers."""
  x, y = np.abs(g.x), g.y
  spread = rng.uniform(0.45, 0.62)
  rise = rng.uniform(0.30, 0.42)
  upper = cv.ellipse(x, y, 0.5, -rise, 0.56, 0.36, -0.75)
  lower = cv.ellipse(x, y, 0.4, 0.4, 0.44, rng.uniform(0.28, 0.34), spread)
  if rng.chance(0.35):
    tail = cv.capsule(x, y, (0.5, 0.6), (0.62, 0.95), 0.07, 0.03)
    lower = cv.smooth_union(lower, tail, 0.12)
  wings = np.minimum(upper, lower)
  g.paint(wings, colour(tone))
  second = colour(tone, rng.choice((0.05, -0.06, 0.12)), 0.9, 1.2)
  g.tint(cv.smooth(0.5, 0.05, np.hypot(x, y)) * 0.8, second)
  # Veins fan out from where the wings join.
  veins = np.abs(np.sin(np.arctan2(y, x + 0.05) * rng.choice((6, 7, 8))))
  g.tint(cv.smooth(0.22, 0.06, veins) * cv.smooth(0.2, 0.4, x) * 0.75, DARK)
  border = rng.uniform(0.05, 0.12)
  ragged = wings + 0.03 * np.sin(np.arctan2(y, x) * 26)
  g.tint(cv.smooth(-border - 0.04, -border + 0.02, ragged), DARK)
  dots = rng.chance(0.75)
  spot = WHITE if rng.chance(0.6) else second
  if dots:
    for side in (-1, 1):
      for dx, dy in ((0.86, -0.62), (0.93, -0.42), (0.72, 0.55), (0.55, 0.68)):
        g.disc(side * dx * 0.93, dy * 0.95, 0.045, spot, on=True)
      if tone[2] > 0.3:
        g.disc(side * 0.52, -0.36, 0.09, DARK, on=True)
        g.disc(side * 0.52, -0.36, 0.045, spot, on=True)
  scales = g.noise('grain', 0.9, rng)
  g.shade(1 + 0.06 * scales + 0.12 * g.light.x * np.sign(g.x))
  for side in (-1, 1):
    bend = (side * 0.2, -0.75)
    g.stroke(((0, -0.4), bend, (side * 0.32, -0.92)), 0.022, DARK)
    g.disc(side * 0.32, -0.92, 0.04, DARK)
  g.stroke(((0, -0.42), (0, 0.5)), 0.085, cv.rgb(0.08, 0.4, 0.16), taper=0.6)
  g.disc(0, -0.45, 0.09, cv.rgb(0.08, 0.4, 0.12))


def cat(g: Canvas, rng: Rng, tone: Tone) -> None:
  """A cat's face: ears, fur, muzzle, eyes, nose, whiskers, often tabby."""
  dark = colour(tone, 0.0, 1.05, 0.55)
  ear = rng.uniform(0.86, 1.0)
  width = rng.uniform(0.74, 0.82)
  face = cv.ellipse(g.x, g.y, 0, 0.14, width, 0.66)
  cheeks = cv.ellipse(np.abs(g.x), g.y, 0.42, 0.36, 0.4, 0.34)
  head = cv.smooth_union(face, cheeks, 0.2)
  x = np.abs(g.x)
  ears = cv.convex(x, g.y, ((0.14, -0.36), (0.7, -0.05), (0.66, -ear))) - 0.03
  head = cv.smooth_union(head, ears, 0.06)
  fur = g.noise('rough', 0.5, rng, 1.4)
  head = head + 0.012 * fur
  g.paint(head, colour(tone))
  if rng.chance(0.55):
    wave = np.sin(np.hypot(g.x * 1.2, g.y - 0.25) * rng.uniform(20, 27))
    stripes = cv.smooth(0.1, 0.7, wave + 0.5 * fur)
    where = cv.smooth(0.34, 0.6, np.hypot(g.x * 0.8, g.y - 0.25))
    g.tint(stripes * where * 0.75, dark)
  elif rng.chance(0.5):
    patch = g.noise('cloud', 0.4, rng)
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
    g.ellipse((side * 0.15, 0.46), (0.24, 0.19), 0, pale, on=True, opacity=0.85)
  g.ellipse((0, 0.62), (0.16, 0.1), 0, pale, on=True, opacity=0.85)
  iris = cv.rgb(rng.choice((0.15, 0.22, 0.3, 0.55)), 0.7, 0.85)
  slit = rng.uniform(0.035, 0.09)
  for side in (-1, 1):
    ex = side * 0.33
    g.ellipse((ex, 0.08), (0.18, 0.145), side * 0.2, DARK)
    g.ellipse((ex, 0.08), (0.155, 0.12), side * 0.2, iris)
    g.ellipse((ex, 0.08), (slit, 0.115), 0, DARK)
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


def fish(g: Canvas, rng: Rng, tone: Tone) -> None:
  """Body with scales or stripes, forked tail, fins, gill, eye."""
  fin = colour(tone, rng.around(0, 0.05), 0.9, rng.uniform(0.65, 1.05))
  deep = rng.uniform(0.38, 0.52)
  tail = rng.uniform(0.3, 0.42)
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
  pattern = rng.choice(('scales', 'scales', 'bars', 'lines'))
  if pattern == 'scales':
    # Overlapping rows, each scale a rounded plate with a dark rim.
    u = g.x * np.float32(rng.uniform(6.5, 9.5))
    column = np.floor(u)
    v = g.y * np.float32(9.0) + column * np.float32(0.5)
    plate = np.hypot(u - column, (v - np.floor(v) - 0.5) * 1.3)
    where = cover * cv.smooth(0.5, 0.3, g.x)
    g.shade(1 + where * (0.1 - 0.36 * cv.smooth(0.55, 1.0, plate)))
  elif pattern == 'bars':
    bar = np.abs((g.x * 2.1 + rng.unit() + 0.1 * np.cos(g.y * 4)) % 1 - 0.5)
    ink = WHITE if tone[2] > 0.6 and rng.chance(0.6) else DARK
    g.tint(cover * cv.smooth(0.16, 0.11, bar) * 0.92, ink)
  else:
    line = np.abs(g.y + 0.05 * np.sin(g.x * 5) + rng.uniform(-0.1, 0.1)) - 0.07
    ink = cv.rgb(tone[0] + 0.5, 0.6, rng.uniform(0.2, 0.9))
    g.tint(cover * cv.smooth(0.02, -0.02, line), ink)
  g.relief(cv.dome(body, 0.4, 0.3), shine=rng.uniform(0.1, 0.5))
  gill = np.abs(np.hypot(g.x - 0.72, g.y) - 0.36) - 0.02
  g.tint(
    cover
    * cv.smooth(0.025, 0.0, gill)
    * (g.x < 0.5)
    * (np.abs(g.y) < 0.25)
    * 0.7,
    colour(tone, 0, 1.1, 0.4),
  )
  g.ellipse((0.18, 0.12), (0.18, 0.08), 0.5, fin, on=True, opacity=0.8)
  g.disc(0.66, -0.1, 0.115, WHITE)
  eye(g, 0.68, -0.1, 0.075)


def starfish(g: Canvas, rng: Rng, tone: Tone) -> None:
  """Five tapering, slightly bent arms with rows of bumps."""
  twist = rng.uniform(-0.35, 0.35)
  radius = np.hypot(g.x, g.y)
  bearing = np.arctan2(g.x, -g.y) + np.float32(twist) * radius
  slice_ = 2 * math.pi / 5
  folded = (bearing + slice_ / 2) % slice_ - slice_ / 2
  along, across = radius * np.cos(folded), radius * np.sin(folded)
  thick = rng.uniform(0.26, 0.34)
  arm = cv.capsule(
    along, across, (0, 0), (0.88, 0), thick, rng.uniform(0.06, 0.12)
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
  skin = g.noise('gap', 0.45, rng)
  g.tint(cv.smooth(0.25, 0.6, skin) * 0.35, pale)
  ridge = np.abs(across)
  beads = cv.smooth(0.35, 0.9, np.cos(along * rng.uniform(42, 56)))
  row = cv.smooth(0.055, 0.025, ridge) * cv.smooth(0.86, 0.8, along)
  g.tint(beads * row * 0.9, cv.rgb(0.11, 0.2, 0.97))
  if rng.chance(0.5):
    side = cv.smooth(0.03, 0.01, np.abs(body + 0.08))
    g.tint(beads * side * 0.8, cv.rgb(0.11, 0.2, 0.97))
  g.relief(cv.dome(body, 0.28, 0.22) + 0.03 * cv.smooth(0.2, 0.6, skin))


def ball(g: Canvas, rng: Rng, tone: Tone) -> None:
  """Beach ball, banded ball, football or basketball, turned in space."""
  edge = np.hypot(g.x, g.y) - 0.88
  g.paint(edge, colour(tone))
  x, y, z = _sphere(g, rng)
  soft = g.px * 1.2
  kind = rng.choice(('beach', 'band', 'spots', 'basket', 'star'))
  light = WHITE if tone[1] > 0.2 else cv.rgb(rng.unit(), 0.75, 0.75)
  if kind == 'beach':
    count = rng.choice((3, 4))
    wave = np.sin(np.arctan2(x, z) * count)
    g.tint(cv.smooth(-soft * 4, soft * 4, wave), light)
    third = cv.rgb(tone[0] + rng.uniform(0.2, 0.8), 0.75, 0.85)
    panel = np.sin(np.arctan2(x, z) * count * 0.5 + 0.8) > 0
    g.tint(cv.smooth(-soft * 4, soft * 4, wave) * panel * 0.85, third)
    g.tint(cv.smooth(0.95 - soft, 0.95 + soft, np.abs(y)), light)
  elif kind == 'band':
    width = rng.uniform(0.2, 0.45)
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
    pimples = g.noise('grain', 1.6, rng)
    g.shade(1 + 0.06 * pimples)
  else:
    bearing = np.arctan2(x, z)
    arm = np.abs((bearing * (2.5 / math.pi)) % 1.0 - 0.5) * 2
    rim = 0.35 + 0.35 * arm
    height = np.hypot(x, z)
    star = (height < rim) * cv.smooth(rim, rim - 0.1, height)
    g.tint(star.astype(np.float32), light)
    g.tint(cv.smooth(0.06 + soft, 0.06 - soft, np.abs(y)), light)
  g.relief(cv.dome(edge, 0.88, 0.8), shine=rng.uniform(0.2, 0.9))


def _sphere(g: Canvas, rng: Rng) -> tuple[np.ndarray, ...]:
  """Unit vectors on a ball of radius .88, turned at random."""
  x, y = g.x * np.float32(1 / 0.88), g.y * np.float32(1 / 0.88)
  z = np.sqrt(np.maximum(1.0 - x * x - y * y, 0.0))
  tilt, turn = rng.uniform(0.3, 1.2), rng.uniform(0, 6.3)
  c, s = np.float32(math.cos(tilt)), np.float32(math.sin(tilt))
  y, z = c * y - s * z, s * y + c * z
  c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
  return c * x - s * z, y, s * x + c * z


def boat(g: Canvas, rng: Rng, tone: Tone) -> None:
  """A sailing boat (two sails) or a little steamer, hull with a stripe."""
  trim = cv.rgb(rng.unit(), rng.uniform(0.0, 0.8), rng.uniform(0.3, 0.95))
  if rng.chance(0.65):
    _sails(g, rng, trim)
  else:
    _cabin(g, rng, trim)
  bow = rng.uniform(0.85, 1.0)
  hull = cv.convex(
    g.x, g.y, ((-0.88, 0.34), (bow, 0.26), (0.58, 0.8), (-0.66, 0.8))
  )
  hull = np.maximum(hull, np.hypot(g.x, g.y + 0.9) - 1.66) - 0.02
  cover = g.paint(hull, colour(tone))
  g.tint(cover * cv.smooth(0.0, 0.02, g.y - 0.62), colour(tone, 0.5, 0.8, 0.45))
  stripe = np.abs(g.y - 0.42 + 0.03 * g.x) - 0.035
  g.tint(cover * cv.smooth(g.px, -g.px, stripe), trim)
  planks = np.sin(g.y * 55) * cover
  g.shade(1 + 0.05 * planks + cover * 0.05 * g.noise('rough', 0.5, rng))
  g.shade(1 - cover * 0.35 * cv.smooth(-0.6, 0.9, -g.light.x * g.x + g.y - 0.3))


def _sails(g: Canvas, rng: Rng, trim: cv.Map) -> None:
  """Mast with a main sail and a jib."""
  cloth = cv.rgb(
    rng.choice((0.1, 0.12, 0.0, 0.58)), rng.unit() ** 2 * 0.7, 0.95
  )
  top = -rng.uniform(0.86, 0.98)
  g.stroke(((0.05, 0.35), (0.05, top)), 0.035, cv.rgb(0.08, 0.5, 0.35))
  main = ((0.0, top + 0.06), (0.0, 0.2), (-0.75, 0.16))
  jib = ((0.1, top + 0.15), (0.1, 0.18), (rng.uniform(0.6, 0.78), 0.2))
  for corners in (main, jib):
    sail = cv.convex(g.x, g.y, corners) - 0.015
    cover = g.paint(sail, cloth)
    seams = np.sin(g.y * 28 + g.x * 4)
    g.shade(1 - cover * 0.10 * cv.smooth(0.6, 1.0, seams))
    # Cloth bellies out: brighter on the side of the light.
    swell = cv.smooth(-0.5, 0.5, g.light.x * (g.x - corners[2][0] * 0.5))
    g.shade(1 - cover * 0.28 * (1 - swell))
  if rng.chance(0.5):
    band = np.abs(g.y + 0.2) - 0.09
    cover = g.cover(np.maximum(band, cv.convex(g.x, g.y, main)))
    g.tint(cover, trim)
  if rng.chance(0.6):
    g.convex(((0.05, top - 0.02), (0.05, top + 0.12), (0.3, top + 0.05)), trim)


def _cabin(g: Canvas, rng: Rng, trim: cv.Map) -> None:
  """Deck house with windows and a funnel."""
  chimney = rng.uniform(-0.5, 0.1)
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
  wall = cv.rgb(0.1, rng.uniform(0.02, 0.3), 0.93)
  g.convex(((-0.6, -0.25), (0.42, -0.25), (0.5, 0.4), (-0.6, 0.4)), wall)
  g.convex(((-0.68, -0.33), (0.5, -0.33), (0.5, -0.23), (-0.68, -0.23)), trim)
  glass = cv.rgb(0.55, 0.4, 0.35)
  for x in (-0.4, -0.07, 0.26):
    g.disc(x, 0.02, 0.105, glass)
    g.disc(x - 0.03, -0.01, 0.035, WHITE)


PAINTERS = {
  'apple': apple,
  'ball': ball,
  'bird': bird,
  'boat': boat,
  'butterfly': butterfly,
  'cactus': cactus,
  'cat': cat,
  'fish': fish,
  'flower': flower,
  'leaf': leaf,
  'mushroom': mushroom,
  'starfish': starfish,
}
