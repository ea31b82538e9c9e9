"""ADE20K-150: the scene parsing challenge, 0 ignored (reduce_zero_label).

From the challenge's folder, or as TFDS prepared `scene_parse150`, whose label
maps are those of the instance challenge: things alone.
"""

import os

import numpy as np
from absl import logging

from groupvit_jax.benchmarks import base, folders, label_sets, tfds_records

_SPLITS = {'val': 'validation', 'train': 'training'}

# Of the 150 scene classes (1 is the first) the 100 that the instance challenge
# has, in its order (facebookresearch/Mask2Former
# datasets/ade20k_instance_catid_mapping.txt).
_THINGS = (
  8, 9, 11, 13, 15, 16, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 34, 36, 37, 38,
  39, 40, 42, 43, 44, 45, 46, 48, 50, 51, 54, 56, 57, 58, 59, 63, 65, 66, 67,
  68, 70, 71, 72, 73, 74, 75, 76, 77, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90,
  91, 93, 94, 96, 98, 99, 103, 104, 105, 108, 109, 111, 112, 113, 116, 117, 119,
  120, 121, 122, 124, 125, 126, 127, 128, 130, 131, 133, 134, 135, 136, 137,
  138, 139, 140, 143, 144, 145, 147, 148, 149, 150,
)  # fmt: skip


def open_ade20k(
  folder: str | os.PathLike, split: str = 'validation'
) -> base.PairSet:
  """Opens the challenge's data.

  Args:
    folder: ADEChallengeData2016, or what holds it, or a data_dir of TFDS.
    split: 'validation' or 'training' (TFDS: 'test' and 'train').

  Raises:
    SourceError: neither is there, or an empty split.
  """
  names = label_sets.class_names('ade20k')
  root = folders.existing(folder)
  if prepared := tfds_records.find(root, 'scene_parse150'):
    return _from_tfds(prepared, split, names)
  root = folders.root_of(
    root, ('images', 'annotations'), ('ADEChallengeData2016',)
  )
  split = _SPLITS.get(split, split)
  files = folders.paired(
    folders.existing(root / 'images' / split),
    folders.existing(root / 'annotations' / split),
    picture_suffixes=('.jpg',),
  )
  return base.from_files(names, files, base.less_one(150))


def _from_tfds(prepared, split, names):
  split = {'val': 'test', 'validation': 'test', 'training': 'train'}.get(
    split, split
  )
  keys = ('image', 'annotation')
  records = tfds_records.Records(prepared, split, keys)

  def raw(index):
    record = records[index]
    where = records.label(index, 'annotation')
    truth, _ = _scene_classes(record['annotation'], where)
    return base.Raw(
      record['image'], truth, records.label(index, 'picture'), where
    )

  if records.names:
    _warn_of_things(records)
  return base.PairSet(names, records.names, raw, base.less_one(150))


def _scene_classes(annotation: bytes, name: str) -> tuple[np.ndarray, bool]:
  """Challenge labels of an annotation, and whether it knew things alone.

  scene_parse150 1.0.0 holds annotations_instance.tar: red is the class among
  100 things, green the instance. Everything else is 0 there, hence ignored.
  """
  values = base.channels(annotation, name)[..., :3]
  if values.shape[-1] < 3 or (values == values[..., :1]).all():
    return values[..., 0].astype(np.int32), False
  table = np.full(256, 150 + 1, np.int32)  # beyond: out of range
  table[: len(_THINGS) + 1] = (0, *_THINGS)
  return table[values[..., 0]], True


def _warn_of_things(records):
  _, things = _scene_classes(records[0]['annotation'], records.name)
  if things:
    logging.warning(
      '%s holds the labels of the instance challenge: 100 of the 150 classes '
      'are in its truth, and all stuff is ignored. For figures that compare '
      'with published ones use ADEChallengeData2016.',
      records.name,
    )
