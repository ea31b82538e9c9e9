"""Training input: images per CPU-second, beside webdataset and grain.

  python benchmarks/inputs.py --photos ../shared/data/flickr8k_224/images

Every pipeline reads the same JPEGs from files, crops, resizes, flips and, with
full augmentation, applies RandAugment (rand-m9-mstd0.5-inc1) and erasing. The
peers decode with Pillow and transform with torchvision (RandAugment: timm) and
end with normalised float32 batches, as their users write them, or with uint8:
then nothing normalises or erases. Ours end with uint8; the step normalises
and erases, and with augment_on=device it flips and applies RandAugment. What
that takes is in rows of its own, measured on this CPU.

Pipelines take turns in one process with one thread each for their work. A peer
that is not installed is skipped.
"""

import argparse
import functools
import glob
import importlib.metadata
import io
import os
import platform
import statistics
import tarfile
import tempfile
import time

import numpy as np
from PIL import Image

from groupvit_jax.data import augment, crops, pipeline, reading, sampling, tar
from groupvit_jax.data import captions as captions_lib
from groupvit_jax.text import make_tokenizer

SIZE, BATCH = 224, 64
LEVELS = {'light': 'light', 'full': 'deit'}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAPTION = 'a brown dog runs along the beach with a red ball in its mouth'


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--photos', default='', help='folder; else drawn images')
  parser.add_argument('--side', type=int, default=500, help='long side, pixels')
  parser.add_argument('--count', type=int, default=512, help='images')
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument('--batches', type=int, default=6, help='in each turn')
  args = parser.parse_args()
  os.environ['OMP_NUM_THREADS'] = '1'
  packages = crops.packages()
  print(environment())
  with tempfile.TemporaryDirectory() as folder:
    size = write(folder, args)
    kind = 'photos, scaled' if args.photos else 'drawn images'
    print(
      f'{args.count} {kind} to {args.side} px with noise of 4 levels, quality '
      f'85, {size / 1000:.0f} kB in the mean; crops of {SIZE} px'
    )
    rows = {}
    for level in LEVELS:
      for name, make in pipelines(level, folder, packages).items():
        rows[level, name] = [make, []]
    for _ in range(args.turns):
      for make, times in rows.values():
        times.append(timed(make, args.batches))
  for level in LEVELS:
    peer = rows.get((level, 'webdataset + torchvision'))
    print(
      f'\n| {level} augmentation | images per CPU-second | times the peer |'
    )
    print('|---|---|---|')
    for (one, name), (_, times) in rows.items():
      if one == level:
        rate = 1 / statistics.median(times)
        ratio = statistics.median(peer[1]) * rate if peer else float('nan')
        print(f'| {name} | {rate:.0f} | {ratio:.2f} |')
  print('\n| beside it | ms per image |\n|---|---|')
  for name, seconds in extras(args.turns).items():
    print(f'| {name} | {1000 * seconds:.2f} |')


def environment() -> str:
  """Hardware and versions."""
  names = 'numpy', 'Pillow', 'simplejpeg', 'cykooz_resizer', 'jax', *PEERS
  versions = []
  for name in names:
    try:
      versions.append(f'{name} {importlib.metadata.version(name)}')
    except importlib.metadata.PackageNotFoundError:
      versions.append(f'no {name}')
  load = os.getloadavg()[0]
  return (
    f'{time.strftime("%Y-%m-%d")}, {platform.processor() or platform.machine()}'
    f', {os.cpu_count()} cores, load {load:.1f}, Python '
    f'{platform.python_version()}, {", ".join(versions)}'
  )


def write(folder, args) -> float:
  """Writes the images as a tar and, if it can, an ArrayRecord file.

  Returns:
    Bytes of an image in the mean.
  """
  files = sorted(glob.glob(os.path.join(args.photos or '.', '*.jpg')))
  encoded = []
  for i in range(args.count):
    rng = np.random.default_rng(i)
    if args.photos:
      image = Image.open(files[i % len(files)]).convert('RGB')
    else:
      image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
    scale = args.side / max(image.size)
    image = image.resize(
      tuple(round(scale * side) for side in image.size), Image.BICUBIC
    )
    noise = rng.normal(0, 4, (*image.size[::-1], 3))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, 'JPEG', quality=85)
    encoded.append(out.getvalue())
  with tarfile.open(f'{folder}/0.tar', 'w') as shard:
    for i, data in enumerate(encoded):
      for suffix, part in (('jpg', data), ('txt', CAPTION.encode())):
        member = tarfile.TarInfo(f'{i:06d}.{suffix}')
        member.size = len(part)
        shard.addfile(member, io.BytesIO(part))
  try:
    from array_record.python import array_record_module
  except ImportError:
    return float(np.mean([len(data) for data in encoded]))
  writer = array_record_module.ArrayRecordWriter(
    f'{folder}/0.array_record', 'group_size:1'
  )
  for data in encoded:
    writer.write(data)
  writer.close()
  return float(np.mean([len(data) for data in encoded]))


def timed(make, batches: int) -> float:
  """CPU seconds of an image, of all threads, once the pipeline runs."""
  with make() as made:
    for _ in range(3):
      next(made)
    begin = time.process_time()
    for _ in range(batches):
      next(made)
    return (time.process_time() - begin) / (batches * BATCH)


def pipelines(level, folder, packages):
  """Functions that start each pipeline, by its name."""
  found = {}
  for where in pipeline.AUGMENT_ON:
    start = functools.partial(ours, level, folder, where, packages)
    found[f'ours, augment_on={where}'] = start
  if packages:
    start = functools.partial(ours, level, folder, 'host', None)
    found['ours, augment_on=host, Pillow alone'] = start
  for name, start in PEERS.items():
    for floats in (True, False):
      try:
        function = start(level, folder, floats)
      except ImportError as error:
        print(f'{name}, {level}: skipped, {error}')
        break
      title = f'{name} + torchvision'
      found[title if floats else f'{title}, uint8'] = function
  return found


def ours(level, folder, where, packages):
  crops.packages = lambda: packages
  source = tar.TarSource(f'{folder}/0.tar')
  return pipeline.train_batches(
    reading.Reader(source, 0),
    lambda captions, positions: np.zeros((len(captions), 1, 1), np.int32),
    sampling.Positions(0, BATCH),
    image_size=SIZE,
    augment=LEVELS[level],
    backend='numpy',
    augment_on=where,
  )


def transform(level, floats):
  """torchvision's and timm's, of Pillow's images."""
  import torch
  from torchvision import transforms

  torch.set_num_threads(1)
  scale = augment.AUGMENTS[LEVELS[level]].scale
  steps = [
    transforms.RandomResizedCrop(SIZE, scale),
    transforms.RandomHorizontalFlip(),
  ]
  if level == 'full':
    from timm.data import auto_augment

    options = {'translate_pct': 0.45, 'img_mean': augment.FILL}
    # Level 10 would ask Pillow for 0 bits, which it refuses.
    name = 'rand-m9-mmax9-mstd0.5-inc1'
    steps.append(auto_augment.rand_augment_transform(name, options))
  if floats:
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if level == 'full':
      steps.append(transforms.RandomErasing(0.25, value='random'))
  else:
    steps.append(transforms.PILToTensor())
  return transforms.Compose(steps)


class _Started:
  """An iterator as a context."""

  def __init__(self, batches):
    self.batches = iter(batches)

  def __enter__(self):
    return self.batches

  def __exit__(self, *unused):
    pass


def webdataset(level, folder, floats):
  import webdataset as wds

  apply = transform(level, floats)

  def start():
    data = wds.WebDataset(f'{folder}/0.tar', shardshuffle=False)
    data = data.repeat().shuffle(100).decode('pilrgb').to_tuple('jpg', 'txt')
    return _Started(
      data.map_tuple(apply, lambda text: text).batched(BATCH, partial=False)
    )

  return start


def grain(level, folder, floats):
  import grain
  import torch

  apply = transform(level, floats)

  def read(data):
    return apply(Image.open(io.BytesIO(data)).convert('RGB')).numpy()

  def start():
    source = grain.sources.ArrayRecordDataSource(f'{folder}/0.array_record')
    data = grain.MapDataset.source(source).seed(0).shuffle().repeat()
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=16)
    return _Started(data.map(read).batch(BATCH).to_iter_dataset(options))

  del torch
  return start


PEERS = {'webdataset': webdataset, 'grain': grain}


def extras(turns):
  """CPU seconds of an image: what the step and the tokenizer do."""
  import jax

  from groupvit_jax.data import on_device

  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
  drawn = augment.draw(augment.AUGMENTS['deit'], 0, np.arange(BATCH))
  arrays = [images, *(getattr(drawn, name) for name in augment.DRAWN)]
  step = jax.jit(on_device.augment)
  erase = jax.jit(
    lambda key, x: on_device.random_erase(key, on_device.normalize(x))
  )
  batcher = captions_lib.CaptionBatcher(make_tokenizer('clip', 77))
  words = CAPTION.split()
  texts = [' '.join(rng.permutation(words)) for _ in range(BATCH * turns)]
  turn = iter(range(10**6))

  def host():
    for i in range(BATCH):
      image = Image.fromarray(images[i])
      for k, value in zip(drawn.operations[i], drawn.arguments[i], strict=True):
        if k >= 0:
          image = augment.operate(image, augment.OPERATIONS[k], float(value))

  def tokens():
    first = BATCH * next(turn) % len(texts)
    batcher(texts[first : first + BATCH], np.arange(first, first + BATCH))

  jobs = {
    'flip and RandAugment by Pillow': host,
    'flip and RandAugment in the step': lambda: step(*arrays),
    'normalisation and erasing in the step': lambda: erase(
      jax.random.key(0), images
    ),
    'tokens of a new caption and its nouns': tokens,
  }
  found = {}
  for name, job in jobs.items():
    jax.block_until_ready(job())
    times = []
    for _ in range(turns):
      begin = time.process_time()
      jax.block_until_ready(job())
      times.append((time.process_time() - begin) / BATCH)
    found[name] = statistics.median(times)
  return found


if __name__ == '__main__':
  main()
