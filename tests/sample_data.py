"""Pictures, samples and shards for tests of the data room."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from groupvit_jax.data import images


def picture(color, size=(12, 10)):
  return np.full((size[1], size[0], 3), color, np.uint8)


def noise(seed, height=40, width=48):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def encode(array, kind='JPEG'):
  out = io.BytesIO()
  Image.fromarray(array).save(out, kind)
  return out.getvalue()


def color(sample):
  return int(images.to_array(sample['image'])[0, 0, 0])


class Listed:
  """A source of given samples."""

  name = 'listed'

  def __init__(self, samples):
    self.samples = samples

  def __len__(self):
    return len(self.samples)

  def __getitem__(self, index):
    return self.samples[index]


def write_tar(path, members, form=tarfile.USTAR_FORMAT):
  """Writes (name, bytes) members, as img2dataset's tarfile does."""
  with tarfile.open(path, 'w', format=form) as tar:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return str(path)


def shard(path, first, count, extra=False):
  """A shard in img2dataset's layout: sample i is a picture of colour i."""
  members = []
  for i in range(first, first + count):
    members.append((f'{i:09d}.jpg', encode(picture(i))))
    if extra:
      members.append((f'{i:09d}.json', json.dumps({'key': i}).encode()))
    members.append((f'{i:09d}.txt', f'caption {i}'.encode()))
  return write_tar(path, members)
