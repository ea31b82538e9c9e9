"""Images with one class each, for zero-shot classification.

Folders named after their class (ImageNet's ids included), a list of labels, or
webdataset shards with `cls`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from absl import logging
from jaxtyping import Int8, Int64, UInt8

from groupvit_jax.benchmarks import base, folders
from groupvit_jax.data import images, paths, remote, shards, tar
from groupvit_jax.errors import ImageError, SourceError, explained_as
from groupvit_jax.text import prompts

NAME = 'labels.jsonl'
_TABLE = pathlib.Path(__file__).parent / 'assets' / 'imagenet_classes.tsv'


def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
  lines = _TABLE.read_text(encoding='utf-8').splitlines()
  ids, names = zip(*(line.split('\t') for line in lines), strict=True)
  return ids, names


# ImageNet-1k in label order, which is the order of the WordNet ids, with the
# class names that CLIP prompts (openai/CLIP
# notebooks/Prompt_Engineering_for_ImageNet.ipynb; the released GroupViT has the
# same: NVlabs/GroupViT datasets/imagenet_template.py).
IMAGENET_IDS, IMAGENET_CLASSES = _imagenet()
_IDS = {value: i for i, value in enumerate(IMAGENET_IDS)}


Label = int | Int8[np.ndarray, ' c']


@dataclasses.dataclass(frozen=True)
class LabelledImage:
  """An image and its class.

  Fields:
    name: unique within its set.
    image: RGB pixels, upright.
    label: position in the set's `class_names`; of several classes an image a
      value for each: 1, -1, or 0 (does not count).
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']
  label: Label


class LabelledImages(base.Named[LabelledImage]):
  """Labelled images by random access, from any thread.

  `images[i]` raises ImageError, naming the file, for an image that cannot be
  read.

  Fields:
    class_names: in label order.
  """

  def __init__(
    self,
    class_names: Sequence[str],
    names: Sequence[str],
    read: Callable[[int], tuple[pathlib.Path | bytes, Label]],
  ):
    """Keeps what it takes to read each image.

    Args:
      class_names: in label order.
      names: of the images.
      read: the encoded image at a position, and its label.

    Raises:
      SourceError: no image, or two of one name.
    """
    super().__init__(names)
    self.class_names = tuple(class_names)
    self._read = read

  def encoded(self, index: int) -> tuple[pathlib.Path | bytes, Label]:
    """The image of an example as it is stored, and its label."""
    return self._read(range(len(self))[index])

  def _example(self, index: int) -> LabelledImage:
    source, label = self._read(index)
    name = self.name(index)
    shown = str(source) if isinstance(source, pathlib.Path) else name
    return LabelledImage(name, images.open_image(source, shown), label)


def open_labelled_images(
  source: str | os.PathLike | Sequence[str | os.PathLike],
  split: str | None = None,
  *,
  class_names: Sequence[str] | None = None,
  limit: int | None = None,
) -> LabelledImages:
  """Opens labelled images.

  Args:
    source: a folder, or shards (a path, a pattern, or several). A folder holds
      a sub-folder for each class, named by its WordNet id or its name; or
      labels.jsonl, a line an image: image, and wnid, name or label (a number);
      or *.tar shards with `cls`.
    split: a sub-folder to take instead, such as 'val'.
    class_names: in label order. By default ImageNet's for WordNet ids and for
      numbers, else the names that occur, sorted.
    limit: the first so many images alone.

  Returns:
    The set. WordNet ids are labels among all 1000 classes, also where the
    folder holds some of them.

  Raises:
    SourceError: no images, or labels that name no class, or two classes alike.
    ValueError: class_names has a name twice, or limit is below 1.
  """
  # Those of ImageNet, as published, have two names twice.
  if class_names and tuple(class_names) != IMAGENET_CLASSES:
    prompts.check_distinct([_name(name) for name in class_names])
  if not isinstance(source, str | os.PathLike) or _is_pattern(source):
    if split:
      raise SourceError(
        f'Shards have no split {split!r}: name those of it, or give the folder '
        'that it lies in.'
      )
    return _from_shards(source, class_names).first(limit)
  root = folders.existing(source)
  root = folders.existing(root / split) if split else root
  if any(root.glob('*.tar')):
    return _from_shards(str(root / '*.tar'), class_names).first(limit)
  listed = root / NAME
  rows = _from_list(listed) if listed.is_file() else _by_folder(root)
  names, labels = _numbered([given for _, given in rows], class_names, root)
  paths = [path for path, _ in rows]
  stems = [os.path.relpath(path, root).replace(os.sep, '/') for path in paths]
  found = LabelledImages(names, stems, lambda i: (paths[i], labels[i]))
  return found.first(limit)


class _Line(msgspec.Struct):
  """A line of labels.jsonl; the first class that it has counts."""

  image: str
  wnid: str | msgspec.UnsetType = msgspec.UNSET
  label: int | msgspec.UnsetType = msgspec.UNSET
  name: str | msgspec.UnsetType = msgspec.UNSET


def _from_list(path: pathlib.Path) -> list[tuple[pathlib.Path, str | int]]:
  """Images of labels.jsonl, and what names the class of each."""
  rows, first = [], None
  needs = '"image" and one of "wnid", "label" (a whole number) and "name"'
  for number, line in folders.json_lines(path, _Line, needs):
    given = {
      key: value
      for key in ('wnid', 'label', 'name')
      if (value := getattr(line, key)) is not msgspec.UNSET
    }
    where = f'{path}, line {number}'
    if not given:
      raise SourceError(
        f'{where}: it needs {needs}, and has none of the three.'
      )
    key, value = next(iter(given.items()))
    first = first or (key, number)
    if key == 'wnid' and value not in _IDS:
      raise SourceError(f"{where}: {value!r} is no WordNet id of ImageNet's.")
    if key != first[0]:
      raise SourceError(
        f'{where}: its class is given by {key}, and that of line {first[1]} by '
        f'{first[0]}: give the same in every line.'
      )
    rows.append((folders.inside(path.parent, line.image, where), value))
  return rows


def _by_folder(root: pathlib.Path) -> list[tuple[pathlib.Path, str | int]]:
  rows: list[tuple[pathlib.Path, str | int]] = [
    (path, path.relative_to(root).parts[0])
    for path in folders.images_below(root)
    if path.parent != root
  ]
  if not rows:
    raise SourceError(
      f'{root} has no images in folders named after their class, no {NAME} and '
      'no .tar shards.'
    )
  return rows


def _numbered(
  given: Sequence[str | int],
  class_names: Sequence[str] | None,
  root: pathlib.Path,
) -> tuple[tuple[str, ...], list[int]]:
  """Class names, and the label of everything that names a class."""
  labels: dict[str | int, int] = {}
  if all(isinstance(value, int) for value in given):
    names = tuple(class_names or IMAGENET_CLASSES)
    labels |= {i: i for i in range(len(names))}
  elif all(value in _IDS for value in given):
    names = tuple(class_names or IMAGENET_CLASSES)
    labels |= _IDS
    if len(names) != len(IMAGENET_CLASSES):
      raise SourceError(
        f'{len(names)} class names were given, but WordNet ids mean '
        f"ImageNet's {len(IMAGENET_CLASSES)} classes: give one for each, in "
        'their order.'
      )
  else:
    names = tuple(class_names or _own_names(given, root))
    by_name = {
      _name(word).lower(): i
      for i, name in enumerate(names)
      for word in prompts.synonyms(name)
    }
    for value in set(given):
      if (place := by_name.get(_name(value).lower())) is not None:
        labels[value] = place
  wrong = [value for value in given if value not in labels]
  if wrong:
    raise SourceError(
      f'{root} has the label {wrong[0]!r}, which is none of the {len(names)} '
      f'classes ({names[0]!r}, ...): give the class names that belong to it.'
    )
  return names, [labels[value] for value in given]


def _own_names(
  given: Sequence[str | int], root: pathlib.Path
) -> tuple[str, ...]:
  ids = [value for value in given if value in _IDS]
  if ids:  # it would be a class of its own, called by its id
    name = next(value for value in given if value not in _IDS)
    raise SourceError(
      f'{ids[0]!r} is a WordNet id and {name!r} is none: name all classes by '
      'their ids, or all by their names.'
    )
  names = sorted({_name(value) for value in given})
  with explained_as(SourceError):
    prompts.check_distinct(names, f'{root}: ')
  return tuple(names)


def _name(value: str | int) -> str:
  """Names are compared without case and underscores."""
  return str(value).replace('_', ' ').strip()


def _is_pattern(source: str | os.PathLike) -> bool:
  text = os.fspath(source)
  return text.endswith('.tar') or any(mark in text for mark in '{*')


def _from_shards(
  source: str | os.PathLike | Sequence[str | os.PathLike],
  class_names: Sequence[str] | None,
) -> LabelledImages:
  found = LabelShards(source)
  names = tuple(class_names or IMAGENET_CLASSES)
  return LabelledImages(
    names, found.names, lambda i: found.labelled(i, len(names))
  )


_NO_NUMBER = (1 << 31) - 1
_MOST_DIGITS = 16


class LabelShards(shards.ShardSource):
  """Labelled images of tar shards, by random access.

  Fields: as ShardSource, and
    names: one for each image: its shard, and its place there.
  """

  kind = 'labels'

  def __init__(self, patterns: str | os.PathLike | Sequence):
    """Indexes shards, or reads the indices of earlier runs.

    Args:
      patterns: path or pattern (`{000000..000049}.tar`, `*.tar`), or several.

    Raises:
      SourceError: a shard is missing or no tar, or no labelled image.
    """
    _check_all_there(patterns)
    super().__init__(patterns)
    if not len(self):
      raise SourceError(
        f'{patterns}: no sample has an image ({", ".join(tar.IMAGES)}) '
        'and a cls.'
      )
    self.names = [
      f'{path}#{i}'
      for path, count in zip(self.paths, self.lengths, strict=True)
      for i in range(count)
    ]

  def scan(self, path: str) -> Int64[np.ndarray, 'n 3']:
    """See the function `scan`; no shard is left out."""
    with explained_as(SourceError):
      return scan(path)

  def labelled(self, index: int, classes: int) -> tuple[bytes, int]:
    """The encoded image and its label.

    Raises:
      ImageError: the label is no number below `classes`.
    """
    shard, row = self._row(index)
    assert row is not None  # every shard was indexed when it was opened
    at, size, label = row
    if label >= classes:
      found = 'is no number' if label == _NO_NUMBER else f'is {label}'
      raise ImageError(
        f'{self.names[index]}: its cls {found}, and there are {classes} '
        'classes (0 is the first); give the class names that belong to these '
        'shards.'
      )
    return self.read(shard, at * tar.BLOCK, size), label


def _check_all_there(patterns: str | os.PathLike | Sequence) -> None:
  """SourceError if a shard is not on this machine: the rest is another set."""
  for pattern in filter(remote.is_remote, paths.listed(patterns)):
    raise SourceError(
      f'{pattern}: labelled shards are read from a disk; fetch them first.'
    )
  missing = paths.absent(patterns)
  if missing:
    pattern, path = missing[0]
    of = '' if path == pattern else f' of {pattern}'
    more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
    raise SourceError(
      f'{path}{more}{of}: there is no such shard; give a path or a pattern of '
      "those that are there, such as '/data/imagenet-val-{000000..000049}.tar'."
    )


def scan(path: str) -> Int64[np.ndarray, 'n 3']:
  """Indexes the labelled images of one shard.

  Returns:
    int64 [n, 3]: the 512-byte block where the image starts, its size in
    bytes, and its label.
  """
  rows, left_out = [], 0
  with open(path, 'rb', buffering=0) as file:
    for parts in tar.samples(path):
      image = next((parts[e] for e in tar.IMAGES if e in parts), None)
      if image is None or 'cls' not in parts:
        left_out += 1
        continue
      block, size = parts['cls']
      text = os.pread(file.fileno(), min(size, _MOST_DIGITS), block * tar.BLOCK)
      rows.append((*image, _number(text)))
  if left_out:
    logging.warning(
      '%s: %d samples lack an image or a cls and are left out', path, left_out
    )
  return np.array(rows, np.int64).reshape(-1, 3)


def _number(text: bytes) -> int:
  text = text.strip()
  return min(int(text), _NO_NUMBER) if text.isdigit() else _NO_NUMBER
