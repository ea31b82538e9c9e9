"""Pictures with one class each, for zero-shot classification.

Folders named after their class (ImageNet's ids included), a list of labels, or
webdataset shards with `cls`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from groupvit_jax.data import images
from groupvit_jax.data.benchmarks import (
  folders,
  label_lists,
  label_shards,
  pairs,
)
from groupvit_jax.data.benchmarks.imagenet import (
  IMAGENET_CLASSES,
  IMAGENET_IDS,
)
from groupvit_jax.errors import SourceError, explained_as
from groupvit_jax.text import prompts


@dataclasses.dataclass(frozen=True)
class LabelledImage:
  """A picture and its class.

  Fields:
    name: unique within its set.
    image: RGB pixels, upright.
    label: position in the set's `class_names`.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']
  label: int


class LabelledImages:
  """Labelled pictures by random access, from any thread.

  `images[i]` raises ImageError, naming the file, for a picture that cannot be
  read.

  Fields:
    class_names: in label order.
  """

  def __init__(
    self,
    class_names: Sequence[str],
    names: Sequence[str],
    read: Callable[[int], tuple[pathlib.Path | bytes, int]],
  ):
    """Holds what it takes to read each picture.

    Args:
      class_names: in label order.
      names: of the pictures.
      read: the encoded picture of a position, and its label.

    Raises:
      SourceError: no picture, or two of one name.
    """
    pairs.check_names(names)
    self.class_names = tuple(class_names)
    self._names = tuple(names)
    self._read = read

  def __len__(self) -> int:
    return len(self._names)

  def name(self, index: int) -> str:
    return self._names[index]

  def __getitem__(self, index: int) -> LabelledImage:
    index = range(len(self))[index]
    source, label = self._read(index)
    name = str(source) if isinstance(source, pathlib.Path) else self.name(index)
    return LabelledImage(
      self.name(index), images.open_image(source, name), label
    )


def open_labelled_images(
  source: str | os.PathLike | Sequence[str | os.PathLike],
  split: str | None = None,
  *,
  class_names: Sequence[str] | None = None,
  limit: int | None = None,
) -> LabelledImages:
  """Opens labelled pictures.

  Args:
    source: a folder, or shards (a path, a pattern, or several). A folder holds
      a sub-folder for each class, named by its WordNet id or its name; or
      labels.jsonl, a line a picture: image, and wnid, name or label (a number);
      or *.tar shards with `cls`.
    split: a sub-folder to take instead, such as 'val'.
    class_names: in label order. By default ImageNet's for WordNet ids and for
      numbers, else the names that occur, sorted.
    limit: the first so many pictures alone.

  Returns:
    The set. WordNet ids are told apart among all 1000 classes, also where the
    folder holds some of them.

  Raises:
    SourceError: no pictures, or labels that name no class, or two classes
      alike.
    ValueError: class_names has a name twice, or limit is no number of pictures.
  """
  if limit is not None and limit < 1:
    raise ValueError(f'limit must be at least 1, not {limit}.')
  # Those of ImageNet, as published, have two names twice.
  if class_names and tuple(class_names) != IMAGENET_CLASSES:
    prompts.check_distinct([_name(name) for name in class_names])
  if not isinstance(source, str | os.PathLike) or _is_pattern(source):
    if split:
      raise SourceError(
        f'Shards have no split {split!r}: name those of it, or give the folder '
        'that it lies in.'
      )
    return _from_shards(source, class_names, limit)
  root = folders.existing(source)
  root = folders.existing(root / split) if split else root
  if any(root.glob('*.tar')):
    return _from_shards(str(root / '*.tar'), class_names, limit)
  listed = root / label_lists.NAME
  rows = label_lists.read(listed) if listed.is_file() else _by_folder(root)
  return _labelled(root, rows, class_names, limit)


def _is_pattern(source):
  text = os.fspath(source)
  return text.endswith('.tar') or any(mark in text for mark in '{*')


def _from_shards(source, class_names, limit):
  shards = label_shards.LabelShards(source)
  names = tuple(class_names or IMAGENET_CLASSES)

  def read(index):
    return shards.read(index, len(names))

  return LabelledImages(names, shards.names[:limit], read)


def _labelled(root, rows, class_names, limit):
  """A set of (path, what names its class)."""
  names, labels = _numbered([given for _, given in rows], class_names, root)
  rows = rows[:limit]

  def read(index):
    return rows[index][0], labels[index]

  stems = [path.relative_to(root).as_posix() for path, _ in rows]
  return LabelledImages(names, stems, read)


def _by_folder(root):
  rows = [
    (path, path.relative_to(root).parts[0])
    for path in folders.files_below(root)
    if path.parent != root and path.suffix.lower() in folders.PICTURES
  ]
  if not rows:
    raise SourceError(
      f'{root} has no pictures in folders named after their class, no '
      f'{label_lists.NAME} and no .tar shards.'
    )
  return rows


def _numbered(given, class_names, root):
  """Class names, and the label of everything that names a class."""
  if all(isinstance(value, int) for value in given):
    names = tuple(class_names or IMAGENET_CLASSES)
    wrong = [value for value in given if not 0 <= value < len(names)]
    labels = given
  else:
    places, names = _places(given, class_names, root)
    keys = [_key(value) for value in given]
    wrong = [v for v, key in zip(given, keys, strict=True) if key not in places]
    labels = [places.get(key, 0) for key in keys]
  if wrong:
    raise SourceError(
      f'{root} has the label {wrong[0]!r}, which is none of the {len(names)} '
      f'classes ({names[0]!r}, ...): give the class names that belong to it.'
    )
  return names, labels


def _places(given, class_names, root):
  """Label by what may name a class, and the class names."""
  ids = {value: i for i, value in enumerate(IMAGENET_IDS)}
  if set(given) <= ids.keys():
    return ids, _of_imagenet(class_names)
  _check_no_id(given, class_names)
  names = tuple(class_names or _own_names(given, root))
  return {_key(name): i for i, name in enumerate(names)}, names


def _own_names(given, root):
  names = sorted({_name(value) for value in given})
  with explained_as(SourceError):
    prompts.check_distinct(names, f'{root}: ')
  return names


def _check_no_id(given, class_names):
  """An id among names would be a class of its own, called by its id."""
  found = [value for value in given if value in _ID_SET]
  if found and not class_names:
    name = next(value for value in given if value not in _ID_SET)
    raise SourceError(
      f'{found[0]!r} is a WordNet id and {name!r} is none: name all classes '
      'by their ids, or all by their names.'
    )


def _of_imagenet(class_names):
  if class_names and len(class_names) != len(IMAGENET_CLASSES):
    raise SourceError(
      f'{len(class_names)} class names were given, but WordNet ids mean '
      f"ImageNet's {len(IMAGENET_CLASSES)} classes: give one for each, in "
      'their order.'
    )
  return tuple(class_names or IMAGENET_CLASSES)


def _name(value):
  return str(value).replace('_', ' ').strip()


def _key(value):
  """Names are compared without case and underscores; ids are as they are."""
  return value if value in _ID_SET else _name(value).lower()


_ID_SET = frozenset(IMAGENET_IDS)
