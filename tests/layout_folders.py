"""Tiny data sets on disk, in the layouts that the benchmarks come in."""

import json
import pathlib

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIZE = (8, 12)  # h, w


def picture(path: pathlib.Path, seed: int = 0, size=SIZE, **options):
  """A picture of noise; what was drawn, for lossless kinds."""
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (*size, 3), np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)
  return pixels


def stored(values, size=SIZE) -> np.ndarray:
  """A label map with stripes of the given values."""
  columns = np.arange(size[1]) * len(values) // size[1]
  return np.broadcast_to(np.array(values)[columns], size).astype(np.uint8)


def label_map(path: pathlib.Path, values, size=SIZE, palette=False):
  """Writes a label map of stripes, as a grey or a palette PNG."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(stored(values, size))
  if palette:
    image.putpalette([(7 * i) % 256 for i in range(768)])
  image.save(path)


def listing(path: pathlib.Path, names):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(f'{name}\n' for name in names))


def voc(root: pathlib.Path, truths: dict[str, list[int]]) -> pathlib.Path:
  """VOCdevkit/VOC2012 with a val list."""
  base = root / 'VOCdevkit' / 'VOC2012'
  for i, (name, values) in enumerate(truths.items()):
    picture(base / 'JPEGImages' / f'{name}.jpg', i)
    label_map(base / f'SegmentationClass/{name}.png', values, palette=True)
  listing(base / 'ImageSets/Segmentation/val.txt', truths)
  return root


def runs(mask: np.ndarray) -> dict:
  """Run lengths as JSON holds them."""
  encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
  return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def context_json(base: pathlib.Path, truths: dict[str, list[int]]):
  """trainval_merged.json whose masks have the categories as stripes."""
  images, annotations = [], []
  for i, (name, values) in enumerate(truths.items()):
    image_id = int(name.replace('_', ''))
    phase = 'train' if name.startswith('2007') else 'val'
    images.append(
      {
        'file_name': f'{name}.jpg',
        'image_id': image_id,
        'phase': phase,
        'height': SIZE[0],
        'width': SIZE[1],
      }
    )
    columns = np.arange(SIZE[1]) * len(values) // SIZE[1]
    for stripe, category in enumerate(values):
      inside = np.broadcast_to(columns == stripe, SIZE)
      annotations.append(
        {
          'id': len(annotations),
          'image_id': image_id,
          'category_id': category,
          'segmentation': runs(inside),
          'parts': [],
        }
      )
    picture(base / 'JPEGImages' / f'{name}.jpg', i)
  base.mkdir(parents=True, exist_ok=True)
  content = {'images': images, 'annos_segmentation': annotations}
  (base / 'trainval_merged.json').write_text(json.dumps(content))


def box(left, top, right, bottom) -> list[float]:
  """The polygon of a box."""
  return [left, top, right, top, right, bottom, left, bottom]


def coco_json(path: pathlib.Path, ids, annotations):
  """instances_val2017.json with pictures of these ids."""
  path.parent.mkdir(parents=True, exist_ok=True)
  images = [
    {
      'id': i,
      'file_name': f'{i:012d}.jpg',
      'height': SIZE[0],
      'width': SIZE[1],
    }
    for i in ids
  ]
  content = {'images': images, 'annotations': annotations, 'categories': []}
  path.write_text(json.dumps(content))


def own(root: pathlib.Path, names='cat\ndog|puppy\ngrass\n') -> pathlib.Path:
  """images/, masks/, classes.txt with two pairs."""
  picture(root / 'images/a.png', 1)
  picture(root / 'images/sub/b.jpg', 2)
  label_map(root / 'masks/a.png', [0, 1, 255])
  label_map(root / 'masks/sub/b.png', [2, 2])
  (root / 'classes.txt').write_text(names)
  return root
