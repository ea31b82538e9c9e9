"""Pictures for people: group maps, overlays, legends, as arrays and PNG.

Needs numpy and Pillow only, and gives a class or group the same colour always.
"""

import base64
import functools
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

IGNORE = 255  # pixels without truth, drawn grey
GREY = (128, 128, 128)

# Colours are chosen in Oklab (Ottosson 2020), where equal distances look equal:
# each one as far as it can be from those before it.
_LIGHTNESS = (0.48, 0.58, 0.68, 0.78, 0.86)
_CHROMA = (0.08, 0.115, 0.15)
_NUM_HUES = 48
_FIRST_HUE = 250  # degrees; blue
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


def palette(size: int) -> UInt8[np.ndarray, 'n 3']:
  """The first colours of a fixed list.

  Args:
    size: how many; colour i does not depend on it. After some hundreds the list
      begins again.

  Returns:
    RGB colours.
  """
  colours = _all_colours()
  return colours[np.arange(size) % len(colours)]


@functools.cache
def _all_colours() -> np.ndarray:
  lab = np.array(
    [
      (lightness, chroma * np.cos(hue), chroma * np.sin(hue))
      for chroma in _CHROMA[::-1]  # the strongest colours first
      for lightness in _LIGHTNESS[1:] + _LIGHTNESS[:1]
      for hue in np.deg2rad(_FIRST_HUE)
      + 2 * np.pi * np.arange(_NUM_HUES) / _NUM_HUES
    ]
  )
  linear = (lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
  shown = ((linear >= 0) & (linear <= 1)).all(-1)  # what a screen can show
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


def hex_colour(colour: Sequence[int] | np.ndarray) -> str:
  """'#rrggbb' of an RGB colour."""
  return '#{:02x}{:02x}{:02x}'.format(*(int(c) for c in colour))


def colourise(
  labels: Integer[np.ndarray, 'h w'], colours: UInt8[np.ndarray, 'n 3']
) -> UInt8[np.ndarray, 'h w 3']:
  """Paints a map of classes or groups.

  Args:
    labels: indices into `colours`; 255 and anything out of range is grey.
    colours: RGB.

  Returns:
    RGB picture.
  """
  known = (labels >= 0) & (labels < len(colours)) & (labels != IGNORE)
  table = np.concatenate([colours, np.array([GREY], np.uint8)])
  return table[np.where(known, labels, len(colours))]


def enlarge(
  picture: Integer[np.ndarray, 'h w *c'], min_side: int = 160
) -> Integer[np.ndarray, 'H W *c']:
  """Repeats pixels so that the shorter side has at least `min_side`.

  Whole multiples only: small pictures stay honest about their pixels, and large
  ones stay as they are.
  """
  factor = max(1, -(-min_side // min(picture.shape[:2])))
  return picture.repeat(factor, 0).repeat(factor, 1)


def fit(
  labels: Integer[np.ndarray, 'h w'], size: tuple[int, int]
) -> Integer[np.ndarray, 'H W']:
  """Nearest resize of a map of indices (to a picture's size, say)."""
  rows, columns = (
    (np.arange(new) * old) // new
    for new, old in zip(size, labels.shape, strict=True)
  )
  return labels[rows[:, None], columns]


def borders(labels: Integer[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """Pixels whose right or lower neighbour has another label."""
  edge = np.zeros(labels.shape, bool)
  edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
  edge[:-1] |= labels[1:] != labels[:-1]
  return edge


def overlay(
  image: UInt8[np.ndarray, 'h w 3'],
  labels: Integer[np.ndarray, 'H W'],
  colours: UInt8[np.ndarray, 'n 3'],
  *,
  opacity: float | int = 0.6,
  min_side: int = 160,
) -> UInt8[np.ndarray, 'a b 3']:
  """Lays a map over a picture, its regions outlined in white.

  Args:
    image: RGB picture.
    labels: classes or groups of its pixels (any size; fitted by nearest).
    colours: RGB by index.
    opacity: of the map, 0..1; 1 shows the map alone.
    min_side: enlarged by repeating pixels to at least this.

  Returns:
    RGB picture. Its brightness stays visible under the colours.
  """
  labels = enlarge(fit(labels, image.shape[:2]), min_side)
  image = enlarge(image, min_side).astype(np.float32)
  # The picture in grey: colour then means region, brightness the picture.
  grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
  base = image if opacity == 0 else np.repeat(grey[..., None], 3, -1)
  out = (1 - opacity) * base + opacity * colourise(labels, colours)
  out[borders(labels)] = 255
  return np.rint(out).astype(np.uint8)


def group_map(
  groups: Integer[np.ndarray, 'h w'],
  *,
  colours: UInt8[np.ndarray, 'n 3'] | None = None,
  min_side: int = 160,
) -> UInt8[np.ndarray, 'H W 3']:
  """A map of groups alone; group i has colour i of the palette."""
  if colours is None:
    colours = palette(int(groups.max()) + 1)
  return colourise(enlarge(groups, min_side), colours)


def legend(
  names: Sequence[str], colours: UInt8[np.ndarray, 'n 3']
) -> UInt8[np.ndarray, 'h w 3']:
  """A picture with a swatch and name per line, for files that travel alone."""
  font = ImageFont.load_default(size=14)
  widths = [font.getlength(name) for name in names]
  canvas = Image.new(
    'RGB', (44 + round(max(widths, default=0)), 24 * len(names) + 8), 'white'
  )
  draw = ImageDraw.Draw(canvas)
  for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
    top = 24 * i + 8
    draw.rectangle((8, top, 24, top + 15), fill=tuple(int(c) for c in colour))
    draw.text((32, top - 1), name, fill='black', font=font)
  return np.asarray(canvas)


def png_bytes(picture: UInt8[np.ndarray, 'h w 3']) -> bytes:
  """PNG of an RGB picture, with a colour table if 256 colours suffice."""
  image = Image.fromarray(picture)
  if image.getcolors(256):  # exact: quantising changes nothing, saves half
    image = image.quantize(256, dither=Image.Dither.NONE)
  buffer = io.BytesIO()
  image.save(buffer, format='PNG', optimize=True)
  return buffer.getvalue()


def data_uri(picture: UInt8[np.ndarray, 'h w 3']) -> str:
  """PNG of an RGB picture as a data: URI for a page that stands alone."""
  return 'data:image/png;base64,' + base64.b64encode(png_bytes(picture)).decode(
    'ascii'
  )
