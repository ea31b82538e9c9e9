"""The benchmarks by name: where they come from, how their folder must look.

`open_set` is the one way in; what it returns is a `LabelledSet`.
"""

import dataclasses
import functools
import numbers
import os
from collections.abc import Callable, Mapping
from typing import Any

from groupvit_jax.benchmarks import (
  ade20k,
  cityscapes,
  coco,
  label_sets,
  own,
  pascal,
  pet,
)
from groupvit_jax.benchmarks.base import First, LabelledSet
from groupvit_jax.errors import SourceError


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A labelled set that people report figures on.

  Fields:
    name: as a command line gives it.
    title: as people call it.
    where: where to get it.
    layout: how its folder must look.
    background: whether class 0 is the background (of `folder`: see the set).
    label_set: its key in `label_sets.LABEL_SETS`; None if its folder names the
      classes.
    split: the one that figures are reported on; None for all there is.
    open: (folder, split, **options) -> LabelledSet.
    needs_folder: False for what is drawn.
    options: what else `open` takes, with what it is if it is left out.
  """

  name: str
  title: str
  where: str
  layout: str
  background: bool
  label_set: str | None
  split: str | None
  open: Callable[..., LabelledSet]
  needs_folder: bool = True
  options: Mapping[str, int] = dataclasses.field(default_factory=dict)


_VOC_LAYOUT = (
  'JPEGImages/ID.jpg, SegmentationClass/ID.png, ImageSets/Segmentation/val.txt'
)
_CONTEXT_LAYOUT = (
  'JPEGImages/ID.jpg; and either SegmentationClassContext/ID.png with '
  'ImageSets/SegmentationContext/val.txt, or trainval_merged.json'
)
_VOC_WHERE = (
  'VOCtrainval_11-May-2012.tar, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/'
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


def _benchmark(name, title, where, layout, split, reader, **options):
  label_set, background = label_sets.BENCHMARK_SETS.get(name, (None, False))
  return Benchmark(
    name, title, where, layout, background, label_set, split, reader, **options
  )


_ALL = (
  _benchmark(
    'voc21',
    'PASCAL VOC 2012 with background',
    _VOC_WHERE,
    _VOC_LAYOUT,
    'val',
    pascal.open_voc,
  ),
  _benchmark(
    'voc20',
    'PASCAL VOC 2012 without background',
    _VOC_WHERE,
    _VOC_LAYOUT,
    'val',
    functools.partial(pascal.open_voc, background=False),
  ),
  _benchmark(
    'context60',
    'PASCAL Context with background',
    _CONTEXT_WHERE,
    _CONTEXT_LAYOUT,
    'val',
    pascal.open_context,
  ),
  _benchmark(
    'context59',
    'PASCAL Context without background',
    _CONTEXT_WHERE,
    _CONTEXT_LAYOUT,
    'val',
    functools.partial(pascal.open_context, background=False),
  ),
  _benchmark(
    'coco_object',
    'COCO-Object',
    _COCO_WHERE,
    'images/val2017/ID.jpg; and annotations/val2017/ID_instanceTrainIds.png, '
    'or ID.png of COCO-Stuff there, or annotations/instances_val2017.json',
    'val2017',
    coco.open_coco_object,
  ),
  _benchmark(
    'coco_stuff',
    'COCO-Stuff 171',
    _COCO_WHERE,
    'images/val2017/ID.jpg; and annotations/val2017/ID_labelTrainIds.png, or '
    'ID.png of COCO-Stuff there',
    'val2017',
    coco.open_coco_stuff,
  ),
  _benchmark(
    'ade20k',
    'ADE20K-150',
    'ADEChallengeData2016.zip, http://sceneparsing.csail.mit.edu; or '
    'scene_parse150 of TFDS (things alone)',
    'images/validation/ID.jpg, annotations/validation/ID.png; or a data_dir of '
    'TFDS',
    'validation',
    ade20k.open_ade20k,
  ),
  _benchmark(
    'cityscapes',
    'Cityscapes',
    'leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, '
    'https://www.cityscapes-dataset.com (after registration)',
    'leftImg8bit/val/CITY/ID_leftImg8bit.png, '
    'gtFine/val/CITY/ID_gtFine_labelIds.png; or a data_dir of TFDS',
    'val',
    cityscapes.open_cityscapes,
  ),
  _benchmark(
    'pet',
    'Oxford-IIIT Pet',
    'oxford_iiit_pet of TFDS (https://www.robots.ox.ac.uk/~vgg/data/pets/), '
    'prepared with file_format="array_record"',
    'a data_dir of TFDS: oxford_iiit_pet/VERSION/dataset_info.json',
    'test',
    pet.open_pet,
  ),
  _benchmark(
    'scenes',
    'scenes',
    'drawn here',
    'no folder',
    'validation',
    lambda folder, split, **options: own.ScenesSet(split, **options),
    needs_folder=False,
    options=own.DEFAULTS,
  ),
  _benchmark(
    'scenes_things',
    'scenes, the grounds being background',
    'drawn here',
    'no folder',
    'validation',
    lambda folder, split, **options: own.SceneThings(split, **options),
    needs_folder=False,
    options=own.DEFAULTS,
  ),
  _benchmark(
    'folder',
    'a folder of your own',
    'you have it',
    'images/ID.jpg (or .png), masks/ID.png, classes.txt with a name per line',
    None,
    own.open_folder,
  ),
)

BENCHMARKS: Mapping[str, Benchmark] = {b.name: b for b in _ALL}


def open_set(
  name: str,
  folder: str | os.PathLike | None = None,
  *,
  split: str | None = None,
  limit: int | None = None,
  **options: Any,
) -> LabelledSet:
  """Opens a benchmark.

  Args:
    name: a key of `BENCHMARKS`.
    folder: where its data lie; scenes needs none.
    split: by default the one that figures are reported on.
    limit: the first so many examples alone.
    **options: of scenes: count, size, seed.

  Returns:
    The set; its pictures are read when asked for.

  Raises:
    SourceError: an unknown benchmark; no data, or of another layout; the
      message says how the folder must look and where to get it.
    ValueError: options that the benchmark does not have, or no numbers.
  """
  if name not in BENCHMARKS:
    raise SourceError(
      f'There is no benchmark {name!r}; there are {", ".join(BENCHMARKS)}.'
    )
  benchmark = BENCHMARKS[name]
  known = benchmark.options
  for option, value in options.items():
    if option not in known:
      raise ValueError(
        f'{name} has no option {option!r}'
        + (f'; it has {", ".join(known)}.' if known else '.')
      )
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
      raise ValueError(f'{option} of {name} is a whole number, not {value!r}.')
  if benchmark.needs_folder and folder is None:
    raise SourceError(f'{benchmark.title} needs its folder. {_help(benchmark)}')
  try:
    found = benchmark.open(folder, split or benchmark.split, **options)
  except SourceError as error:
    raise SourceError(f'{error} {_help(benchmark)}') from error
  return found if limit is None else First(found, limit)


def _help(benchmark):
  if not benchmark.needs_folder:
    return 'docs/evaluation.md tells more.'
  return (
    f'{benchmark.title} is read from a folder like this: {benchmark.layout}. '
    f'Where from: {benchmark.where}. docs/evaluation.md tells more.'
  )
