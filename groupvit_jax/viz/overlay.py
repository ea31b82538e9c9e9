"""Pictures for people: group maps, overlays, legends, as arrays and PNG.

Needs numpy and Pillow only, and gives a class or group the same colour always.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from groupvit_jax.text import prompts
from groupvit_jax.viz import names as names_lib
from groupvit_jax.viz.colors import (
  borders,
  enlarge,
  fit,
  palette,
  shrink,
  wide_borders,
  within,
)

IGNORE = 255  # pixels without truth, drawn grey
GREY = (128, 128, 128)
_BACKGROUND = (0, 0, 0)  # as in the masks of VOC
_CROWDED = 0.3  # share of borders from which they would hide the colours
_DARKENED = 0.6  # brightness of what is background
_FOR_NAMES = 320  # the least side of a picture on which names are written


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


def class_colours(
  count: int, background: bool = False
) -> UInt8[np.ndarray, 'n 3']:
  """Colours of classes; with a background it is class 0, and black."""
  if not background:
    return palette(count)
  return np.concatenate([np.array([_BACKGROUND], np.uint8), palette(count - 1)])


def overlay_with_names(
  image: UInt8[np.ndarray, 'h w 3'],
  labels: Integer[np.ndarray, 'h w'],
  names: Sequence[str],
  *,
  background: bool = False,
  opacity: float | int = 0.55,
  max_side: int | None = 2048,
) -> UInt8[np.ndarray, 'H W 3']:
  """A photo with its classes in colour, their names, and a legend below.

  Args:
    image: RGB photo.
    labels: classes of its pixels.
    names: of the classes; of synonyms "person|man" the first is shown.
    background: whether class 0 is the background, which is only darkened.
    opacity: of the colours, 0..1.
    max_side: larger photos are reduced to it; None leaves them.

  Returns:
    RGB picture, higher than the photo by the legend.
  """
  image = enlarge(shrink(image, max_side), _FOR_NAMES)
  small = fit(labels, image.shape[:2])
  grey = np.asarray(Image.fromarray(image).convert('L'), np.float32)[..., None]
  colours = class_colours(len(names), background).astype(np.float32)
  # Lifted, so that a class has its colour in the shadows too.
  picture = (1 - opacity) * (64 + 0.75 * grey) + opacity * colours[small]
  if background:
    picture = np.where((small == 0)[..., None], _DARKENED * grey, picture)
  picture = np.rint(picture).astype(np.uint8)
  return _with_names(picture, small, labels, names, background)


def class_map(
  labels: Integer[np.ndarray, 'h w'],
  names: Sequence[str],
  *,
  background: bool = False,
  max_side: int | None = 2048,
) -> UInt8[np.ndarray, 'H W 3']:
  """The classes alone, in colour, with names and a legend.

  Args:
    labels: classes of the pixels.
    names: of the classes.
    background: whether class 0 is the background, which is black.
    max_side: larger maps are reduced to it; None leaves them.

  Returns:
    RGB picture, higher than the map by the legend.
  """
  small = enlarge(fit(labels, within(labels.shape, max_side)), _FOR_NAMES)
  picture = class_colours(len(names), background)[small]
  return _with_names(picture, small, labels, names, background)


def _with_names(picture, small, labels, names, background) -> np.ndarray:
  """Borders, names and a legend; `small` are the labels at picture's size."""
  colours = class_colours(len(names), background)
  shown = [prompts.shown_name(name) for name in names]
  picture = picture.copy()
  edge = wide_borders(small)
  if edge.mean() < _CROWDED:
    picture[edge] = 255
  written = ['', *shown[1:]] if background else shown
  picture = names_lib.draw_names(picture, small, written, colours)
  areas = np.bincount(labels.ravel(), minlength=len(names))
  order = [i for i in np.argsort(-areas, kind='stable') if areas[i]]
  strip = names_lib.legend_strip(
    [shown[i] for i in order],
    [float(areas[i] / labels.size) for i in order],
    colours[order],
    picture.shape[1],
    names_lib.text_size(*picture.shape[:2]),
  )
  return np.concatenate([picture, strip])


def groups_overlay(
  image: UInt8[np.ndarray, 'h w 3'],
  groups: Integer[np.ndarray, 'H W'],
  *,
  max_side: int | None = 2048,
) -> UInt8[np.ndarray, 'a b 3']:
  """A photo with its groups in colour; group i has colour i of the palette."""
  image = shrink(image, max_side)
  return overlay(image, groups, palette(int(groups.max()) + 1))


def palette_image(
  labels: Integer[np.ndarray, 'h w'],
  count: int | None = None,
  *,
  background: bool = False,
) -> Image.Image:
  """A mask whose pixel values are the classes, coloured by a table.

  Args:
    labels: classes of the pixels, below 65,536.
    count: of the classes; by default as many as the labels need.
    background: whether class 0 is the background, which is black.

  Returns:
    PIL image of mode P, or 16-bit grey (I;16) for more than 256 classes.
  """
  count = int(labels.max()) + 1 if count is None else count
  if count > 256:
    return Image.fromarray(labels.astype(np.uint16))
  image = Image.fromarray(labels.astype(np.uint8))
  image.putpalette(class_colours(count, background).tobytes())
  return image


def palette_png(
  labels: Integer[np.ndarray, 'h w'],
  count: int | None = None,
  *,
  background: bool = False,
) -> bytes:
  """PNG of `palette_image`."""
  buffer = io.BytesIO()
  palette_image(labels, count, background=background).save(buffer, format='PNG')
  return buffer.getvalue()


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
