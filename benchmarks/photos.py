"""`:photos`: a small model trained on photos and captions, and what it knows.

  python benchmarks/photos.py --photos ../shared/data --seeds 0 1
  python benchmarks/photos.py --photos ../shared/data --seeds 0 \\
    --numbers 1000 2000 4000 7124 --steps 4000   # the scale curve
  python benchmarks/background.py --data voc21 coco_object \\
    --models runs/photos/seed-0 runs/photos/seed-1 --photos ../shared/data

Packs the training photos of Flickr8k (`captions.jsonl`, `train.txt`) into a tar
shard, a pair for every caption, trains a sentencepiece vocabulary on the
captions and `configs/gvit_s.py:photos` on the pairs. Then measures retrieval
on the photos of `val.txt` (one caption of five finds its photo, a photo one of
its five captions), and on VOC the IoU of classes that captions name often,
among `WORDS`: with groups remade, with the learned ones, and with every token
by itself; and how well the cosines of a word rank tokens within a photo that
shows it, and photos. No mask is read in training.
"""

import argparse
import dataclasses
import io
import json
import pathlib
import subprocess
import sys
import tarfile

import demo
import numpy as np

import groupvit_jax as gv
from groupvit_jax import benchmarks
from groupvit_jax.evaluation import regrouping
from groupvit_jax.evaluation.image_metrics import roc_auc
from groupvit_jax.text import sentencepiece

SET = 'flickr8k_128'
VOCABULARY = 4000
WORDS = (
  'dog',
  'cat',
  'horse',
  'person|man|woman|boy|girl',
  'cow',
  'sheep',
  'bird',
  'car',
  'bike|bicycle',
  'boat',
  'grass',
  'water',
  'snow',
  'sand|beach',
  'sky',
  'tree|trees',
  'street|road',
  'building',
  'wall',
  'floor|carpet',
  'rock|rocks',
  'field',
  'couch|sofa',
  'ball',
)
NAMES = [words.split('|')[0] for words in WORDS]  # as results show them
COUNTED = {'dog': 12, 'cat': 8, 'horse': 13, 'person': 15}  # VOC's labels
WAYS = {
  'groups remade': {},
  'learned groups': {'regroup': 'none', 'one_hot': True, 'mix_logits': False},
  'tokens': {'regroup_number': 64},
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--photos',
    type=pathlib.Path,
    required=True,
    help=f'folder of {SET}, voc2012 and voc2012_more',
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
  parser.add_argument(
    '--numbers',
    type=int,
    nargs='+',
    default=[0],
    help='of training photos; 0: all',
  )
  parser.add_argument(
    '--steps', type=int, default=demo.read_config('photos').num_steps
  )
  parser.add_argument(
    '--workdir', type=pathlib.Path, default=pathlib.Path('runs/photos')
  )
  parser.add_argument(
    '--options', default='', help='further config options, as in ":photos,..."'
  )
  args = parser.parse_args()
  photos, workdir = args.photos.resolve(), args.workdir.resolve()
  print(f'{demo.environment()}; {args.steps} steps of 64 pairs\n')
  for number in args.numbers:
    stem = f'photos-{number}' if number else 'photos'
    shard, tokenizer = prepare(photos / SET, workdir / stem, number or None)
    for seed in args.seeds:
      arg = demo.with_options(
        f'photos,steps={args.steps},data.shards={shard},'
        f'data.tokenizer={tokenizer},seed={seed}',
        args.options,
      )
      name = f'{number}-seed-{seed}' if number else f'seed-{seed}'
      demo.run(arg, workdir / name)
      print(f'{number or "all"} photos, seed {seed}')
      print_figures(workdir / name, photos)


def prepare(
  folder: pathlib.Path, stem: pathlib.Path, number: int | None
) -> tuple[pathlib.Path, pathlib.Path]:
  """The shard and the vocabulary of the first photos, unless they are there."""
  shard, model = stem.with_suffix('.tar'), stem.with_suffix('.model')
  photos = benchmarks.open_captions(folder, 'train', limit=number)
  captions = [photos.captions(i) for i in range(len(photos))]
  if not shard.exists():
    shard.parent.mkdir(parents=True, exist_ok=True)
    partial = shard.with_suffix('.partial')
    with tarfile.open(partial, 'w') as tar:
      for i, texts in enumerate(captions):
        encoded = (folder / photos.name(i)).read_bytes()
        for j, caption in enumerate(texts):
          add(tar, f'{i:05}{j}.jpg', encoded)
          add(tar, f'{i:05}{j}.txt', caption.encode())
    partial.rename(shard)
  if not model.exists():
    texts = (text for of_photo in captions for text in of_photo)
    sentencepiece.train_sentencepiece(texts, stem, VOCABULARY)
  return shard, model


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
  member = tarfile.TarInfo(name)
  member.size = len(content)
  tar.addfile(member, io.BytesIO(content))


def print_figures(workdir: pathlib.Path, photos: pathlib.Path) -> None:
  retrieval = workdir / 'retrieval.json'
  subprocess.run(
    [
      *(sys.executable, '-m', 'groupvit_jax', 'evaluate'),
      *('--model', workdir, '--benchmark', 'captions', '--data', photos / SET),
      *('--split', 'val', '--out', retrieval, '--overwrite', '--batch', '64'),
    ],
    check=True,
    cwd=demo.ROOT,
    stdout=subprocess.DEVNULL,
  )
  figures = json.loads(retrieval.read_text())
  print(json.dumps(figures.get('figures', figures), indent=None))
  model = gv.load(workdir)
  for way, changes in WAYS.items():
    config = dataclasses.replace(model.config, top_k=None, **changes)
    print(f'| {way} | {voc_line(model, config, photos)} |', flush=True)
  for line in ranking_lines(model, photos):
    print(line, flush=True)


def labelled(photos: pathlib.Path):
  for name in ('voc2012', 'voc2012_more'):
    yield from benchmarks.open_set('voc21', photos / name)


def ranking_lines(model: gv.Model, photos: pathlib.Path) -> list[str]:
  """For each class the area under the ROC curve, .5 by chance.

  Of tokens, on the class against off it, the mean over photos that show it; and
  of photos that show it against the others, by their best token.
  """
  found = list(token_cosines(model, photos))
  lines = []
  for word, label in COUNTED.items():
    within, best, shown = [], [], []
    for cosines, labels in found:
      of_word, counts = cosines[..., NAMES.index(word)], labels != gv.IGNORE
      on = (labels == label).astype(int)
      if 0 < on.sum() < counts.sum():
        within.append(auc(of_word[counts], on[counts]))
      best.append(of_word.max())
      shown.append(on.max())
    among = auc(np.array(best), np.array(shown))
    lines.append(
      f'| {word} | tokens {np.mean(within):.3f} ({len(within)} photos) '
      f'| photos {among:.3f} |'
    )
  return lines


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
  return roc_auc(np.stack([-scores, scores], axis=1), labels)


def token_cosines(model: gv.Model, photos: pathlib.Path):
  """Yields cosines of tokens and words, h w c, and labels at tokens, h w."""
  config = dataclasses.replace(model.config, regroup_number=64)
  classes = model.class_list(WORDS, config, 'simple', False)
  vectors = np.asarray(classes.embeddings.vectors)
  for example in labelled(photos):
    encoded = model.encode(example.image, config)
    regions = regrouping.apply(encoded.regions, config)
    of_groups = np.einsum('ge,cse->gcs', regions.embeddings[0][0], vectors)
    h, w = regions.grids[0][0]
    soft = np.asarray(regions.stages[-1][0][0, :h, :w])
    rows, columns = (
      ((np.arange(n) + 0.5) * size / n).astype(int)
      for n, size in zip((h, w), example.label.shape, strict=True)
    )
    yield soft @ of_groups.max(-1), example.label[rows][:, columns]


def voc_line(
  model: gv.Model, config: gv.SegmentConfig, photos: pathlib.Path
) -> str:
  """IoU in percent of the `COUNTED` classes on VOC's labelled photos."""
  both = np.zeros(len(COUNTED))
  either = np.zeros(len(COUNTED))
  for example in labelled(photos):
    found = model.segment(
      example.image, WORDS, config=config, background=False
    ).labels
    counts = example.label != gv.IGNORE
    for k, (word, label) in enumerate(COUNTED.items()):
      called = counts & (found == NAMES.index(word))
      true = counts & (example.label == label)
      both[k] += np.sum(called & true)
      either[k] += np.sum(called | true)
  ious = 100 * both / either
  return ', '.join(
    f'{word} {iou:.1f}' for word, iou in zip(COUNTED, ious, strict=True)
  )


if __name__ == '__main__':
  main()
