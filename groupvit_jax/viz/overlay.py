"""Images for people: group maps, overlays and masks, as arrays and PNG."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

from groupvit_jax import IGNORE
from groupvit_jax.text import prompts
from groupvit_jax.viz import names as names_lib
from groupvit_jax.viz.colours import class_colours, group_palette

GREY = (128, 128, 128)
_CROWDED = 0.3  # share of borders from which they would hide the colours
_DARKENED = 0.45  # brightness of the background
_FOR_NAMES = 320  # the least side of an image on which names are written
_LONGEST = 4096  # the largest side to which a narrow image is enlarged


def fit(
  labels: Integer[np.ndarray, 'h w'], size: tuple[int, int]
) -> Integer[np.ndarray, 'H W']:
  """Nearest resize of a map of indices (to an image's size, say)."""
  rows, columns = (
    (np.arange(new) * old) // new
    for new, old in zip(size, labels.shape, strict=True)
  )
  return labels[rows[:, None], columns]


def enlarge(
  image: Integer[np.ndarray, 'h w *c'], min_side: int = 160
) -> Integer[np.ndarray, 'H W *c']:
  """Repeats pixels so that the shorter side has at least `min_side`.

  Whole multiples only: small images stay honest about their pixels, and large
  ones stay as they are. A narrow one grows until it is 4096 long.
  """
  short, long = sorted(image.shape[:2])
  factor = max(1, min(-(-min_side // short), _LONGEST // long))
  return image.repeat(factor, 0).repeat(factor, 1)


def shrink(
  image: UInt8[np.ndarray, 'h w 3'], max_side: int | None
) -> UInt8[np.ndarray, 'H W 3']:
  """Averages pixels so that the longer side has at most `max_side`."""
  height, width = _within(image.shape[:2], max_side)
  if (height, width) == image.shape[:2]:
    return image
  return np.asarray(
    Image.fromarray(image).resize(
      (width, height), Image.Resampling.LANCZOS, reducing_gap=2.0
    )
  )


def _within(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
  """(height, width) reduced so that the longer side is at most `max_side`."""
  factor = max(1.0, max(size) / max_side) if max_side else 1.0
  return max(1, round(size[0] / factor)), max(1, round(size[1] / factor))


def borders(
  labels: Integer[np.ndarray, 'h w'], width: int = 1
) -> Bool[np.ndarray, 'h w']:
  """Pixels whose right or lower neighbour, within `width`, differs."""
  edge = np.zeros(labels.shape, bool)
  edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
  edge[:-1] |= labels[1:] != labels[:-1]
  for _ in range(1, width):
    edge[:, :-1] |= edge[:, 1:]
    edge[:-1] |= edge[1:]
  return edge


def colourise(
  labels: Integer[np.ndarray, 'h w'], colours: UInt8[np.ndarray, 'n 3']
) -> UInt8[np.ndarray, 'h w 3']:
  """Paints a map of classes or groups.

  Args:
    labels: indices into `colours`; 255 and anything out of range is grey.
    colours: RGB.
  """
  known = (labels >= 0) & (labels < len(colours)) & (labels != IGNORE)
  table = np.concatenate([colours, np.array([GREY], np.uint8)])
  return table[np.where(known, labels, len(colours))]


def overlay(
  image: UInt8[np.ndarray, 'h w 3'],
  labels: Integer[np.ndarray, 'H W'],
  colours: UInt8[np.ndarray, 'n 3'],
  *,
  min_side: int = 160,
) -> UInt8[np.ndarray, 'a b 3']:
  """Lays a map over an image, its regions outlined in white.

  Args:
    image: RGB image.
    labels: classes or groups of its pixels (any size; fitted by nearest).
    colours: RGB by index.
    min_side: enlarged by repeating pixels to at least this.

  Returns:
    RGB image. Its colour and brightness stay visible under the map.
  """
  labels = enlarge(fit(labels, image.shape[:2]), min_side)
  base = enlarge(image, min_side)
  out = _blend(base, colourise(labels, colours), 0.6)
  out[borders(labels)] = 255
  return out


def _blend(
  image: UInt8[np.ndarray, 'h w 3'],
  colours: UInt8[np.ndarray, 'h w 3'],
  opacity: float,
) -> UInt8[np.ndarray, 'h w 3']:
  mixed = (1 - opacity) * image.astype(np.float32) + opacity * colours
  return np.rint(mixed).astype(np.uint8)


def groups_overlay(
  image: UInt8[np.ndarray, 'h w 3'],
  groups: Integer[np.ndarray, 'H W'],
  *,
  max_side: int | None = 2048,
) -> UInt8[np.ndarray, 'a b 3']:
  """A photo with its groups in the colours of `group_palette`."""
  colours = group_palette(int(groups.max()) + 1)
  return overlay(shrink(image, max_side), groups, colours)


def class_map(
  labels: Integer[np.ndarray, 'h w'],
  names: Sequence[str],
  image: UInt8[np.ndarray, 'h w 3'] | None = None,
  *,
  background: bool = False,
  max_side: int | None = 2048,
  scores: Mapping[str, float] | None = None,
) -> UInt8[np.ndarray, 'H W 3']:
  """Classes in colour, with borders, names, and a legend below.

  Args:
    labels: classes of the pixels.
    names: of the classes; of synonyms "person|man" the first is shown.
    image: RGB image under the colours; None for the classes alone.
    background: whether class 0 is the background: the image darkened, or black.
    max_side: larger maps are reduced to it; None leaves them.
    scores: mean score by name, for the legend.

  Returns:
    RGB image, higher than the map by the legend.
  """
  colours = class_colours(names, background)
  if image is None:
    small = enlarge(fit(labels, _within(labels.shape, max_side)), _FOR_NAMES)
    painted = colours[small]
  else:
    image = enlarge(shrink(image, max_side), _FOR_NAMES)
    small = fit(labels, image.shape[:2])
    painted = _blend(image, colours[small], 0.5)
    if background:
      dark = (_DARKENED * image).astype(np.uint8)
      painted = np.where((small == 0)[..., None], dark, painted)
  shown = [prompts.shown_name(name) for name in names]
  edge = borders(small, round(min(small.shape) / 400))
  if edge.mean() < _CROWDED:
    painted[edge] = 255
  written = ['', *shown[1:]] if background else shown
  painted = names_lib.draw_names(painted, small, written, colours)
  areas = np.bincount(labels.ravel(), minlength=len(names))
  told = dict(scores or {})
  if background:
    told.pop(shown[0], None)  # a constant, which says nothing
  items = [
    (
      shown[i],
      _figures(float(areas[i] / labels.size), told.get(shown[i])),
      colours[i],
    )
    for i in np.argsort(-areas, kind='stable')
    if areas[i]
  ]
  size = names_lib.text_size(*painted.shape[:2])
  strip = names_lib.legend_strip(items, painted.shape[1], size)
  return np.concatenate([painted, strip])


def _figures(share: float, score: float | None) -> str:
  """'31 % of area, score .13': a share of pixels is no certainty."""
  percent = f'{100 * share:.0f} %' if share >= 0.005 else '<1 %'
  if score is None:
    return f'{percent} of area'
  return f'{percent} of area, score {score:.2f}'.replace('score 0.', 'score .')


def palette_image(
  labels: Integer[np.ndarray, 'h w'],
  names: Sequence[str],
  *,
  background: bool = False,
) -> Image.Image:
  """A mask whose pixel values are the classes, coloured by a table.

  Args:
    labels: classes of the pixels, below 65,536.
    names: of the classes.
    background: whether class 0 is the background, which is black.

  Returns:
    PIL image of mode P, or 16-bit grey (I;16) for more than 256 classes.
  """
  if len(names) > 256:
    return Image.fromarray(labels.astype(np.uint16))
  image = Image.fromarray(labels.astype(np.uint8))
  image.putpalette(class_colours(names, background).tobytes())
  return image


def png_bytes(image: UInt8[np.ndarray, 'h w 3']) -> bytes:
  """PNG of an RGB image, with a colour table if 256 colours suffice."""
  made = Image.fromarray(image)
  if made.getcolors(256):  # exact: quantising changes nothing, saves half
    made = made.quantize(256, dither=Image.Dither.NONE)
  buffer = io.BytesIO()
  made.save(buffer, format='PNG', optimize=True)
  return buffer.getvalue()


def data_uri(image: UInt8[np.ndarray, 'h w 3']) -> str:
  """PNG of an RGB image as a data: URI for a page that stands alone."""
  encoded = base64.b64encode(png_bytes(image)).decode('ascii')
  return f'data:image/png;base64,{encoded}'
