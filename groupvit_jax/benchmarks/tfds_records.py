"""Records of data sets that TFDS has prepared, from their folder.

Needs the package tensorflow-datasets, but neither TensorFlow nor the code of
the data set. Pictures and label maps stay encoded, as they were downloaded.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from groupvit_jax.errors import SourceError


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
    if versions and name in (*place.parts,):
      return max(versions, key=_number)
  return None


def _is_version(path):
  return (path / 'dataset_info.json').is_file()


def _number(path):
  return tuple(
    int(part) if part.isdigit() else -1 for part in path.name.split('.')
  )


class Records:
  """A prepared split by random access.

  Fields:
    name: data set and split.
    names: one for each record, as they are numbered.
  """

  def __init__(self, folder: pathlib.Path, split: str, encoded: Sequence[str]):
    """Opens a split.

    Args:
      folder: a version's, as `find` returns it.
      split: such as 'validation'; 'validation[:100]' is a part of it.
      encoded: features that stay encoded; they must be there.

    Raises:
      SourceError: no such split or feature, or not in array_record format.
    """
    try:
      import tensorflow_datasets as tfds
    except ImportError as error:
      raise SourceError(
        f'{folder} is a TFDS data set, and to read it takes: pip install '
        "'groupvit_jax[train]'"
      ) from error
    builder = tfds.builder_from_directory(str(folder))
    self.name = f'{builder.info.name}[{split}]'
    features = builder.info.features
    absent = [key for key in encoded if key not in features]
    if absent:
      raise SourceError(
        f'{folder} has no feature {absent[0]!r}, only {", ".join(features)}.'
      )
    skip = {key: tfds.decode.SkipDecoding() for key in encoded}
    try:
      self._data = builder.as_data_source(split=split, decoders=skip)
    except (
      AssertionError,
      KeyError,
      NotImplementedError,
      ValueError,
    ) as error:
      splits = ', '.join(builder.info.splits)
      raise SourceError(
        f'{folder} cannot be read at random as {split!r} (its splits: '
        f'{splits}); prepare it with tfds.builder({builder.info.name!r}, '
        "file_format='array_record').download_and_prepare()."
      ) from error
    self.names = [f'{split}-{i:06d}' for i in range(len(self._data))]

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._data[int(index)]

  def label(self, index: int, what: str) -> str:
    """What messages call a part of a record."""
    return f'the {what} of {self.name} record {index}'
