"""COCO 2017: COCO-Stuff with 171 classes, COCO-Object with 80 and background.

Both are read from the PNGs of COCO-Stuff (stuffthingmaps), converted ones
included; COCO-Object also from the instance annotations.
"""

import json
import os
import pathlib

from groupvit_jax.data import label_sets
from groupvit_jax.data.benchmarks import (
  coco_instances,
  folders,
  label_maps,
  pairs,
)
from groupvit_jax.errors import SourceError

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


def stuff_rule() -> label_maps.Rule:
  """Ids of the PNGs to the 171 classes; unlabelled (255) is ignored."""
  return label_maps.mapped(_BY_ID, f'0 to {_LAST} and 255, with gaps')


def object_rule() -> label_maps.Rule:
  """Ids of the PNGs to background and 80 objects.

  Stuff and what is not labelled become the background (NVlabs/GroupViT
  convert_dataset/convert_coco_object.py): nothing is ignored.
  """
  things = {v: i + 1 for v, i in _BY_ID.items() if v < _LAST_THING}
  stuff = dict.fromkeys((*range(_LAST_THING + 1, _LAST + 1), 255), 0)
  return label_maps.mapped(things | stuff, f'0 to {_LAST} and 255, with gaps')


def open_coco_stuff(
  folder: str | os.PathLike, split: str = 'val2017'
) -> pairs.PairSet:
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
    return pairs.from_files(names, files, label_maps.as_stored(171))
  return pairs.from_files(names, _pairs(pictures, truths), stuff_rule())


def open_coco_object(
  folder: str | os.PathLike, split: str = 'val2017'
) -> pairs.PairSet:
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
    return _objects(names, files, label_maps.as_stored(81))
  if truths is not None:
    return _objects(names, _pairs(pictures, truths), object_rule())
  if drawn.is_dir():
    return _objects(names, _pairs(pictures, drawn), label_maps.as_stored(81))
  if instances.is_file():
    return _from_instances(names, pictures, instances)
  raise SourceError(
    f'{root} has no {_OBJECT_CONVERTED}.png or other label maps in '
    f'annotations/{split}, and no annotations/{instances.name}.'
  )


def _objects(names, files, rule):
  return pairs.from_files(names, files, rule, background=True)


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
    truth = coco_instances.draw(image, annotations.get(image['id'], []), where)
    return pairs.Raw(picture, truth, str(picture), where)

  stems = [pathlib.PurePosixPath(image['file_name']).stem for image in images]
  return pairs.PairSet(names, stems, raw, object_rule(), background=True)


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
