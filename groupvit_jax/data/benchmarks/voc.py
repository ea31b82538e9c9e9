"""PASCAL VOC 2012: VOC21 with the background, VOC20 without.

Masks are palette PNGs whose pixel value is the class, 255 on borders.
"""

import os

from groupvit_jax.data import label_sets
from groupvit_jax.data.benchmarks import folders, label_maps, pairs


def open_voc(
  folder: str | os.PathLike, split: str = 'val', *, background: bool = True
) -> pairs.PairSet:
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
  rule = label_maps.as_stored(21) if background else label_maps.less_one(20)
  return pairs.from_files(names, files, rule, background=background)
