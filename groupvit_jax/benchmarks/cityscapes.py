"""Cityscapes: 19 classes of street scenes, finely annotated.

From leftImg8bit and gtFine (labelIds, or labelTrainIds if they have been made),
or as TFDS prepared it.
"""

import os

from groupvit_jax.benchmarks import base, folders, label_sets, tfds_records

# Ids of the 19 classes that are evaluated, in their order; the other ids below
# 34 are ignored (mcordts/cityscapesScripts helpers/labels.py).
_IDS = (
  7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
)  # fmt: skip
_LAST = 33
_TFDS_CONFIG = 'semantic_segmentation'


def label_id_rule() -> base.Rule:
  """Label ids to the 19 classes."""
  classes = dict.fromkeys(range(_LAST + 1), 255)
  classes |= {value: i for i, value in enumerate(_IDS)}
  return base.mapped(classes, f'label ids 0 to {_LAST}')


def open_cityscapes(
  folder: str | os.PathLike, split: str = 'val'
) -> base.PairSet:
  """Opens Cityscapes.

  Args:
    folder: what holds leftImg8bit and gtFine, or a data_dir of TFDS.
    split: 'val' or 'train' (TFDS: 'validation').

  Raises:
    SourceError: neither is there, or an empty split.
  """
  names = label_sets.class_names('cityscapes')
  root = folders.existing(folder)
  if prepared := tfds_records.find(root, 'cityscapes', _TFDS_CONFIG):
    return _from_tfds(prepared, split, names)
  root = folders.root_of(root, ('leftImg8bit', 'gtFine'), ('cityscapes',))
  pictures = folders.existing(root / 'leftImg8bit' / split)
  truths = folders.existing(root / 'gtFine' / split)
  converted = any(truths.glob('*/*_labelTrainIds.png'))
  kind = 'labelTrainIds' if converted else 'labelIds'
  files = folders.paired(
    pictures,
    truths,
    picture_ending='_leftImg8bit',
    truth_ending=f'_gtFine_{kind}',
    picture_suffixes=('.png',),
  )
  rule = base.as_stored(19) if converted else label_id_rule()
  return base.from_files(names, files, rule)


def _from_tfds(prepared, split, names):
  keys = ('image_left', 'segmentation_label')
  split = {'val': 'validation'}.get(split, split)
  records = tfds_records.Records(prepared, split, keys)

  def raw(index):
    record = records[index]
    return base.Raw(
      *(record[key] for key in keys),
      records.label(index, 'picture'),
      records.label(index, 'label map'),
    )

  return base.PairSet(names, records.names, raw, label_id_rule())
