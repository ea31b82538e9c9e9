"""Pictures with several captions each, for retrieval.

A list of our own (captions.jsonl), COCO's annotations, or Karpathy's splits.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from groupvit_jax.benchmarks import base as base_lib
from groupvit_jax.benchmarks import folders
from groupvit_jax.data import images
from groupvit_jax.errors import SourceError

_LIST = 'captions.jsonl'
_KARPATHY = 'dataset*.json'


@dataclasses.dataclass(frozen=True)
class CaptionedImage:
  """A picture and its captions.

  Fields:
    name: unique within its set.
    image: RGB pixels, upright.
    captions: at least one.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']
  captions: tuple[str, ...]


class CaptionSet:
  """Captioned pictures by random access, from any thread.

  `captions[i]` raises ImageError, naming the file, for a picture that cannot be
  read.
  """

  def __init__(self, rows: Sequence[tuple[str, pathlib.Path, tuple[str, ...]]]):
    """Holds (name, picture, captions) of each.

    Raises:
      SourceError: no picture, two of one name, or one without a caption.
    """
    base_lib.check_names([name for name, _, _ in rows])
    for name, _, captions in rows:
      if not captions or not all(c.strip() for c in captions):
        raise SourceError(f'{name!r} has no caption, or an empty one.')
    self._rows = tuple(rows)

  def __len__(self) -> int:
    return len(self._rows)

  def name(self, index: int) -> str:
    return self._rows[index][0]

  def captions(self, index: int) -> tuple[str, ...]:
    """The captions of a picture, without reading it."""
    return self._rows[index][2]

  def __getitem__(self, index: int) -> CaptionedImage:
    name, picture, captions = self._rows[index]
    return CaptionedImage(name, images.open_image(picture), captions)


def has_captions(folder: str | os.PathLike) -> bool:
  """Whether there is any of what `open_captions` looks for."""
  root = folders.existing(folder)
  patterns = (_LIST, 'annotations/captions_*.json', _KARPATHY)
  return any(any(root.glob(pattern)) for pattern in patterns)


def open_captions(
  folder: str | os.PathLike,
  split: str | None = None,
  *,
  limit: int | None = None,
) -> CaptionSet:
  """Opens captioned pictures.

  Args:
    folder: holds, the first that is there, captions.jsonl (a line a picture:
      image, a path in the folder, and captions); annotations/
      captions_SPLIT.json of COCO with images/SPLIT (or SPLIT); or dataset*.json
      of Karpathy's splits with images/.
    split: of captions.jsonl the names that SPLIT.txt lists, else the pictures
      in a folder of that name, None for all; of COCO 'val2017' by default; of
      Karpathy's 'test' by default.
    limit: the first so many pictures alone.

  Raises:
    SourceError: no such captions, or an empty split.
  """
  if limit is not None and limit < 1:
    raise ValueError(f'limit must be at least 1, not {limit}.')
  root = folders.existing(folder)
  coco = root / 'annotations' / f'captions_{split or "val2017"}.json'
  karpathy = sorted(root.glob(_KARPATHY))
  if (root / _LIST).is_file():
    rows = _from_list(root, split)
  elif coco.is_file():
    rows = _from_coco(root, coco, split or 'val2017')
  elif karpathy:
    rows = _from_karpathy(root, karpathy[0], split or 'test')
  else:
    raise SourceError(
      f'{root} has no {_LIST}, no annotations/{coco.name} and no '
      'dataset*.json; docs/evaluation.md tells how each must look.'
    )
  return CaptionSet(rows[:limit])


def _from_list(root, split):
  rows = []
  for number, line in folders.numbered_lines(root / _LIST):
    try:
      record = json.loads(line)
      name, captions = record['image'], record['captions']
      if not isinstance(captions, list):
        raise TypeError('captions is no list')
      path = folders.picture_in(root, name)
      rows.append((name, path, tuple(map(str, captions))))
    except (ValueError, KeyError, TypeError) as error:
      raise SourceError(
        f'{root / _LIST}, line {number}, needs "image" and a list "captions" '
        f'as JSON ({error}).'
      ) from error
  return rows if split is None else _of_split(rows, root, split)


def _of_split(rows, root, split):
  if (root / f'{split}.txt').is_file():
    wanted = set(folders.read_list(root / f'{split}.txt'))
    chosen = [
      row for row in rows if wanted & {row[0], row[1].name, row[1].stem}
    ]
  else:
    chosen = [row for row in rows if split in row[1].relative_to(root).parts]
  if not chosen:
    raise SourceError(
      f'{root} has no {split}.txt, and none of its pictures lies in a folder '
      f'{split}.'
      if not (root / f'{split}.txt').is_file()
      else f'{root / _LIST} has none of the pictures that {split}.txt lists.'
    )
  return chosen


def _from_coco(root, path, split):
  data = _parsed(path)
  places = [p for p in (root / 'images' / split, root / split) if p.is_dir()]
  if not places:
    raise SourceError(f'{root} has no images/{split} and no {split}.')
  try:
    captions = {}
    for annotation in data['annotations']:
      captions.setdefault(annotation['image_id'], []).append(
        annotation['caption']
      )
    files = {image['id']: image['file_name'] for image in data['images']}
  except (KeyError, TypeError) as error:
    raise _misread(path, error) from error
  return [
    (file, places[0] / file, tuple(captions.get(key, ())))
    for key, file in sorted(files.items(), key=lambda item: item[1])
  ]


def _from_karpathy(root, path, split):
  data = _parsed(path)
  base = root / 'images' if (root / 'images').is_dir() else root
  try:
    rows = []
    for image in data['images']:
      if image['split'] == split:
        name = f'{image.get("filepath", "")}/{image["filename"]}'.lstrip('/')
        sentences = tuple(s['raw'] for s in image['sentences'])
        rows.append((name, base / name, sentences))
  except (KeyError, TypeError) as error:
    raise _misread(path, error) from error
  if not rows:
    raise SourceError(f'{path} has no picture of the split {split!r}.')
  return rows


def _parsed(path):
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    raise _misread(path, error) from error


def _misread(path, error):
  return SourceError(
    f'{path} cannot be read as captions ({type(error).__name__}: {error}); '
    'download it anew.'
  )


# Pictures of which nothing is known: any folder of them.


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture alone.

  Fields:
    name: its path in the folder.
    image: RGB pixels, upright.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']


class Pictures:
  """Pictures by random access, from any thread.

  `pictures[i]` raises ImageError, naming the file, for one that cannot be read.
  """

  def __init__(self, root: pathlib.Path, names: Sequence[str]):
    self._root, self._names = root, tuple(names)

  def __len__(self) -> int:
    return len(self._names)

  def name(self, index: int) -> str:
    return self._names[index]

  def __getitem__(self, index: int) -> Picture:
    name = self._names[index]
    return Picture(name, images.open_image(self._root / name))


def open_pictures(
  folder: str | os.PathLike, *, limit: int | None = None
) -> Pictures:
  """Opens all pictures in a folder and below it.

  Args:
    folder: where they are.
    limit: the first so many alone, by name.

  Raises:
    SourceError: no such folder, or no picture in it.
  """
  root = folders.existing(folder)
  names = [
    path.relative_to(root).as_posix()
    for path in folders.files_below(root)
    if path.suffix.lower() in folders.PICTURES
  ]
  if not names:
    raise SourceError(
      f'{root} holds no picture ({", ".join(folders.PICTURES)}).'
    )
  return Pictures(root, names[:limit])
