"""COCO 2017: COCO-Stuff with 171 classes, COCO-Object with 80 and background.

Both are read from the PNGs of COCO-Stuff (stuffthingmaps), converted ones
included; COCO-Object also from the instance annotations.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from groupvit_jax.benchmarks import base, folders, label_sets
from groupvit_jax.benchmarks.base import IGNORED
from groupvit_jax.errors import ImageError, SourceError

# Label maps drawn from COCO's instance annotations, by pycocotools.
#
# In the coding of COCO-Stuff's PNGs: the category's id less one, 255 for none.


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


# Of the ids 0 to 181 in the PNGs (COCO's category ids less one, then stuff),
# these name no category (mmsegmentation tools/convert_datasets/
# coco_stuff164k.py, clsID_to_trID).
_ABSENT = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_LAST_THING = 90
_LAST = 181
_BY_ID = {
  value: i
  for i, value in enumerate(v for v in range(_LAST + 1) if v not in _ABSENT)
}

_STUFF_CONVERTED = '_labelTrainIds'
_OBJECT_CONVERTED = '_instanceTrainIds'


def stuff_rule() -> base.Rule:
  """Ids of the PNGs to the 171 classes; unlabelled (255) is ignored."""
  return base.mapped(_BY_ID, f'0 to {_LAST} and 255, with gaps')


def object_rule() -> base.Rule:
  """Ids of the PNGs to background and 80 objects.

  Stuff and what is not labelled become the background (NVlabs/GroupViT
  convert_dataset/convert_coco_object.py): nothing is ignored.
  """
  things = {v: i + 1 for v, i in _BY_ID.items() if v < _LAST_THING}
  stuff = dict.fromkeys((*range(_LAST_THING + 1, _LAST + 1), 255), 0)
  return base.mapped(things | stuff, f'0 to {_LAST} and 255, with gaps')


def open_coco_stuff(
  folder: str | os.PathLike, split: str = 'val2017'
) -> base.PairSet:
  """Opens COCO-Stuff 164k.

  Args:
    folder: what holds images/SPLIT (or SPLIT) and annotations/SPLIT (or
      stuffthingmaps/SPLIT), the latter with COCO-Stuff's PNGs or with
      mmsegmentation's *_labelTrainIds.png.
    split: 'val2017' or 'train2017'.

  Raises:
    SourceError: no annotations in either form, or an empty split.
  """
  root = folders.existing(folder)
  pictures = _pictures(root, split)
  names = label_sets.class_names('coco_stuff')
  truths, converted = _truths(root, split, _STUFF_CONVERTED)
  if converted:
    files = _pairs(pictures, truths, _STUFF_CONVERTED)
    return base.from_files(names, files, base.as_stored(171))
  return base.from_files(names, _pairs(pictures, truths), stuff_rule())


def open_coco_object(
  folder: str | os.PathLike, split: str = 'val2017'
) -> base.PairSet:
  """Opens COCO-Object.

  Args:
    folder: what holds images/SPLIT (or SPLIT), and the truth in one of these
      forms, the first that is there: annotations/SPLIT/*_instanceTrainIds.png
      (the released code's); COCO-Stuff's own PNGs there or in
      stuffthingmaps/SPLIT; masks_object/SPLIT/*.png, coded as the first;
      annotations/instances_SPLIT.json.
    split: 'val2017' or 'train2017'.

  Raises:
    SourceError: no truth in any form, or an empty split.
  """
  root = folders.existing(folder)
  pictures = _pictures(root, split)
  names = label_sets.class_names('coco_object')
  drawn = root / 'masks_object' / split
  instances = root / 'annotations' / f'instances_{split}.json'
  truths, converted = _truths(root, split, _OBJECT_CONVERTED, required=False)
  if converted:
    files = _pairs(pictures, truths, _OBJECT_CONVERTED)
    return _objects(names, files, base.as_stored(81))
  if truths is not None:
    return _objects(names, _pairs(pictures, truths), object_rule())
  if drawn.is_dir():
    return _objects(names, _pairs(pictures, drawn), base.as_stored(81))
  if instances.is_file():
    return _from_instances(names, pictures, instances)
  raise SourceError(
    f'{root} has no {_OBJECT_CONVERTED}.png or other label maps in '
    f'annotations/{split}, and no annotations/{instances.name}.'
  )


def _objects(names, files, rule):
  return base.from_files(names, files, rule, background=True)


def _pictures(root, split):
  for place in (root / 'images' / split, root / split):
    if place.is_dir():
      return place
  raise SourceError(f'{root} has no images/{split} and no {split}.')


def _truths(root, split, converted, *, required=True):
  """(folder of PNGs or None, whether they have been converted)."""
  places = [
    root / part / split
    for part in ('annotations', 'stuffthingmaps', 'stuffthingmaps_trainval2017')
  ]
  for place in places:
    if any(place.glob(f'*{converted}.png')):
      return place, True
  for place in places:
    if any(_is_original(path) for path in place.glob('*.png')):
      return place, False
  if required:
    raise SourceError(
      f'{root} has no label maps (ID.png or ID{converted}.png) in '
      f'annotations/{split}.'
    )
  return None, False


def _is_original(path):
  return not path.stem.endswith('TrainIds')


def _pairs(pictures, truths, ending=''):
  files = folders.paired(
    pictures, truths, truth_ending=ending, picture_suffixes=('.jpg',)
  )
  if ending:
    return files
  # Converted maps lie beside the original ones.
  return [pair for pair in files if not pair[0].endswith('TrainIds')]


def _from_instances(names, pictures, path):
  images, annotations = _parsed(path)

  def raw(index):
    image = images[index]
    picture = pictures / image['file_name']
    where = f'{image["file_name"]} in {path}'
    truth = draw(image, annotations.get(image['id'], []), where)
    return base.Raw(picture, truth, str(picture), where)

  stems = [pathlib.PurePosixPath(image['file_name']).stem for image in images]
  return base.PairSet(names, stems, raw, object_rule(), background=True)


def _parsed(path):
  try:
    data = json.loads(path.read_bytes())
    images = sorted(data['images'], key=lambda image: image['file_name'])
    annotations = {}
    for annotation in data['annotations']:
      annotations.setdefault(annotation['image_id'], []).append(annotation)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise SourceError(
      f'{path} cannot be read as instance annotations of COCO '
      f'({type(error).__name__}: {error}); download it anew.'
    ) from error
  return images, annotations
