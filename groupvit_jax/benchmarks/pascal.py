"""PASCAL Context: 59 classes over the pictures of VOC 2010, 60 with background.

Truth is read from the PNGs of mmsegmentation's converter, or at once from the
trainval_merged.json that the converter reads by the `detail` package.
"""

import collections
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groupvit_jax.benchmarks import base, folders, label_sets
from groupvit_jax.errors import ImageError, SourceError

_JSON = 'trainval_merged.json'

# The 59 most frequent of the 459 categories, whose ids are in the alphabetical
# order of their names, as are the classes (mmsegmentation
# tools/convert_datasets/pascal_context.py). All others are background.
_IDS = (
  2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98,
  104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259,
  260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
  415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
_CATEGORIES = 459


def open_context(
  folder: str | os.PathLike, split: str = 'val', *, background: bool = True
) -> base.PairSet:
  """Opens VOC2010 with the Context annotations.

  Args:
    folder: VOC2010, or what holds VOCdevkit.
    split: 'val' or 'train'.
    background: whether everything outside the 59 classes is class 0; else it is
      ignored.

  Raises:
    SourceError: no annotations in either form, or an empty split.
  """
  root = folders.root_of(
    folder, ('JPEGImages',), ('VOC2010', 'VOCdevkit/VOC2010')
  )
  names = label_sets.class_names('context60' if background else 'context59')
  converted = root / 'SegmentationClassContext'
  if converted.is_dir():
    return _from_png(root, converted, split, names, background)
  if (root / _JSON).is_file():
    return _from_json(root, split, names, background)
  raise SourceError(f'{root} has no SegmentationClassContext and no {_JSON}.')


def _from_png(root, converted, split, names, background):
  ids = folders.read_list(
    root / 'ImageSets/SegmentationContext' / f'{split}.txt'
  )
  files = [
    (name, root / 'JPEGImages' / f'{name}.jpg', converted / f'{name}.png')
    for name in ids
  ]
  rule = base.as_stored(60) if background else base.less_one(59)
  return base.from_files(names, files, rule, background=background)


def _from_json(root, split, names, background):
  path = root / _JSON
  images, annotations = _parsed(path, split)
  first, other = (1, 0) if background else (0, 255)
  classes = dict.fromkeys(range(_CATEGORIES + 1), other)
  classes |= {category: first + i for i, category in enumerate(_IDS)}
  # Here 255 is a category, and nothing is ignored.
  rule = base.mapped(classes, f'categories 0 to {_CATEGORIES}')

  def raw(index):
    image = images[index]
    truth = _drawn(image, annotations[image['image_id']], path)
    picture = root / 'JPEGImages' / image['file_name']
    return base.Raw(
      picture, truth, str(picture), f'{image["file_name"]} in {path}'
    )

  stems = [pathlib.PurePosixPath(image['file_name']).stem for image in images]
  return base.PairSet(names, stems, raw, rule, background=background)


def _parsed(path, split):
  """Pictures of a split, and run lengths by picture; the rest is let go."""
  try:
    data = json.loads(path.read_bytes())
    images = [image for image in data['images'] if image['phase'] == split]
    wanted = {image['image_id'] for image in images}
    annotations = collections.defaultdict(list)
    for annotation in data['annos_segmentation']:
      if annotation['image_id'] in wanted:
        annotations[annotation['image_id']].append(
          (annotation['category_id'], annotation['segmentation'])
        )
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise SourceError(
      f'{path} cannot be read as the annotations of PASCAL Context '
      f'({type(error).__name__}: {error}); download it anew.'
    ) from error
  if not images:
    raise SourceError(
      f"{path} has no picture of the split {split!r}: it has 'train' and 'val'."
    )
  images.sort(key=lambda image: image['file_name'])
  return images, annotations


def _drawn(
  image: Mapping[str, Any], annotations: list, path: pathlib.Path
) -> np.ndarray:
  """Categories of a picture: later annotations lie over earlier ones.

  As getMask of the detail API (zhanghang1989/detail-api, PythonAPI/detail).
  """
  label = np.zeros((image['height'], image['width']), np.int32)
  try:
    for category, runs in annotations:
      label[coco_mask.decode(runs) > 0] = category
  except (IndexError, KeyError, TypeError, ValueError) as error:
    raise ImageError(
      f'{image["file_name"]} in {path} has a mask that cannot be drawn '
      f'({error}); download the annotations anew.'
    ) from error
  return label


# PASCAL VOC 2012: VOC21 with the background, VOC20 without.
#
# Masks are palette PNGs whose pixel value is the class, 255 on borders.


def open_voc(
  folder: str | os.PathLike, split: str = 'val', *, background: bool = True
) -> base.PairSet:
  """Opens VOC2012 as it is unpacked.

  Args:
    folder: VOC2012, or what holds VOCdevkit.
    split: a list in ImageSets/Segmentation, without '.txt'.
    background: whether it counts as class 0; else it is ignored (mmsegmentation
      reduce_zero_label; kakaobrain/tcl segmentation/datasets/pascal_voc.py).

  Raises:
    SourceError: no such folder or list, or an empty one.
  """
  root = folders.root_of(
    folder,
    ('JPEGImages', 'SegmentationClass'),
    ('VOC2012', 'VOCdevkit/VOC2012'),
  )
  ids = folders.read_list(root / 'ImageSets/Segmentation' / f'{split}.txt')
  files = [
    (
      name,
      root / 'JPEGImages' / f'{name}.jpg',
      root / 'SegmentationClass' / f'{name}.png',
    )
    for name in ids
  ]
  names = label_sets.class_names('voc21' if background else 'voc20')
  rule = base.as_stored(21) if background else base.less_one(20)
  return base.from_files(names, files, rule, background=background)
