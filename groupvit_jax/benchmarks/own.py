"""Sets that no download holds: a user's own folder, and drawn scenes.

A folder has images/, masks/ and classes.txt. A mask is a PNG of the image's
name whose pixel value is the line of classes.txt, the first line being 0; 255
is ignored.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from groupvit_jax import IGNORE, scenes
from groupvit_jax.benchmarks import base, codings, folders, label_sets
from groupvit_jax.data.images import SUFFIXES
from groupvit_jax.errors import ImageError, SourceError, explained_as
from groupvit_jax.text import prompts

_MASK_ENDINGS = ('.png', '.tif', '.tiff', '.bmp')
_LOOKED_AT = 20  # masks, when a set is opened


def open_folder(
  name: str, folder: pathlib.Path, split: str | None
) -> base.PairSet | None:
  """Opens a user's folder.

  Args:
    name: of the benchmark: 'folder'.
    folder: holds images/, masks/ (with the same sub-folders) and classes.txt, a
      class name per line. If the first is 'background' (also with synonyms, as
      in 'background|wall|sky'), it is one: it gets no prompt, and pixels become
      it by the protocol's rule.
    split: None for all images; else images/SPLIT and masks/SPLIT, or the names
      that SPLIT.txt lists, one a line, with or without suffix.

  Returns:
    The set, None if a part is missing.

  Raises:
    SourceError: classes.txt has a line that names no class, a name twice, too
      many classes, or only the background; no image; a listed one outside of
      the folder; or masks of 0 and 255 for two classes.
  """
  path = folder / 'classes.txt'
  if not (folder / 'images').is_dir() or not (folder / 'masks').is_dir():
    return None
  if not path.is_file():
    return None
  names = _class_names(path)
  background = prompts.synonyms(names[0])[0].lower() == 'background'
  if background and len(names) == 1:
    raise SourceError(
      f'{path} names the background alone: add a line for each class.'
    )
  files = _files(folder, split)
  _check_masks([mask for _, _, mask in files], names)
  return base.from_files(
    names, files, codings.as_stored(len(names)), background=background
  )


def _class_names(path: pathlib.Path) -> tuple[str, ...]:
  try:
    names = label_sets.read_names(path, by_line=True)
    prompts.check_distinct(names, f'{path}: ')
  except (OSError, ValueError) as error:
    raise SourceError(f'{error}.'.replace('..', '.')) from error
  if len(names) > IGNORE:
    raise SourceError(
      f'{path} names {len(names)} classes; there can be {IGNORE}, since a '
      'mask value of 255 means: ignored.'
    )
  return names


def _files(
  root: pathlib.Path, split: str | None
) -> list[tuple[str, pathlib.Path, pathlib.Path]]:
  images, masks = root / 'images', root / 'masks'
  if split is not None and (images / split).is_dir():
    images, masks = images / split, folders.existing(masks / split)
    split = None
  files = folders.paired(images, masks, label_endings=_MASK_ENDINGS)
  if split is None:
    return files
  there = {file[0]: file for file in files}
  # Whole lines: a user's names may have blanks in them.
  listed = folders.numbered_lines(root / f'{split}.txt')
  return [_listed(line.strip(), there, images, masks) for _, line in listed]


def _listed(name, there, images, masks):
  """A file that a list names; a missing one too: its reader reports it."""
  path = pathlib.PurePosixPath(name)
  if path.suffix.lower() in SUFFIXES:
    name = path.with_suffix('').as_posix()
  absent = folders.inside(images, f'{name}.jpg'), masks / f'{name}.png'
  return there.get(name, (name, *absent))


def _check_masks(masks: list[pathlib.Path], names: tuple[str, ...]) -> None:
  """Notices masks of 0 and 255, whose 255 is meant to be a class.

  Raises:
    SourceError: for two classes. For more it may be right, and is a warning.
  """
  found = set()
  for path in masks[:: -(-len(masks) // _LOOKED_AT) or 1]:
    try:
      found |= set(np.unique(base.read_label_map(path, str(path))).tolist())
    except ImageError:  # reported when it is evaluated
      continue
  if found == {IGNORE}:
    raise SourceError(
      f'{masks[0].parent}: the masks hold 255 alone, which means: ignored'
    )
  if found != {0, IGNORE} or len(names) < 2:
    return
  message = (
    f'{masks[0].parent}: the masks hold the values 0 and 255 alone, and 255 '
    f'means: ignored, so no pixel is {names[1]!r}. Write the number of its '
    f'line in classes.txt: 1 for {names[1]!r}.'
  )
  if len(names) == 2:
    raise SourceError(message)
  logging.warning('%s', message)


SCENES_OPTIONS = {'count': 1000, 'size': 224, 'seed': 0}


class ScenesSet(base.LabelledSet):
  """`scenes` as a `LabelledSet`: drawn when asked for, nothing on disk.

  They are the scenes that training is evaluated with, at any size; every pixel
  has a class. Fields: as LabelledSet.
  """

  background = False

  def __init__(
    self,
    split: str = 'validation',
    *,
    count: int = SCENES_OPTIONS['count'],
    size: int = SCENES_OPTIONS['size'],
    seed: int = SCENES_OPTIONS['seed'],
  ):
    """Chooses scenes.

    Args:
      split: 'validation' or 'test' (or 'train', to look at).
      count: how many; the first ones are the same for every count.
      size: side in pixels; the same scenes at every size.
      seed: another one gives other scenes.

    Raises:
      SourceError: an unknown split, or no scene.
    """
    with explained_as(SourceError):
      self._seed = scenes.split_seed(split, seed)
    if count < 1 or size < 16:
      raise SourceError(
        f'scenes needs a count of at least 1 and a size of at least 16, not '
        f'{count} and {size}.'
      )
    super().__init__([f'{split}-{i:06d}' for i in range(count)])
    self.class_names = scenes.CLASS_NAMES
    self._size = size

  def _example(self, index: int) -> base.Example:
    image, _, label = scenes.generate(self._seed, index=index, size=self._size)
    return base.Example(self.name(index), image, label.astype('int32'))


class SceneThings(ScenesSet):
  """The same scenes with labels of things alone: every ground is background."""

  background = True

  def __init__(self, split: str = 'validation', **options: int):
    """Chooses scenes; options as of `ScenesSet`."""
    super().__init__(split, **options)
    self.class_names = ('background', *scenes.THINGS)

  def _example(self, index: int) -> base.Example:
    example = super()._example(index)
    # Grounds come first among the classes of scenes.
    label = (example.label - len(scenes.GROUNDS) + 1).clip(0)
    return dataclasses.replace(example, label=label)
