"""Words on images: names at the centres of regions, and legends.

Every name stands on a chip of its class's colour with a white rim, so that it
reads on any image and is found again in the legend.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from groupvit_jax.viz import colours as colours_lib

_SIDE = 256  # of the small copy of a map in which places are looked for
_SPECK = 0.001  # share of the image under which a region gets no name
_LARGE = 0.05  # further regions of the same class are named from here on
_POINTS = 40  # places tried for a name

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Region(NamedTuple):
  """A connected region that deserves a name.

  Attributes:
    label: its class.
    share: of the image's pixels, 0..1.
    points: places for the name's centre, the best first: (y, x) in 0..1.
  """

  label: int
  share: float
  points: Float[np.ndarray, 'n 2']


def regions(labels: Integer[np.ndarray, 'h w']) -> list[Region]:
  """The regions to name: of every class the largest, and other large ones.

  Returns:
    The regions, the largest first. Specks are left out.
  """
  step = max(1, -(-max(labels.shape) // _SIDE))
  small = labels[step // 2 :: step, step // 2 :: step]
  if not small.size:  # thinner than a step
    small = labels
  found = []
  for label in np.unique(small):
    # SciPy declares no types of its results.
    parts, count = cast(Any, ndimage.label(small == label))
    areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas, kind='stable')
    for place, part in enumerate(order):
      share = float(areas[part] / small.size)
      if share < (_LARGE if place else _SPECK):
        break
      points = _inner_points(parts == part + 1)
      found.append(Region(int(label), share, points))
  return sorted(found, key=lambda region: -region.share)


def _inner_points(part: Bool[np.ndarray, 'h w']) -> Float[np.ndarray, 'n 2']:
  """Deep points of a region; of equally deep ones, those near its middle."""
  depth: Any = ndimage.distance_transform_cdt(np.pad(part, 1), 'chessboard')
  depth = depth[1:-1, 1:-1][part]
  points = np.argwhere(part)
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
  """Font size in pixels for an image: small ones stay readable."""
  return int(np.clip(round((height * width) ** 0.5 / 32), 13, 48))


def draw_names(
  image: UInt8[np.ndarray, 'h w 3'],
  labels: Integer[np.ndarray, 'h w'],
  names: Sequence[str],
  colours: UInt8[np.ndarray, 'n 3'],
) -> UInt8[np.ndarray, 'h w 3']:
  """Writes every region's name into it.

  Args:
    image: RGB, what is written on.
    labels: classes of its pixels.
    names: of the classes; an empty one is not written.
    colours: of the classes.

  Returns:
    RGB image. A name that would lie on another is moved inside its region,
    and left out where there is no room.
  """
  canvas = Image.fromarray(image)
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


def _free_place(points, size, canvas, taken):
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
    fill=(*colours_lib.contrasting(rgb), 255),
  )
  return chip


def legend_strip(
  items: Sequence[tuple[str, str, UInt8[np.ndarray, '3']]],
  width: int,
  size: int,
) -> UInt8[np.ndarray, 'h w 3']:
  """Swatches, names and figures in rows, to stand under an image.

  Args:
    items: name, figures and colour of each, in the order in which they are
      shown.
    width: of the strip in pixels; long names are cut to it.
    size: of the font in pixels.

  Returns:
    RGB image of that width; no rows for no items.
  """
  gap, line, swatch = round(size * 0.7), round(size * 1.8), round(size * 1.4)
  placed, x, y = [], gap, gap // 2
  for name, figures, colour in items:
    tail = round(_font(size, figures).getlength(figures) + 0.4 * size)
    text = _cut(name, size, width - 2 * gap - swatch - tail)
    head = swatch + round(_font(size, text).getlength(text))
    if x > gap and x + head + tail + gap > width:
      x, y = gap, y + line
    placed.append((x, x + head + round(0.4 * size), y, text, figures, colour))
    x += head + tail + round(1.2 * size)
  height = y + line + gap // 2 if placed else 0
  canvas = Image.new('RGB', (width, height), _PAPER)
  draw = ImageDraw.Draw(canvas)
  for left, middle, y, text, figures, colour in placed:
    centre = y + line // 2
    mask = _rounded((size, size), size // 4)
    rgb = tuple(int(c) for c in colour)
    canvas.paste(rgb, (left, centre - size // 2), mask)
    for at, words, ink in (
      (left + swatch, text, _INK),
      (middle, figures, _FAINT),
    ):
      font = _font(size, words)
      draw.text((at, centre), words, font=font, anchor='lm', fill=ink)
  return np.asarray(canvas)


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
  """A filled rounded box as a mask with smooth edges."""
  large = (_SMOOTH * size[0], _SMOOTH * size[1])
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
def _font(size: int, text: str) -> Font:
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


def _has_letters(font: Font, text: str) -> bool:
  def pixels(letter: str) -> bytes:
    mask: Any = font.getmask(letter)
    return bytes(mask)

  missing = pixels('\uffff')  # the box drawn for what is lacking
  return all(pixels(letter) != missing for letter in set(text) - set(' '))
