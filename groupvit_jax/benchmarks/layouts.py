"""The benchmarks of segmentation by name, and the layouts they come in.

A `Layout` is one line of a table; `open_set` tries those of a benchmark in
turn, and is the one way in. What it returns is a `LabelledSet`.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupvit_jax.benchmarks import (
  annotations,
  base,
  codings,
  folders,
  label_sets,
  own,
  tfds_sets,
)
from groupvit_jax.errors import SourceError

# (name of the benchmark, folder, split) -> the set; None if it is not there.
Reader = Callable[[str, pathlib.Path, Any], base.LabelledSet | None]
_File = tuple[str, pathlib.Path, pathlib.Path]  # name, image, label map


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where images and label maps lie; '{split}' stands for the split.

  A `Reader`. Fields:
    coding: of the label maps.
    images, labels: folders, the first that is there counts.
    ending: of label maps, after the name.
    image_ending: of images.
    split_list: file that names the images of a split; None pairs all files by
      name.
    roots: the folders in a user's folder where archives may have unpacked.
  """

  coding: codings.Coding
  images: Sequence[str]
  labels: Sequence[str]
  ending: str = '.png'
  image_ending: str = '.jpg'
  split_list: str | None = None
  roots: Sequence[str] = ('',)

  def __call__(
    self, name: str, folder: pathlib.Path, split: str
  ) -> base.PairSet | None:
    """Opens a split; None where images or label maps of it are not there.

    Raises:
      SourceError: an empty split, or one that names a file elsewhere.
    """
    parts = itertools.product(self.roots, self.images, self.labels)
    for root, *places in parts:
      images, labels = (folder / root / p.format(split=split) for p in places)
      if not (images.is_dir() and labels.is_dir()):
        continue
      if self.split_list is None:
        files = self._all(images, labels)
      else:
        path = folder / root / self.split_list.format(split=split)
        files = self._listed(images, labels, path)
      if files:
        names = label_sets.class_names(name)
        background = names[0] == 'background'
        return base.from_files(names, files, self.coding, background=background)
    return None

  def _all(self, images: pathlib.Path, labels: pathlib.Path) -> list[_File]:
    """All pairs; none where there is no label map of this ending."""
    files = folders.paired(images, labels, (self.image_ending,), (self.ending,))
    if 'TrainIds' not in self.ending:
      # Converted label maps may lie beside the original ones.
      files = [file for file in files if not file[0].endswith('TrainIds')]
    return files if any(label.exists() for _, _, label in files) else []

  def _listed(
    self, images: pathlib.Path, labels: pathlib.Path, path: pathlib.Path
  ) -> list[_File]:
    return [
      (
        name,
        folders.inside(images, name + self.image_ending, path),
        folders.inside(labels, name + self.ending, path),
      )
      for name in folders.read_list(path)
    ]


_VOC_ROOTS = ('', 'VOC2012', 'VOCdevkit/VOC2012')
_CONTEXT_ROOTS = ('', 'VOC2010', 'VOCdevkit/VOC2010')
_COCO_IMAGES = ('images/{split}', '{split}')
_COCO_LABELS = (
  'annotations/{split}',
  'stuffthingmaps/{split}',
  'stuffthingmaps_trainval2017/{split}',
)


def _voc(coding: codings.Coding) -> Layout:
  return Layout(
    coding,
    images=('JPEGImages',),
    labels=('SegmentationClass',),
    split_list='ImageSets/Segmentation/{split}.txt',
    roots=_VOC_ROOTS,
  )


def _context(coding: codings.Coding) -> Layout:
  return Layout(
    coding,
    images=('JPEGImages',),
    labels=('SegmentationClassContext',),
    split_list='ImageSets/SegmentationContext/{split}.txt',
    roots=_CONTEXT_ROOTS,
  )


def _coco(coding: codings.Coding, ending: str = '.png') -> Layout:
  return Layout(coding, _COCO_IMAGES, _COCO_LABELS, ending=ending)


def _ade20k(
  name: str, folder: pathlib.Path, split: str
) -> base.LabelledSet | None:
  layout = Layout(
    codings.less_one(150),
    images=('images/{split}',),
    labels=('annotations/{split}',),
    roots=('', 'ADEChallengeData2016'),
  )
  known = {'val': 'validation', 'train': 'training'}
  return layout(name, folder, known.get(split, split))


def _cityscapes(coding: codings.Coding, kind: str) -> Layout:
  return Layout(
    coding,
    images=('leftImg8bit/{split}',),
    labels=('gtFine/{split}',),
    ending=f'_gtFine_{kind}.png',
    image_ending='_leftImg8bit.png',
    roots=('', 'cityscapes'),
  )


def _instances(
  name: str, folder: pathlib.Path, split: str
) -> base.LabelledSet | None:
  path = folder / 'annotations' / f'instances_{split}.json'
  places = [folder / p.format(split=split) for p in _COCO_IMAGES]
  images = next((place for place in places if place.is_dir()), None)
  if images is None or not path.is_file():
    return None
  return annotations.open_instances(label_sets.class_names(name), images, path)


def _context_json(
  name: str, folder: pathlib.Path, split: str
) -> base.LabelledSet | None:
  for root in _CONTEXT_ROOTS:
    images = folder / root / 'JPEGImages'
    path = folder / root / 'trainval_merged.json'
    if images.is_dir() and path.is_file():
      names = label_sets.class_names(name)
      return annotations.open_context(names, images, path, split)
  return None


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A labelled set that people report figures on.

  Fields:
    title: as people call it.
    split: the one that figures are reported on; None for all there is.
    layout: how its folder must look.
    where: where to get it.
    readers: tried in turn; none for `scenes`, which needs no folder.
    options: of `scenes`, with their defaults.
  """

  title: str
  split: str | None
  layout: str = ''
  where: str = ''
  readers: Sequence[Reader] = ()
  options: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @property
  def help(self) -> str:
    """How the folder must look and where to get it."""
    if not self.readers:
      return 'docs/benchmarks.md tells more.'
    where = f' Where from: {self.where}.' if self.where else ''
    return (
      f'{self.title} is read from a folder like this: {self.layout}.{where} '
      'docs/benchmarks.md tells more.'
    )


_VOC_LAYOUT = (
  'JPEGImages/ID.jpg, SegmentationClass/ID.png, ImageSets/Segmentation/val.txt'
)
_VOC_WHERE = (
  'VOCtrainval_11-May-2012.tar, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/'
)
_CONTEXT_LAYOUT = (
  'JPEGImages/ID.jpg; and either SegmentationClassContext/ID.png with '
  'ImageSets/SegmentationContext/val.txt, or trainval_merged.json'
)
_CONTEXT_WHERE = (
  'VOCtrainval_03-May-2010.tar, http://host.robots.ox.ac.uk/pascal/VOC/voc2010/;'
  ' trainval_merged.json, '
  'https://codalabuser.blob.core.windows.net/public/trainval_merged.json'
)
_COCO_WHERE = (
  'val2017.zip and annotations_trainval2017.zip, https://cocodataset.org; '
  'stuffthingmaps_trainval2017.zip, https://github.com/nightrome/cocostuff'
)

BENCHMARKS: Mapping[str, Benchmark] = {
  'voc21': Benchmark(
    'PASCAL VOC 2012 with background',
    'val',
    _VOC_LAYOUT,
    _VOC_WHERE,
    [_voc(codings.as_stored(21))],
  ),
  # The background is ignored (mmsegmentation reduce_zero_label;
  # kakaobrain/tcl segmentation/datasets/pascal_voc.py).
  'voc20': Benchmark(
    'PASCAL VOC 2012 without background',
    'val',
    _VOC_LAYOUT,
    _VOC_WHERE,
    [_voc(codings.less_one(20))],
  ),
  'context60': Benchmark(
    'PASCAL Context with background',
    'val',
    _CONTEXT_LAYOUT,
    _CONTEXT_WHERE,
    [_context(codings.as_stored(60)), _context_json],
  ),
  'context59': Benchmark(
    'PASCAL Context without background',
    'val',
    _CONTEXT_LAYOUT,
    _CONTEXT_WHERE,
    [_context(codings.less_one(59)), _context_json],
  ),
  'coco_object': Benchmark(
    'COCO-Object',
    'val2017',
    'images/val2017/ID.jpg; and annotations/val2017/ID_instanceTrainIds.png, '
    'or ID.png of COCO-Stuff there, or annotations/instances_val2017.json',
    _COCO_WHERE,
    [
      _coco(codings.as_stored(81), '_instanceTrainIds.png'),
      _coco(codings.coco_object_ids()),
      Layout(codings.as_stored(81), _COCO_IMAGES, ('masks_object/{split}',)),
      _instances,
    ],
  ),
  'coco_stuff': Benchmark(
    'COCO-Stuff 171',
    'val2017',
    'images/val2017/ID.jpg; and annotations/val2017/ID_labelTrainIds.png, or '
    'ID.png of COCO-Stuff there',
    _COCO_WHERE,
    [
      _coco(codings.as_stored(171), '_labelTrainIds.png'),
      _coco(codings.coco_stuff_ids()),
    ],
  ),
  'ade20k': Benchmark(
    'ADE20K-150',
    'validation',
    'images/validation/ID.jpg, annotations/validation/ID.png; or a data_dir of '
    'TFDS',
    'ADEChallengeData2016.zip, http://sceneparsing.csail.mit.edu; or '
    'scene_parse150 of TFDS (things alone)',
    [tfds_sets.open_ade20k, _ade20k],
  ),
  'cityscapes': Benchmark(
    'Cityscapes',
    'val',
    'leftImg8bit/val/CITY/ID_leftImg8bit.png, '
    'gtFine/val/CITY/ID_gtFine_labelIds.png; or a data_dir of TFDS',
    'leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, '
    'https://www.cityscapes-dataset.com (after registration)',
    [
      tfds_sets.open_cityscapes,
      _cityscapes(codings.as_stored(19), 'labelTrainIds'),
      _cityscapes(codings.cityscapes_ids(), 'labelIds'),
    ],
  ),
  'pet': Benchmark(
    'Oxford-IIIT Pet',
    'test',
    'a data_dir of TFDS: oxford_iiit_pet/VERSION/dataset_info.json',
    'oxford_iiit_pet of TFDS (https://www.robots.ox.ac.uk/~vgg/data/pets/), '
    'prepared with file_format="array_record"',
    [tfds_sets.open_pet],
  ),
  'scenes': Benchmark('scenes', 'validation', options=own.SCENES_OPTIONS),
  'scenes_things': Benchmark(
    'scenes, the grounds being background',
    'validation',
    options=own.SCENES_OPTIONS,
  ),
  'folder': Benchmark(
    'a folder of your own',
    None,
    'images/ID.jpg (or .png), masks/ID.png, classes.txt with a name per line',
    '',
    [own.open_folder],
  ),
}


def open_set(
  name: str,
  folder: str | os.PathLike | None = None,
  *,
  split: str | None = None,
  limit: int | None = None,
  **options: Any,
) -> base.LabelledSet:
  """Opens a benchmark.

  Args:
    name: a key of `BENCHMARKS`.
    folder: of its data; scenes needs none.
    split: by default the one that figures are reported on.
    limit: the first so many examples alone.
    **options: of scenes: count, size, seed.

  Returns:
    The set; its images are read when asked for.

  Raises:
    SourceError: an unknown benchmark; no data, or of another layout; the
      message says how the folder must look and where to get it.
    ConfigError: options that the benchmark does not have, or no numbers.
  """
  if name not in BENCHMARKS:
    raise SourceError(
      f'There is no benchmark {name!r}; there are {", ".join(BENCHMARKS)}.'
    )
  benchmark = BENCHMARKS[name]
  base.check_options(name, options, benchmark.options)
  split = split or benchmark.split
  try:
    if not benchmark.readers:
      kind = own.SceneThings if name == 'scenes_things' else own.ScenesSet
      found = kind(split or 'validation', **options)
    elif folder is None:
      raise SourceError(f'{benchmark.title} needs its folder.')
    else:
      found = _read(name, folders.existing(folder), split)
  except SourceError as error:
    raise SourceError(f'{error} {benchmark.help}') from error
  return found.first(limit)


def _read(
  name: str, folder: pathlib.Path, split: str | None
) -> base.LabelledSet:
  readers = BENCHMARKS[name].readers
  for reader in readers:
    found = reader(name, folder, split)
    if found is not None:
      return found
  where = f' of the split {split!r}' if split else ''
  raise SourceError(
    f'{folder} does not hold images with label maps{where} in a known layout.'
  )
