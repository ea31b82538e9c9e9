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
shows it, and photos. Last, without masks, the same on photos of `val.txt` whose
cells were exchanged: tokens of a photo whose captions say the word against the
others of a mixed image. No mask is read in training.
"""

import argparse
import dataclasses
import io
import itertools
import json
import pathlib
import subprocess
import sys
import tarfile
from collections.abc import Sequence

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
SAID = 'dog', 'person', 'grass', 'water', 'snow', 'sand'  # often in captions
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
  parser.add_argument(
    '--judged', type=int, help='labelled and mixed images (default: all)'
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
      print_figures(workdir / name, photos, args.judged)


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


def print_figures(
  workdir: pathlib.Path, photos: pathlib.Path, limit: int | None
) -> None:
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
  sets = [
    benchmarks.open_set('voc21', photos / name)
    for name in ('voc2012', 'voc2012_more')
  ]
  examples = list(itertools.islice(itertools.chain(*sets), limit))
  for way, changes in WAYS.items():
    config = dataclasses.replace(model.config, top_k=None, **changes)
    print(f'| {way} | {voc_line(model, config, examples)} |', flush=True)
  captioned = benchmarks.open_captions(photos / SET, 'val', limit=limit)
  lines = *ranking_lines(model, examples), *mixed_lines(model, captioned)
  for line in lines:
    print(line, flush=True)


def ranking_lines(model: gv.Model, examples: Sequence) -> list[str]:
  """For each class areas under the ROC curve, .5 by chance.

  Of tokens, on the class against off it, the mean over photos that show it, by
  cosine and by margin; and of photos that show it against the others, by their
  best token.
  """
  found = token_cosines(model, [example.image for example in examples])
  within = {word: [] for word in COUNTED}
  best = {word: [] for word in COUNTED}
  for cosines, example in zip(found, examples, strict=True):
    labels = at_tokens(example.label, cosines.shape[:2])
    counts = labels != gv.IGNORE
    for word, label in COUNTED.items():
      on = labels[counts] == label
      within[word].append(areas(cosines[counts], word, on))
      best[word].append((cosines[..., NAMES.index(word)].max(), on.any()))
  lines = []
  for word in COUNTED:
    highest, shown = np.transpose(best[word])
    lines.append(
      f'| {word} | tokens {mean_areas(within[word])} '
      f'| photos {auc(highest, shown):.3f} |'
    )
  return lines


def mixed_lines(model: gv.Model, captioned: Sequence) -> list[str]:
  """For words of captions areas under the ROC curve in mixed images.

  Cells of 2 x 2 tokens of four photos make an image. Tokens of photos whose
  captions say the word against tokens of others, the mean over images that have
  both.
  """
  count, rng = len(captioned), np.random.default_rng(0)
  images = np.stack([captioned[i].image for i in range(count)])
  config = demo.read_config('photos')
  side = config.image_size // config.model.patch_size
  cells = rng.integers(0, 4, (count, side // 2, side // 2))
  origin = (cells + np.arange(count)[:, None, None]) % count
  origin = np.repeat(np.repeat(origin, 2, axis=1), 2, axis=2)
  pixels = images.shape[1] // side
  of_pixel = np.repeat(np.repeat(origin, pixels, axis=1), pixels, axis=2)
  rows, columns = np.ogrid[: images.shape[1], : images.shape[2]]
  mixed = list(images[of_pixel, rows, columns])
  said = [
    set(' '.join(captioned.captions(i)).lower().split()) for i in range(count)
  ]
  found = {word: [] for word in SAID}
  for cosines, own in zip(token_cosines(model, mixed), origin, strict=True):
    for word in SAID:
      names = WORDS[NAMES.index(word)].split('|')
      on = [not said[photo].isdisjoint(names) for photo in own.ravel()]
      found[word].append(
        areas(cosines.reshape(-1, len(WORDS)), word, np.array(on))
      )
  return [f'| {word} | mixed {mean_areas(found[word])} |' for word in SAID]


def areas(
  cosines: np.ndarray, word: str, on: np.ndarray
) -> tuple[float, float] | None:
  """Areas of tokens, n c, by a word's cosine and its margin over all others.

  None where all tokens are on it, or none. The margin is what labelling goes
  by: tokens that are near to every word count less.
  """
  if on.all() or not on.any():
    return None
  k = NAMES.index(word)
  cosine, others = cosines[:, k], np.delete(cosines, k, axis=1)
  return auc(cosine, on), auc(cosine - others.max(axis=1), on)


def mean_areas(found: Sequence[tuple[float, float] | None]) -> str:
  valid = [x for x in found if x]
  if not valid:
    return 'in none'
  cosine, margin = np.mean(valid, axis=0)
  return f'{cosine:.3f}, by margin {margin:.3f} (in {len(valid)})'


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
  """The area under the ROC curve; NaN if all labels are equal."""
  if labels.all() or not labels.any():
    return np.nan
  return roc_auc(np.stack([-scores, scores], axis=1), labels.astype(int))


def token_cosines(model: gv.Model, images: Sequence[np.ndarray]):
  """Yields cosines of the tokens of each image and words, h w c."""
  config = dataclasses.replace(model.config, regroup_number=64)
  classes = model.class_list(WORDS, config, 'simple', False)
  vectors = np.asarray(classes.embeddings.vectors)
  for encoded in model.encode_each(images, config, batch_size=1):
    regions = regrouping.apply(encoded.regions, config)
    of_groups = np.einsum('ge,cse->gcs', regions.embeddings[0][0], vectors)
    h, w = regions.grids[0][0]
    soft = np.asarray(regions.stages[-1][0][0, :h, :w])
    yield soft @ of_groups.max(-1)[:, : len(WORDS)]  # not the padding


def at_tokens(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """The labels in the middle of tokens."""
  rows, columns = (
    ((np.arange(n) + 0.5) * size / n).astype(int)
    for n, size in zip(grid, labels.shape, strict=True)
  )
  return labels[rows][:, columns]


def voc_line(
  model: gv.Model, config: gv.SegmentConfig, examples: Sequence
) -> str:
  """IoU in percent of the `COUNTED` classes on VOC's labelled photos."""
  both = np.zeros(len(COUNTED))
  either = np.zeros(len(COUNTED))
  for example in examples:
    found = model.segment(
      example.image, WORDS, config=config, background=False
    ).labels
    counts = example.label != gv.IGNORE
    for k, (word, label) in enumerate(COUNTED.items()):
      called = counts & (found == NAMES.index(word))
      true = counts & (example.label == label)
      both[k] += np.sum(called & true)
      either[k] += np.sum(called | true)
  ious = 100 * both / np.where(either, either, np.nan)
  return ', '.join(
    f'{word} {iou:.1f}' for word, iou in zip(COUNTED, ious, strict=True)
  )


if __name__ == '__main__':
  main()
