"""A small model trained on photos: what background.py asks for on photo sets.

  python benchmarks/photos.py --photos ../shared/data --seeds 0 1
  python benchmarks/background.py --data voc21 coco_object \\
    --models runs/photos/seed-0 runs/photos/seed-1 --photos ../shared/data

Packs the training photos of a caption set (`captions.jsonl`, `train.txt`) into
a tar shard, a pair for every caption, and trains `:demo` on it, at 96 px in
patches of 12. A thousand photos are no data to learn words from: this shows
what the methods do on photos, not what GroupViT can.
No mask is read in training.
"""

import argparse
import io
import pathlib
import tarfile

import demo

from groupvit_jax import benchmarks

SET = 'flickr8k_224'
SHARD = 'photos.tar'
# Shared by all seeds; the rest is :demo.
OPTIONS = (
  'size=96,patch=12,data.source=shards,data.augment=light,eval.examples=60,'
  'eval.batch_size=20'
)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--photos', type=pathlib.Path, required=True, help=f'folder of {SET}'
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
  parser.add_argument('--steps', type=int, default=3000, help='of 64 pairs')
  parser.add_argument(
    '--workdir', type=pathlib.Path, default=pathlib.Path('runs/photos')
  )
  parser.add_argument(
    '--options', default='', help='further config options, as in ":demo,..."'
  )
  args = parser.parse_args()
  photos, workdir = args.photos.resolve(), args.workdir.resolve()
  shard = pack(photos / SET, workdir / SHARD)
  own = (
    f'steps={args.steps},data.shards={shard},eval.source=voc21:'
    f'{photos / "voc2012"}'
  )
  print(f'{demo.environment()}; {args.steps} steps\n')
  for seed in args.seeds:
    options = ','.join(
      filter(None, [OPTIONS, own, f'seed={seed}', args.options])
    )
    summary = demo.run(f'demo,{options}', workdir / f'seed-{seed}')
    demo.print_rows([('photos', seed, summary)])


def pack(folder: pathlib.Path, shard: pathlib.Path) -> pathlib.Path:
  """Writes a shard of the training photos, unless it is there."""
  if shard.exists():
    return shard
  shard.parent.mkdir(parents=True, exist_ok=True)
  pictures = benchmarks.open_captions(folder, 'train')
  partial = shard.with_suffix('.partial')
  with tarfile.open(partial, 'w') as tar:
    for i in range(len(pictures)):
      encoded = (folder / pictures.name(i)).read_bytes()
      for j, caption in enumerate(pictures.captions(i)):
        add(tar, f'{i:05}{j}.jpg', encoded)
        add(tar, f'{i:05}{j}.txt', caption.encode())
  partial.rename(shard)
  return shard


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
  member = tarfile.TarInfo(name)
  member.size = len(content)
  tar.addfile(member, io.BytesIO(content))


if __name__ == '__main__':
  main()
