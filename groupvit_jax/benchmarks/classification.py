"""Pictures with one class each, for zero-shot classification.

Folders named after their class (ImageNet's ids included), a list of labels, or
webdataset shards with `cls`.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import UInt8

from groupvit_jax.benchmarks import base, folders
from groupvit_jax.data import images, shards
from groupvit_jax.errors import ImageError, SourceError, explained_as
from groupvit_jax.text import prompts

# ImageNet-1k: the class names that CLIP prompts, and their WordNet ids.
#
# In label order, which is the order of the ids. CLIP's templates are in
# `text/prompts.py`.

_TABLE = pathlib.Path(__file__).parent / 'assets' / 'imagenet_classes.tsv'


def _read() -> tuple[tuple[str, ...], tuple[str, ...]]:
  lines = _TABLE.read_text(encoding='utf-8').splitlines()
  ids, names = zip(*(line.split('\t') for line in lines), strict=True)
  return ids, names


# openai/CLIP notebooks/Prompt_Engineering_for_ImageNet.ipynb; the released
# GroupViT has the same (NVlabs/GroupViT datasets/imagenet_template.py).
IMAGENET_IDS, IMAGENET_CLASSES = _read()


# labels.jsonl: pictures and what names their class, a line each.
#
# Each line: an object with `image` and `wnid`, `label` (a number) or `name`.

NAME = 'labels.jsonl'
# The first of these that a line has names its class.
_KEYS = {'wnid': str, 'label': int, 'name': str}
_IDS = frozenset(IMAGENET_IDS)


def read(path: pathlib.Path) -> list[tuple[pathlib.Path, str | int]]:
  """Pictures, and what names the class of each: all by the same key.

  Raises:
    SourceError: it cannot be read, or a line of it is otherwise; with its
      number.
  """
  rows, first = [], None
  for number, line in folders.numbered_lines(path):
    try:
      record = json.loads(line)
      picture = folders.picture_in(path.parent, record['image'])
      key = _key_of(record)
      rows.append((picture, _class_of(record, key)))
      first = first or (key, number)
      _check_key(key, *first)
    except (ValueError, KeyError, TypeError) as error:
      raise SourceError(
        f'{path}, line {number}, needs "image" and one of "wnid", "label" (a '
        f'whole number) and "name" as JSON ({error}).'
      ) from error
  return rows


def _key_of(record: Any) -> str:
  key = next((key for key in _KEYS if key in record), None)
  if key is None:
    raise KeyError('none of the three')
  return key


def _check_key(key: str, first: str, number: int) -> None:
  """An id among names would be a class of its own, called by its id."""
  if key != first:
    raise ValueError(
      f'its class goes by {key}, and that of line {number} by {first}: give '
      'the same in every line'
    )


def _class_of(record: Any, key: str) -> str | int:
  given = record[key]
  if type(given) is not _KEYS[key]:  # true is an int, but no label
    raise TypeError(f'its {key} is {json.dumps(given)}')
  if key == 'wnid' and given not in _IDS:
    raise ValueError(f"{given!r} is no WordNet id of ImageNet's")
  return given


# Pictures and class numbers in webdataset shards, by random access.
#
# A sample is a picture and `cls`, a text file with a number.

_NO_NUMBER = (1 << 31) - 1
_MOST_DIGITS = 16


class LabelShards:
  """Labelled pictures of tar shards.

  Fields:
    names: one for each picture: its shard, and its place there.
  """

  def __init__(self, patterns: str | os.PathLike | Sequence):
    """Indexes shards, or reads the indices of earlier runs.

    Args:
      patterns: path or pattern (`{000000..000049}.tar`, `*.tar`), or several.

    Raises:
      SourceError: a shard is missing or no tar, or no labelled picture.
    """
    self._paths = _paths(patterns)
    try:
      self._shard, self._table = shards.build_index(self._paths, scan, 'labels')
    except ValueError as error:
      raise SourceError(str(error)) from error
    if not len(self._table):
      raise SourceError(
        f'{patterns}: no sample has a picture ({", ".join(shards.IMAGES)}) '
        'and a cls.'
      )
    self._files = shards.Files(self._paths)
    counts = np.bincount(self._shard, minlength=len(self._paths)).tolist()
    self.names = [
      f'{path}#{i}'
      for path, count in zip(self._paths, counts, strict=True)
      for i in range(count)
    ]

  def read(self, index: int, classes: int) -> tuple[bytes, int]:
    """The encoded picture and its label.

    Raises:
      ImageError: the label is no number below `classes`.
    """
    at, size, label = self._table[index].tolist()
    if label >= classes:
      said = 'is no number' if label == _NO_NUMBER else f'is {label}'
      raise ImageError(
        f'{self.names[index]}: its cls {said}, and there are {classes} classes '
        '(0 is the first); give the class names that belong to these shards.'
      )
    data = self._files.read(self._shard[index], at * shards.BLOCK, size)
    return data, label


def _paths(patterns):
  """All of the shards: a set without some of them is another set."""
  missing = shards.absent(patterns)
  if missing:
    pattern, path = missing[0]
    of = '' if path == pattern else f' of {pattern}'
    more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
    raise SourceError(
      f'{path}{more}{of}: there is no such shard; give a path or a pattern of '
      "those that are there, such as '/data/imagenet-val-{000000..000049}.tar'."
    )
  return shards.expand(patterns)


def scan(path: str) -> np.ndarray:
  """Indexes the labelled pictures of one shard.

  Returns:
    int64 [n, 3]: the 512-byte block where the picture starts, its size in
    bytes, and its label.
  """
  rows, left_out = [], 0
  with open(path, 'rb', buffering=0) as file:
    for parts in shards.samples(path):
      image = next((parts[e] for e in shards.IMAGES if e in parts), None)
      if image is None or 'cls' not in parts:
        left_out += 1
        continue
      block, size = parts['cls']
      text = os.pread(
        file.fileno(), min(size, _MOST_DIGITS), block * shards.BLOCK
      )
      rows.append((*image, _number(text)))
  if left_out:
    logging.warning(
      '%s: %d samples lack a picture or a cls and are left out', path, left_out
    )
  return np.array(rows, np.int64).reshape(-1, 3)


def _number(text):
  text = text.strip()
  return min(int(text), _NO_NUMBER) if text.isdigit() else _NO_NUMBER


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
    base.check_names(names)
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
  listed = root / NAME
  rows = read(listed) if listed.is_file() else _by_folder(root)
  return _labelled(root, rows, class_names, limit)


def _is_pattern(source):
  text = os.fspath(source)
  return text.endswith('.tar') or any(mark in text for mark in '{*')


def _from_shards(source, class_names, limit):
  shards = LabelShards(source)
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
      f'{NAME} and no .tar shards.'
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
