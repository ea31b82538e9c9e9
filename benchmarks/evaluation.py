"""Images a second of the released protocol, beside the same in PyTorch.

  python benchmarks/evaluation.py
  python benchmarks/evaluation.py --images 2 --rounds 1

Both sides load the same folder (a full-size GroupViT-S with random weights) and
evaluate the same drawn set in the layout of PASCAL VOC: short side 448, windows
of 448 every 224, 21 classes. The peer (`evaluation_peer.py`) takes an image at
a time and encodes every window twice, as the released code does; a second row
lets it encode once. Ours is `groupvit evaluate`, from files to the confusion
matrix. The printed table is that of RESULTS.md.
"""

import argparse
import os
import pathlib
import statistics
import time
from importlib import metadata

import demo
import evaluation_peer
import inference
import inference_peer
import jax
import numpy as np
import torch
from PIL import Image

from groupvit_jax import benchmarks
from groupvit_jax.benchmarks import build, label_sets
from groupvit_jax.evaluation import config, sizes
from groupvit_jax.evaluation.counts import Measures
from groupvit_jax.evaluation.evaluator import RunOptions

SIZES = ((375, 500), (333, 500), (500, 375), (375, 500))  # of VOC, mostly
PROMPTS = tuple(
  f'a photo of a {name}.' for name in label_sets.class_names('voc21')[1:]
)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--images', type=int, default=24)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--size', type=int, default=448)
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--threads', type=int, help='default: all cores')
  parser.add_argument('--workdir', type=pathlib.Path, default='runs/inference')
  args = parser.parse_args()
  if args.threads:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    torch.set_num_threads(args.threads)
  workdir = args.workdir.resolve()
  folder, _ = inference.prepare(workdir, 8)
  data = draw_set(workdir / f'voc_{args.images}', args.images)
  if os.getloadavg()[0] > 0.5:
    inference.log(['others are computing here: the ratios mean little'])
  print(environment(args), '\n', sep='')
  for dtype in inference.dtypes():
    sides = make_sides(args, folder, data, dtype)
    table(measure(sides, args), args, dtype)


def environment(args) -> str:
  """Versions, device and sizes of the measurement."""
  versions = ', '.join(
    f'{name} {metadata.version(name)}' for name in ('torch', 'transformers')
  )
  return (
    f'{demo.environment()}, {versions} ({torch.get_num_threads()} threads); '
    f'device {jax.devices()[0].device_kind}; {args.images} images of about '
    f'375 x 500, 21 classes, batches of {args.batch}; the peer resizes by '
    f'{inference_peer.RESIZER}; load {os.getloadavg()[0]:.1f}'
  )


def make_sides(args, folder, data, dtype) -> dict:
  """Functions that evaluate the whole set, by the name of their row."""
  model = inference.load(folder, dtype, folder.parent / 'compiled')
  ours = {
    'groupvit_jax, mIoU alone': _ours(model, data, args, figures=False),
    'groupvit_jax, all figures': _ours(model, data, args, figures=True),
  }
  device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
  protocol = _protocol(args)
  threshold = protocol.segment.background_threshold
  peer = inference_peer.Peer(folder, args.size, dtype, device, threshold)
  tokens = model.tokenizer(PROMPTS)
  text = peer.encode_text(np.asarray(tokens))
  plan = sizes.plan(protocol.segment, args.size, model.patch_size)
  examples = benchmarks.open_set('voc21', data)
  theirs = {
    f'transformers, encoding {word}': _theirs(
      evaluation_peer.Segmenter(peer, text, plan, threshold, count), examples
    )
    for word, count in (('twice', 2), ('once', 1))
  }
  return ours | theirs


def _protocol(args) -> config.Protocol:
  overrides = {} if args.size == 448 else build.at_size(args.size)
  return config.make('groupvit', 'voc21', **overrides)


def _ours(model, data, args, figures):
  spec = build.BenchmarkSpec(
    benchmark='voc21',
    folder=data,
    overrides={} if args.size == 448 else build.at_size(args.size),
    measures=Measures(figures, figures, comparisons=False),
  )
  runner = build.make(
    spec, model.as_encoder(), RunOptions(batch_size=args.batch)
  )

  def evaluate():
    found = runner.evaluator.evaluate(model.predict_fns, model.variables)
    return found.confusion_matrix

  return evaluate


def _theirs(peer, examples):
  def evaluate():
    total = 0
    for i in range(len(examples)):
      example = examples[i]
      total = total + peer.confusion(example.image, example.label)
    return total

  return evaluate


def measure(sides, args) -> dict:
  """(seconds of each round, confusion matrix) by row."""
  # The first pass compiles, and is not timed.
  matrices = {name: evaluate() for name, evaluate in sides.items()}
  seconds = {name: [] for name in sides}
  for i in range(args.rounds):
    for name in list(sides) if i % 2 == 0 else reversed(sides):
      time.sleep(inference.PAUSE)
      begin = time.perf_counter()
      sides[name]()
      seconds[name].append(time.perf_counter() - begin)
      inference.log((name, f'{args.images / seconds[name][-1]:.2f}/s'))
  return {name: (seconds[name], matrices[name]) for name in sides}


def table(results, args, dtype) -> None:
  """Prints images/s of all rows, and how they compare with the peer's."""
  base, base_matrix = results['transformers, encoding twice']
  rows = []
  for name, (seconds, matrix) in results.items():
    ratios = [b / a for a, b in zip(seconds, base, strict=True)]
    moved = np.abs(matrix - base_matrix).sum() / 2 / base_matrix.sum()
    rows.append(
      (
        dtype,
        args.size,
        name,
        f'{args.images / statistics.median(seconds):.2f}',
        f'**{statistics.median(ratios):.2f}**',
        f'{min(ratios):.2f} to {max(ratios):.2f}',
        f'{100 * moved:.4f} %',
      )
    )
  inference.print_table(
    ('dtype', 'px', 'side', 'images/s', 'ratio', 'in rounds', 'other counts'),
    rows,
  )


def draw_set(folder: pathlib.Path, count: int) -> pathlib.Path:
  """A set of `count` drawn images in VOC's layout, if it is not there."""
  lists = folder / 'ImageSets' / 'Segmentation'
  if (lists / 'val.txt').exists():
    return folder
  for place in ('JPEGImages', 'SegmentationClass'):
    (folder / place).mkdir(parents=True, exist_ok=True)
  lists.mkdir(parents=True, exist_ok=True)
  names = [f'{i:06d}' for i in range(count)]
  for i, name in enumerate(names):
    size = SIZES[i % len(SIZES)]
    image = inference.draw(i, size)
    image.save(folder / 'JPEGImages' / f'{name}.jpg', quality=90)
    labels = Image.fromarray(draw_labels(i, size))
    labels.save(folder / 'SegmentationClass' / f'{name}.png')
  (lists / 'val.txt').write_text('\n'.join(names) + '\n')
  return folder


def draw_labels(seed: int, size: tuple[int, int]) -> np.ndarray:
  """Blocks of classes with an ignored border between them."""
  rng = np.random.default_rng(seed)
  coarse = rng.choice([0, 0, 0, *range(21)], (4, 5)).astype(np.uint8)
  side = -(-max(size) // 4)
  labels = np.kron(coarse, np.ones((side, side), np.uint8))
  labels[::side] = labels[:, ::side] = 255
  return labels[: size[0], : size[1]]


if __name__ == '__main__':
  main()
