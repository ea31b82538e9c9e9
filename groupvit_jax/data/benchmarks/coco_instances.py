"""Label maps drawn from COCO's instance annotations, by pycocotools.

In the coding of COCO-Stuff's PNGs: the category's id less one, 255 for none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groupvit_jax.data.benchmarks.example import IGNORED
from groupvit_jax.errors import ImageError


def draw(
  image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], name: str
) -> np.ndarray:
  """Draws the instances of a picture.

  Crowds first, then from the largest instance to the smallest, so that small
  ones in front of large ones stay visible. COCO-Stuff's maps decide overlaps by
  hand; elsewhere both are equal.

  Args:
    image: its record: height, width.
    annotations: its instances: category_id, segmentation (polygons, or run
      lengths), area, iscrowd.
    name: what messages call it.

  Returns:
    Stored values, int32 [h, w].

  Raises:
    ImageError: a segmentation that cannot be drawn.
  """
  try:
    height, width = image['height'], image['width']
    label = np.full((height, width), IGNORED, np.int32)
    for annotation in sorted(annotations, key=_depth):
      inside = _mask(annotation['segmentation'], height, width)
      label[inside] = annotation['category_id'] - 1
  except (IndexError, KeyError, TypeError, ValueError) as error:
    raise ImageError(
      f'{name} has an instance that cannot be drawn ({type(error).__name__}: '
      f'{error}); download the annotations anew.'
    ) from error
  return label


def _depth(annotation):
  crowd = annotation.get('iscrowd', 0)
  return (not crowd, -annotation['area'], annotation.get('id', 0))


def _mask(segmentation, height, width):
  if isinstance(segmentation, list):
    polygons = [p for p in segmentation if len(p) >= 6]  # three corners
    if not polygons:
      return np.zeros((height, width), bool)
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
  elif isinstance(segmentation['counts'], list):
    runs = coco_mask.frPyObjects(segmentation, height, width)
  else:
    runs = segmentation
  return coco_mask.decode(runs) > 0
