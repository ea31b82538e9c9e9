"""Anybody's own data: images/, masks/ and classes.txt.

A mask is a PNG of the picture's name whose pixel value is the line of
classes.txt, the first line being 0; 255 is ignored.
"""

import os
import pathlib

from groupvit_jax.data import label_sets
from groupvit_jax.data.benchmarks import folders, label_maps, pairs
from groupvit_jax.errors import SourceError
from groupvit_jax.text import prompts

_MASKS = ('.png', '.tif', '.tiff', '.bmp')


def open_folder(
  folder: str | os.PathLike, split: str | None = None
) -> pairs.PairSet:
  """Opens a folder of one's own.

  Args:
    folder: holds images/, masks/ (with the same sub-folders) and classes.txt, a
      class name per line. If the first is 'background' (also with synonyms, as
      in 'background|wall|sky'), it is one: it gets no prompt, and pixels become
      it by the protocol's rule.
    split: None for all pictures; else images/SPLIT and masks/SPLIT, or the
      names that SPLIT.txt lists, one a line, with or without suffix.

  Raises:
    SourceError: a part is missing or empty; classes.txt has a line that names
      no class, a name twice, too many classes, or none but the background.
  """
  root = folders.root_of(folder, ('images', 'masks', 'classes.txt'))
  names = _class_names(root / 'classes.txt')
  background = prompts.synonyms(names[0])[0].lower() == 'background'
  if background and len(names) == 1:
    raise SourceError(
      f'{root / "classes.txt"} names the background alone, so that there is '
      'nothing to tell from it: add a line for each class.'
    )
  files = _files(root, split)
  return pairs.from_files(
    names,
    files,
    label_maps.as_stored(len(names)),
    background=background,
  )


def _class_names(path):
  try:
    names = label_sets.read_names(path, by_line=True)
    prompts.check_distinct(names, f'{path}: ')
  except (OSError, ValueError) as error:
    raise SourceError(f'{error}.'.replace('..', '.')) from error
  if len(names) > label_maps.IGNORED:
    raise SourceError(
      f'{path} names {len(names)} classes; there can be {label_maps.IGNORED}, '
      'since a mask value of 255 means: ignored.'
    )
  return names


def _files(root, split):
  images, masks = root / 'images', root / 'masks'
  if split is None:
    return folders.paired(images, masks, truth_suffixes=_MASKS)
  if (images / split).is_dir():
    return folders.paired(
      images / split, folders.existing(masks / split), truth_suffixes=_MASKS
    )
  # Whole lines: names of one's own may have blanks in them.
  listed = map(str.strip, folders.lines(root / f'{split}.txt'))
  there = {
    name: (picture, mask)
    for name, picture, mask in folders.paired(
      images, masks, truth_suffixes=_MASKS
    )
  }
  return [_listed(name, there, images, masks) for name in listed]


def _listed(name, there, images, masks):
  """Also what is listed and not there: its reader names it."""
  path = pathlib.PurePosixPath(name)
  if path.suffix.lower() in folders.PICTURES:
    name = path.with_suffix('').as_posix()
  absent = (images / f'{name}.jpg', masks / f'{name}.png')
  return name, *there.get(name, absent)
