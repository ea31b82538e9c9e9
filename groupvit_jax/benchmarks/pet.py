"""Oxford-IIIT Pet as background, cat and dog, as TFDS prepared it.

The trimaps tell the animal (1) from the background (2); the border (3) is not
classified and is ignored. The species makes a class of the animal.
"""

import os

import numpy as np

from groupvit_jax.benchmarks import base, folders, label_sets, tfds_records
from groupvit_jax.errors import ImageError, SourceError

_ANIMAL, _BACKGROUND, _BORDER = 1, 2, 3


def open_pet(folder: str | os.PathLike, split: str = 'test') -> base.PairSet:
  """Opens the pets.

  Args:
    folder: a data_dir of TFDS with oxford_iiit_pet.
    split: 'test' (3,669 pictures) or 'train' (3,680).

  Raises:
    SourceError: it is not there, or the split is empty.
  """
  root = folders.existing(folder)
  prepared = tfds_records.find(root, 'oxford_iiit_pet')
  if prepared is None:
    raise SourceError(f'{root} has no oxford_iiit_pet that TFDS has prepared.')
  keys = ('image', 'segmentation_mask')
  split = {'val': 'test', 'validation': 'test'}.get(split, split)
  records = tfds_records.Records(prepared, split, keys)

  def raw(index):
    record = records[index]
    where = records.label(index, 'trimap')
    truth = _classes(record['segmentation_mask'], int(record['species']), where)
    return base.Raw(
      record['image'], truth, records.label(index, 'picture'), where
    )

  return base.PairSet(
    label_sets.class_names('pet'),
    records.names,
    raw,
    base.as_stored(3),
    background=True,
  )


def _classes(trimap: bytes, species: int, name: str) -> np.ndarray:
  values = base.read(trimap, name, base.size_of(trimap, name))
  if not np.isin(values, (_ANIMAL, _BACKGROUND, _BORDER)).all():
    raise ImageError(
      f'{name} has labels out of range: {np.unique(values).tolist()}, where a '
      'trimap has 1, 2 and 3.'
    )
  if species not in (0, 1):
    raise ImageError(f'{name}: the species is {species}, not 0 (cat) or 1.')
  table = np.array([0, 1 + species, 0, base.IGNORED], np.int32)
  return table[values]
