"""The report's pictures: what the groups became, and how they formed.

Views of one picture side by side, and the same pictures as training goes on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from groupvit_jax import report_parts as parts
from groupvit_jax.report_parts import Classes
from groupvit_jax.viz import overlay

# What a picture may show, in order: (key, caption, alternative text).
VIEWS = (
  ('image', 'Picture', 'The picture'),
  ('first_groups', 'First-stage groups', 'First-stage groups over the picture'),
  ('final_groups', 'Final groups', 'Final groups over the picture'),
  ('prediction', 'Predicted', 'Predicted classes'),
  ('truth', 'Truth', 'True classes'),
)

PICTURE_SIDE = 176  # pixels; small pictures are enlarged to it
SNAPSHOT_SIDE = 112
MAX_SIDE = 256  # larger pictures are reduced to it
MIN_SHARE = 0.01  # of a picture, for a class to be listed beside it


def gallery(pictures: Sequence[Mapping[str, Any]], classes: Classes) -> str:
  """Every picture with its groups and classes side by side.

  Args:
    pictures: as `report.write_report` takes them.
    classes: of the maps `prediction` and `truth`.

  Returns:
    HTML; empty text without pictures.
  """
  if not pictures:
    return ''
  words = (
    '<p class="soft">Validation pictures. Each group of pixels keeps its '
    'colour from picture to picture; a crossed class name is not in the '
    "picture's truth.</p>"
  )
  views = _views(pictures)
  rows = ''.join(_picture(p, views, classes) for p in pictures)
  return words + _legend(classes) + rows


def _picture(
  picture: Mapping[str, Any],
  views: Sequence[tuple[str, str, str]],
  classes: Classes,
) -> str:
  shown = [view for view in views if picture.get(view[0]) is not None]
  figures = ''.join(
    f'<figure>{_image(picture, key, alt, classes, PICTURE_SIDE)}'
    f'<figcaption><b>{caption}</b>{_detail(picture, key, classes)}</figcaption>'
    '</figure>'
    for key, caption, alt in shown
  )
  said = picture.get('caption')
  said = f'<p class="said soft">{parts.text(said)}</p>' if said else ''
  return (
    f'<article class="card picture">{said}'
    f'<div class="views" style="--views:{len(shown)}">{figures}</div></article>'
  )


def _views(
  pictures: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str, str]]:
  """The views that any of the pictures has, each of them once."""
  # With one grouping stage the first groups are the final ones: in all
  # pictures. Two stages may agree in some, where both have collapsed.
  once = all(
    np.array_equal(p.get('first_groups'), p.get('final_groups'))
    for p in pictures
  )
  return [
    view
    for view in VIEWS
    if any(p.get(view[0]) is not None for p in pictures)
    and not (once and view[0] == 'first_groups')
  ]


def _image(
  picture: Mapping[str, Any],
  key: str,
  alt: str,
  classes: Classes,
  side: int,
) -> str:
  image = np.asarray(picture['image'], np.uint8)
  if key == 'image':
    pixels = overlay.enlarge(image, side)
  else:
    labels = np.asarray(picture[key]).astype(np.int32)
    if key in ('prediction', 'truth'):
      colours = classes.colours
      alt = f'{alt}: {", ".join(_present(labels, classes))}'
    else:
      colours = overlay.palette(int(labels.max()) + 1)
    pixels = overlay.overlay(image, labels, colours, min_side=side)
  pixels = _shrink(pixels)
  height, width = pixels.shape[:2]
  return (
    f'<img src="{overlay.data_uri(pixels)}" width="{width}" '
    f'height="{height}" alt="{parts.text(alt)}">'
  )


def _shrink(pixels: np.ndarray) -> np.ndarray:
  longest = max(pixels.shape[:2])
  if longest <= MAX_SIDE:
    return pixels
  size = [max(1, round(s * MAX_SIDE / longest)) for s in pixels.shape[1::-1]]
  small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
  return np.asarray(small)


def _detail(picture: Mapping[str, Any], key: str, classes: Classes) -> str:
  """What stands under a view: how many groups, or which classes."""
  if key in ('final_groups', 'first_groups'):
    count = len(np.unique(np.asarray(picture[key])))
    return f' <span class="soft">{count} used</span>'
  if key not in ('prediction', 'truth'):
    return ''
  present = _present(np.asarray(picture[key]), classes)
  truth = picture.get('truth')
  true = present if truth is None else _present(np.asarray(truth), classes, 0.0)
  return _chips(
    [
      (name, classes.colours[index], name in true)
      for name, index in present.items()
    ]
  )


def _present(
  labels: np.ndarray, classes: Classes, min_share: float = MIN_SHARE
) -> dict[str, int]:
  """name -> index of the classes in a map, the largest first."""
  values, counts = np.unique(labels, return_counts=True)
  order = np.argsort(-counts, kind='stable')
  return {
    classes.names[values[i]]: int(values[i])
    for i in order
    if 0 <= values[i] < len(classes.names)
    and counts[i] >= min_share * labels.size
  }


def _chips(
  chips: Sequence[tuple[str, Any, bool]], extra_class: str = ''
) -> str:
  items = []
  for name, colour, right in chips:
    wrong = '' if right else ' class="wrong" title="not in the truth"'
    shown = parts.text(name) if right else f'<s>{parts.text(name)}</s>'
    items.append(
      f'<li{wrong}><span class="swatch" '
      f'style="background:{overlay.hex_colour(colour)}"></span>{shown}</li>'
    )
  return f'<ul class="chips {extra_class}">{"".join(items)}</ul>'


def _legend(classes: Classes) -> str:
  if not classes.names:
    return ''
  return _chips(
    [(n, c, True) for n, c in zip(classes.names, classes.colours, strict=True)],
    'legend',
  )


def forming(
  snapshots: Sequence[tuple[int, Sequence[Mapping[str, Any]]]],
  classes: Classes,
) -> str:
  """A strip for each picture: its groups and classes step by step.

  Args:
    snapshots: (step, pictures), the same pictures at each step, in order.
    classes: of the maps `prediction` and `truth`.

  Returns:
    HTML; empty text without pictures that all snapshots have.
  """
  count = min((len(pictures) for _, pictures in snapshots), default=0)
  if not count:
    return ''
  words = (
    '<p class="soft">The same validation pictures as training goes on; under '
    'groups, how many of them a picture uses.</p>'
  )
  views = _views([p for _, pictures in snapshots for p in pictures])
  strips = ''.join(
    _strip(i, [(s, pictures[i]) for s, pictures in snapshots], views, classes)
    for i in range(count)
  )
  return words + strips


def _strip(
  index: int,
  steps: Sequence[tuple[int, Mapping[str, Any]]],
  views: Sequence[tuple[str, str, str]],
  classes: Classes,
) -> str:
  first = steps[0][1]
  head = ''.join(
    f'<th scope="col">Step {parts.count(step)}</th>' for step, _ in steps
  )
  true = first.get('truth') is not None
  head += '<th scope="col">Truth</th>' if true else ''
  image = _image(first, 'image', 'The picture', classes, SNAPSHOT_SIDE)
  rows = ''
  for key, caption, alt in views:
    if key in ('image', 'truth'):
      continue
    cells = ''.join(
      _cell(p, key, f'{alt} at step {step}', classes) for step, p in steps
    )
    if key == 'prediction' and true:
      cells += _cell(first, 'truth', 'True classes', classes)
    rows += f'<tr><th scope="row">{caption}</th>{cells}</tr>'
  name = parts.text(first.get('caption') or f'Picture {index + 1}')
  return (
    f'<div class="card picture scroll" role="region" tabindex="0" '
    f'aria-label="Groups forming: {name}"><table class="forming">'
    f'<thead><tr><td class="forming-image">{image}</td>{head}</tr></thead>'
    f'<tbody>{rows}</tbody></table></div>'
  )


def _cell(
  picture: Mapping[str, Any], key: str, alt: str, classes: Classes
) -> str:
  """A view in the table; empty where the picture has none at that step."""
  if picture.get(key) is None:
    return '<td></td>'
  image = _image(picture, key, alt, classes, SNAPSHOT_SIDE)
  groups = key in ('first_groups', 'final_groups')
  return f'<td>{image}{_detail(picture, key, classes) if groups else ""}</td>'
