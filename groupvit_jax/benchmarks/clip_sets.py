"""The labelled sets of CLIP's paper: classes, prompts, metric and readers.

26 sets of its table 9 beside ImageNet, and ImageNet's variants (figure 13).
Names and templates: openai/CLIP data/prompts.md (assets/NOTICE).
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from groupvit_jax.benchmarks import (
  base,
  folders,
  label_sets,
  scene_sets,
  tfds_sets,
)
from groupvit_jax.benchmarks.classification import (
  IMAGENET_CLASSES,
  IMAGENET_IDS,
  NAME,
  LabelledImages,
  open_labelled_images,
)
from groupvit_jax.data.sources import TFDSRecords
from groupvit_jax.errors import ConfigError, SourceError
from groupvit_jax.text import prompts

_TABLE = pathlib.Path(__file__).parent / 'assets' / 'clip_sets.json'

# What TFDS calls them, where it has them.
_TFDS = {
  **{
    name: name
    for name in (
      *('caltech101', 'cifar10', 'cifar100', 'dtd', 'eurosat', 'food101'),
      *('imagenet_a', 'imagenet_r', 'imagenet_sketch', 'imagenet_v2'),
      *('mnist', 'resisc45', 'stl10', 'sun397'),
    )
  },
  'flowers102': 'oxford_flowers102',
  'oxford_pets': 'oxford_iiit_pet',
  'pcam': 'patch_camelyon',
  'stanford_cars': 'cars196',
}
# How folders and TFDS spell the classes, in the order of CLIP's names.
_NATIVE: dict[str, tuple[str, ...]] = {
  'eurosat': (
    *('Forest', 'PermanentCrop', 'Residential', 'River', 'Pasture'),
    *('SeaLake', 'HerbaceousVegetation', 'AnnualCrop', 'Industrial', 'Highway'),
  ),
}
ORDERS = 'names', 'sorted'


@dataclasses.dataclass(frozen=True)
class ClipSet:
  """One of the sets.

  Attributes:
    class_names: as CLIP prompts them; synonyms as in 'happy|smiling'. Empty
      where the data name them.
    templates: its prompts, which are averaged.
    metric: a key of `evaluation.image_metrics.METRICS`.
  """

  class_names: tuple[str, ...]
  templates: tuple[str, ...]
  metric: str


def find(name: str) -> ClipSet:
  """A set by its name, one of `label_sets.CLASSIFICATION`."""
  metric = label_sets.CLIP_METRICS.get(name)
  if metric is None:
    return ClipSet((), prompts.SUBSET, 'accuracy')
  if name in label_sets.IMAGENET_SHIFTS:
    return ClipSet(IMAGENET_CLASSES, prompts.FULL, metric)
  entry = _table()[name]
  return ClipSet(tuple(entry['classes']), tuple(entry['templates']), metric)


@functools.cache
def _table() -> dict[str, Any]:
  return json.loads(_TABLE.read_text(encoding='utf-8'))


def open_set(
  name: str,
  folder: str | os.PathLike,
  split: str | None = None,
  *,
  class_names: Sequence[str] | None = None,
  limit: int | None = None,
  order: str = 'names',
) -> Any:
  """Opens the images of a set.

  Args:
    name: a key of `label_sets.CLIP_METRICS`.
    folder: what `open_labelled_images` reads (folders named after their class,
      or by its number; labels.jsonl; shards), a set that TFDS has prepared, or
      for 'voc2007' and 'objectnet' the folder as it is downloaded.
    split: a sub-folder, or of TFDS and VOC a split ('test' by default).
    class_names: in label order, in place of CLIP's.
    limit: the first so many images alone.
    order: 'names': folders and TFDS labels are matched by their names, and one
      that names no class is an error; 'sorted': they count the classes in
      CLIP's order, whatever they are called.

  Returns:
    `LabelledImages`; their class_names are those that occur in ImageNet-A and
    -R and in ObjectNet. Of 'voc2007' a label is an array: 1, -1 or 0 (does not
    count) for each class.

  Raises:
    SourceError: no such data, or labels that name no class.
  """
  if order not in ORDERS:
    raise SourceError(f'order is one of {", ".join(ORDERS)}, not {order!r}.')
  root = folders.existing(folder)
  if name == 'voc2007':
    return _voc2007(root, split or 'test').first(limit)
  if name == 'objectnet':
    return _objectnet(root).first(limit)
  names = tuple(class_names or find(name).class_names)
  prepared = _TFDS.get(name) and tfds_sets.find(root, _TFDS[name])
  if prepared:
    found = _from_tfds(name, prepared, split or 'test', names, order)
  else:
    found = _from_folder(name, root, split, names, order)
  # The classes are those of the whole set, however few images are taken.
  return _only_those_that_occur(name, found).first(limit)


def open_labelled(
  benchmark: str,
  folder: str | os.PathLike | None = None,
  split: str | None = None,
  *,
  class_names: Sequence[str] | None = None,
  limit: int | None = None,
  **options: Any,
) -> Any:
  """Opens any benchmark of `label_sets.CLASSIFICATION`.

  Args:
    benchmark: its name.
    folder: of its data; None for crops of scenes.
    split: see `open_set`.
    class_names: in label order, in place of the set's own.
    limit: the first so many images alone.
    **options: of the reader: of crops of scenes count, size and seed; of CLIP's
      sets order.

  Returns:
    Images by random access, each with name, image and label; and their
    class_names, in label order.

  Raises:
    SourceError: no such data.
    ConfigError: an option that the reader does not have.
  """
  if benchmark == label_sets.SCENE_CROPS:
    return scene_sets.open_set(benchmark, split, limit, options)
  assert folder is not None  # the caller refuses it
  if benchmark in label_sets.CLIP_METRICS:
    base.check_options(benchmark, options, {'order': 'names'})
    return open_set(
      benchmark, folder, split, class_names=class_names, limit=limit, **options
    )
  base.check_options(benchmark, options, {})
  images = open_labelled_images(
    folder, split, class_names=class_names, limit=limit
  )
  named = tuple(images.class_names) == IMAGENET_CLASSES
  if benchmark == 'imagenet' and not (class_names or named):
    raise ConfigError(
      f'{folder} is not named by WordNet ids (n01440764, ...), as ImageNet is; '
      "for folders with other names take the benchmark 'classes'"
    )
  return images


def _from_folder(
  name: str,
  root: pathlib.Path,
  split: str | None,
  names: tuple[str, ...],
  order: str,
) -> LabelledImages:
  place = folders.existing(root / split) if split else root
  native = _NATIVE.get(name, names)
  given = sorted(path.name for path in place.iterdir() if path.is_dir())
  plain = (place / NAME).is_file() or any(place.glob('*.tar')) or not given
  digits = all(value.isdigit() for value in given)
  counted = digits and not set(given) & {_key(value) for value in names}
  if not plain and (order == 'sorted' or counted):
    if order == 'sorted' and len(given) != len(names):
      raise SourceError(
        f'{place} has {len(given)} folders, and {name} has {len(names)} '
        'classes: in sorted order there must be one for each.'
      )
    labels = {
      value: int(value) if counted else i for i, value in enumerate(given)
    }
    return _by_label(place, labels, names)
  if set(given) & set(native) and native is not names and not plain:
    labels = {value: native.index(value) for value in given if value in native}
    return _by_label(place, labels, names)
  if all(value in IMAGENET_IDS for value in given) or plain:
    return open_labelled_images(root, split, class_names=names)
  try:
    return open_labelled_images(root, split, class_names=names)
  except SourceError as error:
    raise SourceError(
      f"{error} Folders are matched by CLIP's names of the classes "
      f'(groupvit_jax/benchmarks/assets/{_TABLE.name}); where they are called '
      'otherwise but sort in its order, give --set data.order=sorted.'
    ) from error


def _by_label(place, labels, names):
  """Images of folders, whose labels are known."""
  rows = [
    (path, labels[path.relative_to(place).parts[0]])
    for path in folders.images_below(place)
    if path.relative_to(place).parts[0] in labels
  ]
  wrong = [label for _, label in rows if label >= len(names)]
  if wrong:
    raise SourceError(
      f'{place} has a folder {wrong[0]}, and there are {len(names)} classes, '
      'the first being 0.'
    )
  stems = [path.relative_to(place).as_posix() for path, _ in rows]
  return LabelledImages(names, stems, lambda i: rows[i])


def _from_tfds(
  name: str,
  prepared: pathlib.Path,
  split: str,
  names: tuple[str, ...],
  order: str,
) -> LabelledImages:
  records = TFDSRecords(prepared, split, ('image',))
  stored = getattr(records.features.get('label'), 'names', None)
  if 'label' not in records.features or not stored:
    raise SourceError(f'{records.name} has no feature label with classes.')
  if order == 'sorted' or len(stored) == len(names) == len(IMAGENET_IDS):
    places = list(range(len(stored)))
  else:
    native = [_key(value) for value in _NATIVE.get(name, names)]
    places = [
      native.index(_key(value)) if _key(value) in native else -1
      for value in stored
    ]
  if -1 in places or len(stored) > len(names):
    odd = stored[places.index(-1)] if -1 in places else stored[-1]
    raise SourceError(
      f"{records.name} has a class {odd!r}, which is none of CLIP's "
      f'{len(names)}; if its labels count them in their order, give '
      '--set data.order=sorted.'
    )

  def read(index: int) -> tuple[bytes, int]:
    record = records[index]
    return record['image'], places[int(record['label'])]

  return LabelledImages(names, records.names(), read)


def _key(value: str) -> str:
  """Names are compared without case, underscores and blanks."""
  first = prompts.synonyms(value)[0]
  return ''.join(c for c in first.lower() if c not in ' _-')


def _only_those_that_occur(name: str, found: LabelledImages) -> LabelledImages:
  """ImageNet-A and -R have 200 classes, which predictions are among."""
  if name not in ('imagenet_a', 'imagenet_r'):
    return found
  labels = [found.encoded(i)[1] for i in range(len(found))]
  there = sorted(set(labels))
  place = {label: i for i, label in enumerate(there)}
  return LabelledImages(
    [found.class_names[label] for label in there],
    [found.name(i) for i in range(len(found))],
    lambda i: (found.encoded(i)[0], place[labels[i]]),
  )


def _objectnet(root: pathlib.Path) -> LabelledImages:
  """ObjectNet as downloaded: the 113 classes that ImageNet has too.

  mappings/ tells the name of each folder and the classes of ImageNet. Prompts
  take ObjectNet's names, and predictions are among the 113 (as in
  mlfoundations/wise-ft).
  """
  mappings = root / 'mappings'
  if not mappings.is_dir():
    raise SourceError(
      f'{root} has no mappings/: give the folder objectnet-1.0 with images/ '
      'and mappings/ as it is downloaded.'
    )
  by_folder = folders.read_json(
    mappings / 'folder_to_objectnet_label.json',
    dict[str, str],
    'the names of folders',
  )
  shared = folders.read_json(
    mappings / 'objectnet_to_imagenet_1k.json',
    dict[str, str],
    'the classes of ImageNet',
  )
  kept = sorted(name for name, called in by_folder.items() if called in shared)
  labels = {name: i for i, name in enumerate(kept)}
  names = [by_folder[name] for name in kept]
  return _by_label(folders.existing(root / 'images'), labels, names)


def _voc2007(root: pathlib.Path, split: str) -> LabelledImages:
  """VOC 2007's classification as downloaded.

  JPEGImages/ and ImageSets/Main/CLASS_SPLIT.txt, a line an image: its name, and
  1, -1 or 0 (does not count).
  """
  class_names, columns, names = find('voc2007').class_names, [], None
  for name in class_names:
    path = root / 'ImageSets' / 'Main' / f'{name}_{split}.txt'
    if not path.is_file():
      raise SourceError(
        f'there is no {path}: give the folder VOC2007 with JPEGImages/ and '
        'ImageSets/Main/, and a split that it has.'
      )
    rows = [line.split() for line in path.read_text().splitlines() if line]
    these = [row[0] for row in rows]
    if names is not None and these != names:
      raise SourceError(f'{path} lists other images than the first class.')
    names = these
    columns.append([int(row[1]) for row in rows])
  names = names or []
  labels = np.array(columns, np.int8).T
  return LabelledImages(
    class_names,
    names,
    lambda i: (root / 'JPEGImages' / f'{names[i]}.jpg', labels[i]),
  )
