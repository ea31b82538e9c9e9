"""Anybody's own data: images/, masks/ and classes.txt.

A mask is a PNG of the picture's name whose pixel value is the line of
classes.txt, the first line being 0; 255 is ignored.
"""

import dataclasses
import os
import pathlib

from groupvit_jax import scenes
from groupvit_jax.benchmarks import base, folders, label_sets
from groupvit_jax.benchmarks.base import Example
from groupvit_jax.errors import SourceError
from groupvit_jax.text import prompts

_MASKS = ('.png', '.tif', '.tiff', '.bmp')


def open_folder(
  folder: str | os.PathLike, split: str | None = None
) -> base.PairSet:
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
  return base.from_files(
    names,
    files,
    base.as_stored(len(names)),
    background=background,
  )


def _class_names(path):
  try:
    names = label_sets.read_names(path, by_line=True)
    prompts.check_distinct(names, f'{path}: ')
  except (OSError, ValueError) as error:
    raise SourceError(f'{error}.'.replace('..', '.')) from error
  if len(names) > base.IGNORED:
    raise SourceError(
      f'{path} names {len(names)} classes; there can be {base.IGNORED}, '
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


# `scenes` as a labelled set: drawn when asked for, nothing on disk.
#
# The same scenes as those that training is evaluated with, at any size.

DEFAULTS = {'count': 1000, 'size': 224, 'seed': 0}
_SPLITS = ('train', 'validation', 'test')


class ScenesSet:
  """A `LabelledSet` of drawn scenes; every pixel has a class.

  Fields: as LabelledSet.
  """

  background = False

  def __init__(
    self,
    split: str = 'validation',
    *,
    count: int = DEFAULTS['count'],
    size: int = DEFAULTS['size'],
    seed: int = DEFAULTS['seed'],
  ):
    """Says which scenes.

    Args:
      split: 'validation' or 'test' (or 'train', to look at).
      count: how many; the first ones are the same for every count.
      size: side in pixels; the same scenes at every size.
      seed: another one gives other scenes.

    Raises:
      SourceError: an unknown split, or no scene.
    """
    if split not in _SPLITS:
      raise SourceError(
        f'scenes has the splits {", ".join(_SPLITS)}, not {split!r}.'
      )
    if count < 1 or size < 16:
      raise SourceError(
        f'scenes needs a count of at least 1 and a size of at least 16, not '
        f'{count} and {size}.'
      )
    self.class_names = scenes.CLASS_NAMES
    self._split, self._count, self._size = split, count, size
    self._seed = scenes.split_seed(split, seed)

  def __len__(self) -> int:
    return self._count

  def name(self, index: int) -> str:
    return f'{self._split}-{range(self._count)[index]:06d}'

  def __getitem__(self, index: int) -> Example:
    index = range(self._count)[index]
    image, _, label = scenes.generate(self._seed, index=index, size=self._size)
    return Example(self.name(index), image, label.astype('int32'))


class SceneThings(ScenesSet):
  """Scenes of which the things alone are asked for: a set with a background.

  Every ground is background (class 0). Nothing else differs, and no model is
  trained otherwise: it is the truth that is read in another way.

  Fields: as LabelledSet.
  """

  background = True

  def __init__(self, split: str = 'validation', **options: int):
    """Says which scenes; options as of `ScenesSet`."""
    super().__init__(split, **options)
    self.class_names = ('background', *scenes.THINGS)

  def __getitem__(self, index: int) -> Example:
    example = super().__getitem__(index)
    # Grounds come first among the classes of scenes.
    label = (example.label - len(scenes.GROUNDS) + 1).clip(0)
    return dataclasses.replace(example, label=label)
