"""Images with captions, for retrieval, and images alone.

Captions come from a list of the user's own (captions.jsonl), COCO's
annotations, or Karpathy's splits.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import UInt8

from groupvit_jax.benchmarks import base, folders
from groupvit_jax.data import images
from groupvit_jax.errors import SourceError

_LIST = 'captions.jsonl'
_KARPATHY = 'dataset*.json'
_Row = tuple[str, tuple[str, ...]]  # path in a folder, captions


@dataclasses.dataclass(frozen=True)
class CaptionedImage:
  """An image and its captions.

  Fields:
    name: unique within its set.
    image: RGB pixels, upright.
    captions: none for images alone.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']
  captions: tuple[str, ...]


class CaptionSet(base.Named[CaptionedImage]):
  """Captioned images by random access, from any thread.

  `captions[i]` raises ImageError, naming the file, for an image that cannot be
  read.
  """

  def __init__(self, root: pathlib.Path, rows: Sequence[_Row]):
    """Keeps (path in the folder, captions) of each image.

    Raises:
      SourceError: no image, two of one name, or a path out of the folder.
    """
    super().__init__([name for name, _ in rows])
    self._paths = [folders.inside(root, name) for name, _ in rows]
    self._rows = tuple(rows)

  def captions(self, index: int) -> tuple[str, ...]:
    """The captions of an image, without reading it."""
    return self._rows[range(len(self))[index]][1]

  def _example(self, index: int) -> CaptionedImage:
    name, captions = self._rows[index]
    image = images.open_image(self._paths[index])
    return CaptionedImage(name, image, captions)


def open_captions(
  folder: str | os.PathLike,
  split: str | None = None,
  *,
  limit: int | None = None,
  karpathy: bool = False,
) -> CaptionSet:
  """Opens captioned images.

  Args:
    folder: holds, the first that is there, captions.jsonl (a line an image:
      image, a path in the folder, and captions); annotations/
      captions_SPLIT.json of COCO with images/SPLIT (or SPLIT); or dataset*.json
      of Karpathy's splits with images/.
    split: of captions.jsonl the names that SPLIT.txt lists, else the images in
      a folder of that name, None for all; of COCO 'val2017' by default; of
      Karpathy's 'test' by default.
    limit: the first so many images alone.
    karpathy: only Karpathy's splits, whatever else is there.

  Raises:
    SourceError: no such captions, an empty split, an image without a caption,
      or one outside of the folder.
  """
  root = folders.existing(folder)
  coco = root / 'annotations' / f'captions_{split or "val2017"}.json'
  splits = sorted(root.glob(_KARPATHY))
  if karpathy and not splits:
    raise SourceError(
      f"{root} has no dataset*.json of Karpathy's splits "
      '(dataset_flickr30k.json, dataset_coco.json).'
    )
  if (root / _LIST).is_file() and not karpathy:
    place, rows = root, _from_list(root, split)
  elif coco.is_file() and not karpathy:
    place, rows = _from_coco(root, coco, split or 'val2017')
  elif splits:
    place, rows = _from_karpathy(root, splits[0], split or 'test')
  else:
    raise SourceError(
      f'{root} has no {_LIST}, no annotations/{coco.name} and no '
      'dataset*.json; docs/benchmarks.md describes each.'
    )
  for name, captions in rows:
    if not captions or not all(caption.strip() for caption in captions):
      raise SourceError(f'{name!r} has no caption, or an empty one.')
  return CaptionSet(place, rows).first(limit)


class _Line(msgspec.Struct):
  """A line of captions.jsonl."""

  image: str
  captions: list[str]


def _from_list(root: pathlib.Path, split: str | None) -> list[_Row]:
  path = root / _LIST
  rows, paths = [], []
  needs = '"image" and a list "captions"'
  for number, line in folders.json_lines(path, _Line, needs):
    where = f'{path}, line {number}'
    paths.append(folders.inside(root, line.image, where))
    rows.append((line.image, tuple(line.captions)))
  if split is None:
    return rows
  listed = root / f'{split}.txt'
  wanted = set(folders.read_list(listed)) if listed.is_file() else None
  chosen = [
    row
    for row, file in zip(rows, paths, strict=True)
    if (
      split in file.relative_to(root).parts
      if wanted is None
      else wanted & {row[0], file.name, file.stem}
    )
  ]
  if not chosen:
    raise SourceError(
      f'{root} has no {split}.txt, and none of its images lies in a folder '
      f'{split}.'
      if wanted is None
      else f'{path} has none of the images that {split}.txt lists.'
    )
  return chosen


class _CocoImage(msgspec.Struct):
  id: int
  file_name: str


class _CocoCaption(msgspec.Struct):
  image_id: int
  caption: str


class _Coco(msgspec.Struct):
  images: list[_CocoImage]
  annotations: list[_CocoCaption]


def _from_coco(
  root: pathlib.Path, path: pathlib.Path, split: str
) -> tuple[pathlib.Path, list[_Row]]:
  data = folders.read_json(path, _Coco, 'captions of COCO')
  places = [p for p in (root / 'images' / split, root / split) if p.is_dir()]
  if not places:
    raise SourceError(f'{root} has no images/{split} and no {split}.')
  captions = collections.defaultdict(list)
  for annotation in data.annotations:
    captions[annotation.image_id].append(annotation.caption)
  listed = sorted(data.images, key=lambda image: image.file_name)
  return places[0], [(i.file_name, tuple(captions[i.id])) for i in listed]


class _Sentence(msgspec.Struct):
  raw: str


class _KarpathyImage(msgspec.Struct):
  split: str
  filename: str
  sentences: list[_Sentence]
  filepath: str = ''


class _Karpathy(msgspec.Struct):
  images: list[_KarpathyImage]


def _from_karpathy(
  root: pathlib.Path, path: pathlib.Path, split: str
) -> tuple[pathlib.Path, list[_Row]]:
  data = folders.read_json(path, _Karpathy, "captions of Karpathy's splits")
  rows = [
    (
      f'{image.filepath}/{image.filename}'.lstrip('/'),
      tuple(sentence.raw for sentence in image.sentences),
    )
    for image in data.images
    if image.split == split
  ]
  if not rows:
    raise SourceError(f'{path} has no image of the split {split!r}.')
  place = root / 'images'
  return place if place.is_dir() else root, rows
