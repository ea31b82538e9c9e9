"""CLIP on scenes: zero-shot, prompts, probes and retrieval, two image encoders.

  python benchmarks/clip_scenes.py --seeds 0 1 2

Trains `configs/clip.py:demo` and `:demo,resnet` with each seed, one after the
other, each in a process of its own, and measures every run on scenes that it
did not see: crops of the twelve things (`scene_crops`, drawn once and kept as
PNG files) by one template and by ensembles, probes of 1 to 16 labels a class
and of all, and 400 scenes with their captions (`scene_captions`). Prints the
table of RESULTS.md.
"""

import argparse
import json
import pathlib
import time

import demo
import jax
import numpy as np
from PIL import Image

import groupvit_jax as gv
from groupvit_jax.benchmarks import build, probe, scene_sets

ENCODERS = {'ViT': 'demo', 'ResNet': 'demo,resnet'}
CROPS = 1000  # of each split
SCENES = 400
SIDE = 128  # of the scenes that crops are cut from
TEMPLATES = {'simple': '1 template', 'subset': '7', 'full': '80'}
SHOTS = (1, 2, 4, 8, 16)
DRAWS = 3


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument(
    '--workdir', type=pathlib.Path, default='runs/clip_scenes'
  )
  parser.add_argument(
    '--options', default='', help='further config options, as in ":demo,..."'
  )
  args = parser.parse_args()
  config = demo.ROOT / 'configs/clip.py'
  crops = draw(args.workdir / 'crops')
  runs = {name: [] for name in ENCODERS}
  for seed in args.seeds:
    for name, variant in ENCODERS.items():
      arg = ','.join(filter(None, [variant, f'seed={seed}', args.options]))
      workdir = args.workdir / f'{name.lower()}-{seed}'
      summary = demo.run(arg, workdir, config)
      runs[name].append(measure(workdir, summary, crops))
      print(name, seed, json.dumps(runs[name][-1]), flush=True)
  print(f'\n{demo.environment()}\n')
  print_table(runs)


def draw(folder: pathlib.Path) -> pathlib.Path:
  """Crops of each split, in folders named after their class."""
  for split in ('train', 'validation', 'test'):
    if (folder / split).exists():
      continue
    crops = scene_sets.SceneCrops(split, count=CROPS, size=SIDE)
    for i in range(CROPS):
      crop = crops[i]
      path = folder / split / crops.class_names[crop.label] / f'{i:04d}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(crop.image).save(path)
  return folder


def measure(
  workdir: pathlib.Path, summary: dict, crops: pathlib.Path
) -> dict[str, float]:
  """Figures of a finished run by name, shares in percent."""
  begin = time.perf_counter()
  model = gv.load(workdir)

  def figures(benchmark, **options):
    spec = build.BenchmarkSpec(benchmark, split='test', **options)
    runner = build.make(spec, model.as_encoder())
    return dict(runner.evaluator.run(model.predict_fns, model.variables))

  found = {
    f'zero-shot, {shown}': figures(
      'classes', folder=crops, overrides={'templates': templates}
    )['top1']
    for templates, shown in TEMPLATES.items()
  }
  spec = probe.ProbeSpec(
    'classes',
    crops,
    validation='validation',
    shots=SHOTS,
    seeds=DRAWS,
  )
  result = probe.run(
    spec,
    model.as_encoder(),
    model.predict_fns,
    model.variables,
    keep=workdir / 'probe',
  )
  for shots, draws in result['few_shot'].items():
    found[f'probe, {shots} a class'] = float(np.mean(draws))
  found['probe, all labels'] = result['probe']
  retrieval = figures('scene_captions', limit=SCENES)
  for way, shown in (
    ('image_to_text', 'image to text R@1'),
    ('text_to_image', 'text to image R@1'),
  ):
    found[shown] = retrieval[f'{way}_r1']
  found = {name: 100 * share for name, share in found.items()}
  return found | {
    'parameters': sum(
      x.size for x in jax.tree.leaves(model.variables['params'])
    ),
    'training, minutes': summary['wall_seconds'] / 60,
    'measuring, minutes': (time.perf_counter() - begin) / 60,
  }


def print_table(runs: dict[str, list[dict[str, float]]]) -> None:
  """A row a figure: the mean over the seeds, and each seed."""
  print('| | ' + ' | '.join(f'{name} | seeds' for name in runs) + ' |')
  print('|---' * (1 + 2 * len(runs)) + '|')
  for figure in next(iter(runs.values()))[0]:
    cells = [figure]
    for found in runs.values():
      values = [run[figure] for run in found]
      cells += [shown(sum(values) / len(values)), ', '.join(map(shown, values))]
    print('| ' + ' | '.join(cells) + ' |')


def shown(value: float) -> str:
  return f'{value:,.0f}' if value > 1000 else f'{value:.1f}'


if __name__ == '__main__':
  main()
