"""Label maps drawn from annotation files: COCO's and PASCAL Context's JSON."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Bool, Int32
from pycocotools import mask as coco_mask

from groupvit_jax.benchmarks import base, codings, folders
from groupvit_jax.errors import ImageError, SourceError


class Runs(msgspec.Struct):
  """Run lengths of a mask down its columns: compressed, or as numbers."""

  size: tuple[int, int]
  counts: str | list[int]


class CocoImage(msgspec.Struct):
  """An image of COCO's annotations."""

  id: int
  file_name: str
  height: int
  width: int


class Instance(msgspec.Struct):
  """An object of COCO's annotations, as polygons or run lengths."""

  image_id: int
  category_id: int
  segmentation: list[list[float]] | Runs
  area: float
  iscrowd: int = 0
  id: int = 0


class Instances(msgspec.Struct):
  """instances_SPLIT.json."""

  images: list[CocoImage]
  annotations: list[Instance]


def open_instances(
  class_names: Sequence[str], images: pathlib.Path, path: pathlib.Path
) -> base.PairSet:
  """COCO-Object from the instance annotations of COCO.

  Args:
    class_names: the background and 80 objects.
    images: folder of the images.
    path: instances_SPLIT.json.

  Raises:
    SourceError: it cannot be read, or names a file outside of `images`.
  """
  data = folders.read_json(path, Instances, 'instance annotations of COCO')
  listed = sorted(data.images, key=lambda image: image.file_name)
  instances = collections.defaultdict(list)
  for instance in data.annotations:
    instances[instance.image_id].append(instance)
  return _drawn_set(
    class_names,
    [(image.file_name, image) for image in listed],
    lambda image: draw_instances(image, instances[image.id]),
    (images, path),
    codings.coco_object_ids(),
  )


def draw_instances(
  image: CocoImage, instances: Sequence[Instance]
) -> Int32[np.ndarray, 'h w']:
  """Draws the objects of an image in the coding of COCO-Stuff's PNGs.

  That is the category's id less one, 255 for none. Crowds first, then from the
  largest object to the smallest, so that small ones in front of large ones stay
  visible. (COCO-Stuff decides overlaps by hand; elsewhere both are equal.)
  """
  label = np.full((image.height, image.width), codings.IGNORE, np.int32)
  for one in sorted(instances, key=lambda o: (not o.iscrowd, -o.area, o.id)):
    label[_mask(one.segmentation, *label.shape)] = one.category_id - 1
  return label


def _mask(
  segmentation: list[list[float]] | Runs, height: int, width: int
) -> Bool[np.ndarray, 'h w']:
  runs: Any
  if isinstance(segmentation, list):
    polygons: Any = [p for p in segmentation if len(p) >= 6]  # three corners
    if not polygons:
      return np.zeros((height, width), bool)
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
  else:
    runs = msgspec.to_builtins(segmentation)
    if isinstance(segmentation.counts, list):
      runs = coco_mask.frPyObjects(runs, height, width)
  return coco_mask.decode(runs) > 0


class ContextImage(msgspec.Struct):
  """An image of PASCAL Context's annotations."""

  image_id: int
  file_name: str
  phase: str
  height: int
  width: int


class ContextRegion(msgspec.Struct):
  """A region of a category."""

  image_id: int
  category_id: int
  segmentation: Runs


class Context(msgspec.Struct):
  """trainval_merged.json."""

  images: list[ContextImage]
  annos_segmentation: list[ContextRegion]


def open_context(
  class_names: Sequence[str],
  images: pathlib.Path,
  path: pathlib.Path,
  split: str,
) -> base.PairSet:
  """PASCAL Context from the annotations that mmsegmentation converts.

  Args:
    class_names: 59 classes, or 60 with the background first.
    images: folder of the images.
    path: trainval_merged.json.
    split: 'train' or 'val'.

  Raises:
    SourceError: it cannot be read, or has no such split.
  """
  data = folders.read_json(path, Context, 'annotations of PASCAL Context')
  listed = sorted(
    (image for image in data.images if image.phase == split),
    key=lambda image: image.file_name,
  )
  if not listed:
    raise SourceError(
      f"{path} has no image of the split {split!r}: it has 'train' and 'val'."
    )
  wanted = {image.image_id for image in listed}
  regions = collections.defaultdict(list)
  for region in data.annos_segmentation:
    if region.image_id in wanted:  # the others are not kept in memory
      regions[region.image_id].append(region)

  def draw(image: ContextImage) -> Int32[np.ndarray, 'h w']:
    # Later regions lie over earlier ones, as in getMask of the detail API
    # (zhanghang1989/detail-api, PythonAPI/detail).
    label = np.zeros((image.height, image.width), np.int32)
    for region in regions[image.image_id]:
      label[_mask(region.segmentation, *label.shape)] = region.category_id
    return label

  return _drawn_set(
    class_names,
    [(image.file_name, image) for image in listed],
    draw,
    (images, path),
    codings.context_ids(background=len(class_names) == 60),
  )


def _drawn_set(class_names, listed, draw, places, coding):
  """A set of (file name, record), whose label maps `draw` makes of records."""
  folder, path = places
  files = [folders.inside(folder, name, path) for name, _ in listed]

  def pair(index: int) -> base.Pair:
    name = f'{listed[index][0]} in {path}'
    try:
      label = draw(listed[index][1])
    except (IndexError, TypeError, ValueError) as error:
      raise ImageError(
        f'{name} has a mask that cannot be drawn ({error}); download the '
        'annotations anew.'
      ) from error
    return base.Pair(files[index], label, str(files[index]), name)

  names = [pathlib.PurePosixPath(name).stem for name, _ in listed]
  background = class_names[0] == 'background'
  return base.PairSet(class_names, names, pair, coding, background=background)
