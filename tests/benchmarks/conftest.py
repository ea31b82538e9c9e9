"""Tiny data sets on disk, in the layouts that the benchmarks come in."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask


class Disk:
  """Writes images, label maps and lists below a folder."""

  size = (8, 12)  # h, w

  def __init__(self, root: pathlib.Path):
    self.root = root

  def path(self, name: str) -> pathlib.Path:
    """The path of a file, whose folder is made."""
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def image(self, name: str, seed: int = 0) -> np.ndarray:
    """An image of noise; its pixels, for lossless kinds."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*self.size, 3), np.uint8)
    Image.fromarray(pixels).save(self.path(name))
    return pixels

  def stripes(self, values, size=size) -> np.ndarray:
    """A label map with stripes of the given values."""
    columns = np.arange(size[1]) * len(values) // size[1]
    return np.broadcast_to(np.array(values)[columns], size).astype(np.uint8)

  def labels(self, name: str, values, size=size, palette=False) -> pathlib.Path:
    """Writes a label map of stripes, as a grey or a palette PNG."""
    image = Image.fromarray(self.stripes(values, size))
    if palette:
      image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(self.path(name))
    return self.path(name)

  def lines(self, name: str, lines) -> None:
    """Writes a list, a line each; what is no text as JSON."""
    lines = [x if isinstance(x, str) else json.dumps(x) for x in lines]
    self.path(name).write_text(''.join(f'{line}\n' for line in lines))

  def json(self, name: str, content) -> None:
    self.path(name).write_text(json.dumps(content))

  def voc(self, labels_of: dict[str, list[int]]) -> None:
    """VOCdevkit/VOC2012 with a val list."""
    base = 'VOCdevkit/VOC2012'
    for i, (name, values) in enumerate(labels_of.items()):
      self.image(f'{base}/JPEGImages/{name}.jpg', i)
      self.labels(f'{base}/SegmentationClass/{name}.png', values, palette=True)
    self.lines(f'{base}/ImageSets/Segmentation/val.txt', labels_of)

  def own(self, names='cat\ndog|puppy\ngrass\n') -> None:
    """images/, masks/, classes.txt with two pairs."""
    self.image('images/a.png', 1)
    self.image('images/sub/b.jpg', 2)
    self.labels('masks/a.png', [0, 1, 255])
    self.labels('masks/sub/b.png', [2, 2])
    self.path('classes.txt').write_text(names)

  def runs(self, mask: np.ndarray) -> dict:
    """Run lengths as JSON holds them."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}

  def context(self, labels_of: dict[str, list[int]], base: str = '') -> dict:
    """trainval_merged.json whose masks have the categories as stripes."""
    images, annotations = [], []
    for i, (name, values) in enumerate(labels_of.items()):
      record = {'image_id': int(name.replace('_', ''))}
      phase = 'train' if name.startswith('2007') else 'val'
      images.append(
        record
        | {'file_name': f'{name}.jpg', 'phase': phase}
        | dict(zip(('height', 'width'), self.size, strict=True))
      )
      columns = np.arange(self.size[1]) * len(values) // self.size[1]
      for stripe, category in enumerate(values):
        inside = np.broadcast_to(columns == stripe, self.size)
        annotations.append(
          record | {'category_id': category, 'segmentation': self.runs(inside)}
        )
      self.image(f'{base}/JPEGImages/{name}.jpg'.lstrip('/'), i)
    content = {'images': images, 'annos_segmentation': annotations}
    self.json(f'{base}/trainval_merged.json'.lstrip('/'), content)
    return content

  def coco(self, ids, annotations) -> None:
    """instances_val2017.json with images of these ids."""
    size = dict(zip(('height', 'width'), self.size, strict=True))
    images = [size | {'id': i, 'file_name': f'{i:012d}.jpg'} for i in ids]
    self.json(
      'annotations/instances_val2017.json',
      {'images': images, 'annotations': annotations, 'categories': []},
    )


@pytest.fixture
def disk(tmp_path) -> Disk:
  return Disk(tmp_path)


@pytest.fixture
def names():
  """The names of a set's examples."""
  return lambda found: [found.name(i) for i in range(len(found))]
