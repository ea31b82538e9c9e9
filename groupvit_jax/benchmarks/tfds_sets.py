"""Data sets that TFDS has prepared: Cityscapes, ADE20K and Oxford-IIIT Pet.

Needs the package tensorflow-datasets, but neither TensorFlow nor the code of
the data set. Images and label maps stay encoded, as they were downloaded.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int32

from groupvit_jax import IGNORE
from groupvit_jax.benchmarks import base, codings, label_sets
from groupvit_jax.data.sources import TFDSRecords
from groupvit_jax.errors import ImageError, SourceError


def find(
  folder: pathlib.Path, name: str, config: str = ''
) -> pathlib.Path | None:
  """The newest prepared version of a TFDS data set.

  Args:
    folder: TFDS's data_dir, or any folder on the way from there to a version.
    name: of the data set.
    config: of its configuration, if it has several.

  Returns:
    The folder of the version, None if there is none.
  """
  for place in (folder / name / config, folder / config, folder):
    if _is_version(place) and name in place.parts:
      return place
    versions = [path for path in place.glob('*.*.*') if _is_version(path)]
    if versions and name in place.parts:
      return max(versions, key=_number)
  return None


def _is_version(path: pathlib.Path) -> bool:
  return (path / 'dataset_info.json').is_file()


def _number(path: pathlib.Path) -> tuple[int, ...]:
  return tuple(
    int(part) if part.isdigit() else -1 for part in path.name.split('.')
  )


def open_cityscapes(
  name: str, folder: pathlib.Path, split: str
) -> base.PairSet | None:
  """Cityscapes of TFDS; None if it is not in the folder."""
  prepared = find(folder, 'cityscapes', 'semantic_segmentation')
  if prepared is None:
    return None
  split = {'val': 'validation'}.get(split, split)
  records = TFDSRecords(prepared, split, ('image_left', 'segmentation_label'))
  return _pairs(
    name,
    records,
    'image_left',
    lambda record, _: record['segmentation_label'],
    codings.cityscapes_ids(),
  )


def open_ade20k(
  name: str, folder: pathlib.Path, split: str
) -> base.PairSet | None:
  """scene_parse150 of TFDS; None if it is not in the folder.

  Version 1.0.0 holds the label maps of the instance challenge: things alone.
  """
  prepared = find(folder, 'scene_parse150')
  if prepared is None:
    return None
  known = {'val': 'test', 'validation': 'test', 'training': 'train'}
  split = known.get(split, split)
  records = TFDSRecords(prepared, split, ('image', 'annotation'))
  if len(records) and _scenes(records[0]['annotation'], records.name)[1]:
    logging.warning(
      '%s holds the labels of the instance challenge: 100 of the 150 classes '
      'are labelled, and all stuff is ignored. For figures that compare with '
      'published ones use ADEChallengeData2016.',
      records.name,
    )
  return _pairs(
    name,
    records,
    'image',
    lambda record, where: _scenes(record['annotation'], where)[0],
    codings.less_one(150),
  )


def _scenes(
  annotation: bytes, name: str
) -> tuple[Int32[np.ndarray, 'h w'], bool]:
  """Challenge labels of an annotation, and whether it holds things alone.

  In the instance challenge red is the class among 100 things and green the
  instance. Everything else is 0 there, hence ignored.
  """
  values = base.read_channels(annotation, name)[..., :3]
  if values.shape[-1] < 3 or (values == values[..., :1]).all():
    return values[..., 0].astype(np.int32), False
  table = np.full(256, 150 + 1, np.int32)  # beyond: out of range
  things = codings.ADE20K_THINGS
  table[: len(things) + 1] = (0, *things)
  return table[values[..., 0]], True


def open_pet(name: str, folder: pathlib.Path, split: str) -> base.PairSet:
  """Oxford-IIIT Pet of TFDS as background, cat and dog.

  The trimaps hold the animal (1), the background (2) and their border (3),
  which is ignored. The species makes a class of the animal.

  Raises:
    SourceError: it is not in the folder.
  """
  prepared = find(folder, 'oxford_iiit_pet')
  if prepared is None:
    raise SourceError(
      f'{folder} has no oxford_iiit_pet that TFDS has prepared.'
    )
  split = {'val': 'test', 'validation': 'test'}.get(split, split)
  records = TFDSRecords(prepared, split, ('image', 'segmentation_mask'))
  return _pairs(name, records, 'image', _species, codings.as_stored(3))


def _species(record: dict[str, Any], name: str) -> Int32[np.ndarray, 'h w']:
  values = base.read_label_map(record['segmentation_mask'], name)
  species = int(record['species'])
  if species not in (0, 1) or not np.isin(values, (1, 2, 3)).all():
    raise ImageError(
      f'{name} has labels out of range: {np.unique(values).tolist()} of '
      f'species {species}, where a trimap has 1, 2 and 3, and a species is 0 '
      '(cat) or 1 (dog).'
    )
  return np.array([0, 1 + species, 0, IGNORE], np.int32)[values]


def _pairs(
  name: str,
  records: TFDSRecords,
  image_key: str,
  label: Callable[[dict[str, Any], str], Any],
  coding: codings.Coding,
) -> base.PairSet:
  def pair(index: int) -> base.Pair:
    record, where = records[index], f'of {records.name} record {index}'
    label_name = f'the label map {where}'
    return base.Pair(
      record[image_key],
      label(record, label_name),
      f'the image {where}',
      label_name,
    )

  names = label_sets.class_names(name)
  background = names[0] == 'background'
  return base.PairSet(
    names, records.names(), pair, coding, background=background
  )
