"""A fixed list of colours that look far apart, for classes and groups."""

import functools

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

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


def contrasting(colour: UInt8[np.ndarray, '3']) -> tuple[int, int, int]:
  """Black or white, whichever reads better on a colour.

  By WCAG 2's contrast ratio: on a relative luminance above .179, black does.
  """
  srgb = colour.astype(np.float64) / 255
  linear = np.where(
    srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4
  )
  light = linear @ np.array([0.2126, 0.7152, 0.0722])
  return (17, 17, 17) if light > 0.179 else (255, 255, 255)


# Sizes of pictures and maps, and the borders in a map.

_LONGEST = 4096  # what a narrow picture is enlarged to at most


def fit(
  labels: Integer[np.ndarray, 'h w'], size: tuple[int, int]
) -> Integer[np.ndarray, 'H W']:
  """Nearest resize of a map of indices (to a picture's size, say)."""
  rows, columns = (
    (np.arange(new) * old) // new
    for new, old in zip(size, labels.shape, strict=True)
  )
  return labels[rows[:, None], columns]


def enlarge(
  picture: Integer[np.ndarray, 'h w *c'], min_side: int = 160
) -> Integer[np.ndarray, 'H W *c']:
  """Repeats pixels so that the shorter side has at least `min_side`.

  Whole multiples only: small pictures stay honest about their pixels, and large
  ones stay as they are. A narrow one grows until it is 4096 long.
  """
  short, long = sorted(picture.shape[:2])
  factor = max(1, min(-(-min_side // short), _LONGEST // long))
  return picture.repeat(factor, 0).repeat(factor, 1)


def shrink(
  image: UInt8[np.ndarray, 'h w 3'], max_side: int | None
) -> UInt8[np.ndarray, 'H W 3']:
  """Averages pixels so that the longer side has at most `max_side`."""
  height, width = within(image.shape[:2], max_side)
  if (height, width) == image.shape[:2]:
    return image
  return np.asarray(
    Image.fromarray(image).resize(
      (width, height), Image.Resampling.LANCZOS, reducing_gap=2.0
    )
  )


def within(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
  """(height, width) reduced so that the longer side is at most `max_side`."""
  factor = max(1.0, max(size) / max_side) if max_side else 1.0
  return max(1, round(size[0] / factor)), max(1, round(size[1] / factor))


def borders(labels: Integer[np.ndarray, 'h w']) -> Bool[np.ndarray, 'h w']:
  """Pixels whose right or lower neighbour has another label."""
  edge = np.zeros(labels.shape, bool)
  edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
  edge[:-1] |= labels[1:] != labels[:-1]
  return edge


def wide_borders(labels: np.ndarray) -> np.ndarray:
  """Borders as wide as the picture's size asks for."""
  edge = borders(labels)
  for _ in range(1, round(min(labels.shape) / 400)):
    edge[:, :-1] |= edge[:, 1:]
    edge[:-1] |= edge[1:]
  return edge
