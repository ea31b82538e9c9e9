"""Words on pictures: names at the centres of regions, and legends.

Every name stands on a chip of its class's colour with a white rim, so that it
reads on any picture and is found again in the legend.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from groupvit_jax.viz import colors
from groupvit_jax.viz.colors import fit

# Where a map's regions are, and where in them a name can stand.
#
# Works on a small copy of the map, so that a photo of any size takes
# milliseconds, in numpy alone.

_SIDE = 256  # of the small copy
_SPECK = 0.001  # share of the picture under which a region gets no name
_LARGE = 0.05  # further regions of the same class are named from here on
_POINTS = 40  # places tried for a name


class Region(NamedTuple):
  """A connected region that deserves a name.

  Attributes:
    label: its class.
    share: of the picture's pixels, 0..1.
    points: places for the name's centre, the best first: (y, x) in 0..1.
  """

  label: int
  share: float
  points: Float[np.ndarray, 'n 2']


def regions(labels: Integer[np.ndarray, 'h w']) -> list[Region]:
  """The regions to name: of every class the largest, and other large ones.

  Args:
    labels: classes of the pixels.

  Returns:
    The regions, the largest first. Specks are left out.
  """
  factor = max(labels.shape) / _SIDE
  if factor > 1:
    small = tuple(max(1, round(side / factor)) for side in labels.shape)
    labels = fit(labels, small)
  parts, inside = components(labels), depths(labels)
  _, first, areas = np.unique(parts, return_index=True, return_counts=True)
  named, found = set(), []
  for part in np.argsort(-areas, kind='stable'):
    label, share = int(labels.flat[first[part]]), areas[part] / labels.size
    if share < _SPECK or (label in named and share < _LARGE):
      continue
    named.add(label)
    points = _inner_points(parts == part, inside)
    found.append(Region(label, float(share), points))
  return found


def components(labels: Integer[np.ndarray, 'h w']) -> Int[np.ndarray, 'h w']:
  """Connected regions of equal label (4 neighbours), numbered from 0."""
  starts = np.ones(labels.shape, bool)
  starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
  runs = starts.cumsum().reshape(labels.shape) - 1
  below = labels[1:] == labels[:-1]
  upper, lower = runs[:-1][below], runs[1:][below]
  # Joined runs take the smallest number among them, over and over, each time
  # by way of those that their neighbours have found.
  root = np.arange(runs[-1, -1] + 1)
  while True:
    a, b = root[upper], root[lower]
    if (a == b).all():
      break
    np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
    while (root != root[root]).any():
      root = root[root]
  return np.unique(root, return_inverse=True)[1][runs].astype(np.int32)


def depths(labels: Integer[np.ndarray, 'h w']) -> Int[np.ndarray, 'h w']:
  """Steps of a chess king to another label or off the picture, less one."""
  own = np.pad(
    labels.astype(np.int64), 1, constant_values=int(labels.min()) - 1
  )
  across = (own[:, :-2] == own[:, 1:-1]) & (own[:, 1:-1] == own[:, 2:])
  down = (own[:-2] == own[1:-1]) & (own[1:-1] == own[2:])
  alive = across[:-2] & across[1:-1] & across[2:] & down[:, 1:-1]
  steps = np.zeros(labels.shape, np.int32)
  while alive.any():
    steps += alive
    alive = _erode(alive)
  return steps


def _erode(mask: np.ndarray) -> np.ndarray:
  mask = np.pad(mask, 1)
  mask = mask[:-2] & mask[1:-1] & mask[2:]
  return mask[:, :-2] & mask[:, 1:-1] & mask[:, 2:]


def _inner_points(
  part: np.ndarray, inside: np.ndarray
) -> Float[np.ndarray, 'n 2']:
  """Deep points of a region; of equally deep ones, those near its middle."""
  points = np.argwhere(part)
  depth = inside[part]
  off = np.abs(points - points.mean(0)).sum(1)
  # Shallow points come last, and only in places far enough apart to help.
  order = np.lexsort((off, -depth))
  order = order[:: max(1, len(order) // _POINTS)]
  return (points[order] + 0.5) / part.shape


_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (117, 120, 126)
_SMOOTH = 4  # shapes are drawn so much larger, then reduced: smooth edges

# What Pillow brings has Latin letters only; others are looked for among fonts
# that systems often have.
_OTHER_FONTS = (
  'DejaVuSans.ttf',
  'NotoSans-Regular.ttf',
  'Arial Unicode.ttf',
  'Arial.ttf',
  'NotoSansCJK-Regular.ttc',
  'PingFang.ttc',
  'msyh.ttc',
)


def text_size(height: int, width: int) -> int:
  """Font size in pixels for a picture: small ones stay readable."""
  return int(np.clip(round((height * width) ** 0.5 / 32), 13, 48))


def draw_names(
  picture: UInt8[np.ndarray, 'h w 3'],
  labels: Integer[np.ndarray, 'h w'],
  names: Sequence[str],
  colours: UInt8[np.ndarray, 'n 3'],
) -> UInt8[np.ndarray, 'h w 3']:
  """Writes every region's name into it.

  Args:
    picture: RGB, what is written on.
    labels: classes of its pixels.
    names: of the classes; an empty one is not written.
    colours: of the classes.

  Returns:
    RGB picture. A name that would lie on another is moved inside its region,
    and left out where there is no room.
  """
  canvas = Image.fromarray(picture)
  size = text_size(*labels.shape)
  taken = []
  for region in regions(labels):
    name = names[region.label]
    if not name:
      continue
    chip = _chip(name, colours[region.label].tobytes(), size, canvas.width)
    place = _free_place(region.points, chip.size, canvas.size, taken)
    if place is not None:
      taken.append((*place, place[0] + chip.width, place[1] + chip.height))
      canvas.paste(chip, place, chip)
  return np.asarray(canvas)


def _free_place(points, size, canvas, taken) -> tuple[int, int] | None:
  """The first of the points round which a chip fits; its top left corner."""
  if size[0] > canvas[0] or size[1] > canvas[1]:
    return None
  for y, x in points:
    left = int(np.clip(x * canvas[0] - size[0] / 2, 0, canvas[0] - size[0]))
    top = int(np.clip(y * canvas[1] - size[1] / 2, 0, canvas[1] - size[1]))
    right, bottom = left + size[0], top + size[1]
    if all(
      right <= box[0] or left >= box[2] or bottom <= box[1] or top >= box[3]
      for box in taken
    ):
      return left, top
  return None


@functools.lru_cache(1024)
def _chip(name: str, colour: bytes, size: int, limit: int) -> Image.Image:
  """A name in a rounded box, RGBA, at most `limit` wide."""
  rgb = np.frombuffer(colour, np.uint8)
  margin, rim = round(size * 0.45), max(1, size // 10)
  text = _cut(name, size, limit - 2 * (margin + rim))
  font = _font(size, text)
  width = round(font.getlength(text)) + 2 * (margin + rim)
  height = round(size * 1.45) + 2 * rim
  chip = Image.new('RGBA', (width, height), (255, 255, 255, 0))
  outer = _rounded((width, height), height // 2)
  chip.paste((255, 255, 255, 255), (0, 0), outer)
  inner = _rounded((width - 2 * rim, height - 2 * rim), (height - 2 * rim) // 2)
  chip.paste((*(int(c) for c in rgb), 255), (rim, rim), inner)
  ImageDraw.Draw(chip).text(
    (width / 2, height / 2),
    text,
    font=font,
    anchor='mm',
    fill=(*colors.contrasting(rgb), 255),
  )
  return chip


def legend_strip(
  names: Sequence[str],
  shares: Sequence[float],
  colours: UInt8[np.ndarray, 'n 3'],
  width: int,
  size: int,
) -> UInt8[np.ndarray, 'h w 3']:
  """Swatches, names and shares in rows, to stand under a picture.

  Args:
    names: in the order in which they are shown.
    shares: of the picture, 0..1.
    colours: of the names.
    width: of the strip in pixels; long names are cut to it.
    size: of the font in pixels.

  Returns:
    RGB picture of that width; no rows for no names.
  """
  gap, line = round(size * 0.7), round(size * 1.8)
  items, x, y = [], gap, gap // 2
  for name, share, colour in zip(names, shares, colours, strict=True):
    percent = f'{share:.0%}' if share >= 0.005 else '<1%'
    tail = _font(size, percent).getlength(percent) + 0.4 * size
    room = width - 2 * gap - round(1.4 * size + tail)
    text = _cut(name, size, room)
    wide = round(1.4 * size + _font(size, text).getlength(text) + tail)
    if x > gap and x + wide + gap > width:
      x, y = gap, y + line
    items.append((x, y, text, percent, colour))
    x += wide + round(1.2 * size)
  height = y + line + gap // 2 if items else 0
  canvas = Image.new('RGB', (width, height), _PAPER)
  for item in items:
    _draw_item(canvas, size, line, *item)
  return np.asarray(canvas)


def _draw_item(canvas, size, line, x, y, text, percent, colour) -> None:
  draw, font = ImageDraw.Draw(canvas), _font(size, text)
  middle = y + line // 2
  swatch = _rounded((size, size), size // 4)
  canvas.paste(tuple(int(c) for c in colour), (x, middle - size // 2), swatch)
  left = x + 1.4 * size
  draw.text((left, middle), text, font=font, anchor='lm', fill=_INK)
  left += font.getlength(text) + 0.4 * size
  font = _font(size, percent)
  draw.text((left, middle), percent, font=font, anchor='lm', fill=_FAINT)


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
  """A filled rounded box as a mask with smooth edges."""
  large = tuple(_SMOOTH * side for side in size)
  mask = Image.new('L', large, 0)
  box = (0, 0, large[0] - 1, large[1] - 1)
  ImageDraw.Draw(mask).rounded_rectangle(box, _SMOOTH * radius, 255)
  return mask.resize(size, Image.Resampling.BOX)


def _cut(text: str, size: int, width: float | int) -> str:
  """The text, or what of it fits into a width, with an ellipsis."""
  font = _font(size, text[:200])
  if len(text) <= 200 and font.getlength(text) <= width:
    return text
  text = text[:200]
  while text and font.getlength(f'{text}…') > width:
    text = text[:-1]
  return f'{text.rstrip()}…'


@functools.lru_cache(256)
def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
  """A font that has all letters of a text, as far as one is at hand."""
  standard = ImageFont.load_default(size=size)
  if text.isascii() or _has_letters(standard, text):
    return standard
  for name in _OTHER_FONTS:
    try:
      font = ImageFont.truetype(name, size)
    except OSError:
      continue
    if _has_letters(font, text):
      return font
  return standard


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
  missing = bytes(font.getmask('\uffff'))  # the box drawn for what is lacking
  return all(bytes(font.getmask(c)) != missing for c in set(text) - set(' '))
