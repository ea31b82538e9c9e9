"""Rules for the background, words and borders: a row each, by seed.

  python benchmarks/background.py --list
  python benchmarks/background.py --models runs/demo-0 runs/demo-1 runs/demo-2
  python benchmarks/background.py --models MODEL --data voc21 \\
    --photos ../shared/data
  python benchmarks/background.py --cost   # of PAMR alone, at two sizes

Every row evaluates a trained model (a workdir of any seed, or a model folder)
with one thing changed; its figures are kept under --out, and a row that is
there is not measured again. Nothing is tuned on the labels that a row is
measured by: thresholds come from captions, or from images alone, of others.
The rows `learned` want a model trained with `loss.background_weight=1.0`, and
are left out for others; `learned_after` trains the token alone.

Prints the tables of docs/research/background.md: each row, and means over the
models.
"""

import argparse
import collections
import json
import pathlib
import time
from collections.abc import Mapping, Sequence

import background_rows
import demo
import jax.numpy as jnp
import numpy as np

import groupvit_jax as gv
from groupvit_jax import files
from groupvit_jax.benchmarks import build
from groupvit_jax.evaluation import diagnosis, pamr
from groupvit_jax.evaluation.evaluator import RunOptions

COLUMNS = {
  'mIoU': 'miou',
  'objects': 'objects_miou',
  'background': 'background_iou',
  'oracle': 'oracle_miou',
  'background given': 'given_background_miou',
  'boundary': 'boundary_miou',
  'seconds': 'seconds',
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--models', nargs='+', type=pathlib.Path, default=[])
  parser.add_argument(
    '--data', nargs='+', choices=background_rows.DATA, default=['scenes_things']
  )
  parser.add_argument(
    '--rows', nargs='+', choices=background_rows.ROWS, metavar='ROW'
  )
  parser.add_argument('--limit', type=int, default=400, help='images')
  parser.add_argument(
    '--calibration', type=int, default=300, help='images with captions'
  )
  parser.add_argument(
    '--data-seed',
    type=int,
    default=2,
    help='of the scenes, not that of the models: the methods were chosen while '
    'looking at 0 (default: %(default)s)',
  )
  parser.add_argument(
    '--photos', type=pathlib.Path, help='folder of voc2012 and coco_seg'
  )
  parser.add_argument('--out', type=pathlib.Path, default='runs/background')
  parser.add_argument('--list', action='store_true', help='name all rows')
  parser.add_argument('--cost', action='store_true', help='time PAMR')
  args = parser.parse_args()
  if args.cost:
    tell_cost()
    return
  if args.list:
    for name, row in background_rows.ROWS.items():
      print(f'{name:<22}{row.what}')
    return
  print(f'{demo.environment()}; {args.limit} images\n')
  for data in args.data:
    if background_rows.folder(data, args.photos) is background_rows.ABSENT:
      print(f'{data}: not there, see --photos\n')
      continue
    tell(data, measure_all(data, args))


def measure_all(
  data: str, args: argparse.Namespace
) -> Mapping[str, Sequence[dict]]:
  """Figures of every row, a mapping for each model that can have it."""
  found = collections.defaultdict(list)
  print_head(data)
  for path in args.models:
    subject = None
    for name in args.rows or background_rows.ROWS:
      row = background_rows.ROWS[name]
      if not row.background_only or data in background_rows.WITH_BACKGROUND:
        file = place(args, path, data, name)
        if not file.exists():
          subject = subject or background_rows.Subject(
            gv.load(path), data, args
          )
          if row.learned and not subject.learned:
            continue
          write(file, measure(subject, row))
        found[name].append(json.loads(file.read_text()))
        print_line(name, path.name, found[name][-1])
  return found


def tell_cost() -> None:
  """Milliseconds of PAMR for an image, compiled, the median of five."""
  print(f'{demo.environment()}\n\n| pixels | classes | ms |\n|---|---|---|')
  for height, width, classes in ((64, 64, 13), (448, 597, 12), (448, 597, 21)):
    rng = np.random.default_rng(0)
    rgb, scores = (
      jnp.asarray(rng.random((1, height, width, n), np.float32))
      for n in (3, classes)
    )
    given = rgb, scores, jnp.ones((1, height, width), bool)
    refine, seconds = pamr.pamr, []
    refine(*given).block_until_ready()
    for _ in range(5):
      begin = time.perf_counter()
      refine(*given).block_until_ready()
      seconds.append(time.perf_counter() - begin)
    median = 1000 * float(np.median(seconds))
    print(f'| {height} x {width} | {classes} | {median:.0f} |', flush=True)


def place(args, path: pathlib.Path, data: str, name: str) -> pathlib.Path:
  """Where the figures of a row are kept."""
  model = '-'.join(path.resolve().parts[-2:])
  sizes = f'{args.limit}-{args.calibration}-seed-{args.data_seed}'
  return args.out / f'{model}-{data}-{sizes}' / f'{name}.json'


def measure(subject: background_rows.Subject, row: background_rows.Row) -> dict:
  """Evaluates one row; the spec is kept with its figures."""
  spec = row.spec(subject)
  runner = build.make(
    spec, subject.model.as_encoder(), RunOptions(batch_size=50)
  )
  model = subject.model
  fns = subject.fitted_fns if row.fitted else model.predict_fns
  begin = time.perf_counter()
  result = runner.evaluator.evaluate(fns, model.variables)
  seconds = time.perf_counter() - begin
  figures = dict(result.figures())
  values = [figures.get(f'iou/{name}') for name in result.class_names]
  objects = [v for v in values[result.background :] if v is not None]
  return {
    **{name: 100 * figures[key] for name, key in kept(figures)},
    'objects_miou': 100 * float(np.mean(objects)),
    'background_iou': 100 * values[0] if result.background else None,
    'seconds': seconds,
    'images': result.images,
    'diagnosis': diagnosis.of_result(result).as_json(),
    'settings': runner.settings,
  }


def kept(figures: Mapping[str, float]):
  return [(key, key) for key in COLUMNS.values() if key in figures]


def write(file: pathlib.Path, figures: Mapping) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  files.write_atomically(file, json.dumps(figures, indent=1, default=list))


def tell(data: str, results: Mapping[str, Sequence[dict]]) -> None:
  """Means over the models, and the first model's split of the error."""
  print(f'\n{data}, means over the models:\n')
  print_head(data)
  for name, rows in results.items():
    mean = {
      key: np.mean([row[key] for row in rows])
      for key in COLUMNS.values()
      if all(row.get(key) is not None for row in rows)
    }
    print_line(name, f'{len(rows)} models', mean)
  if 'released' in results:
    errors = results['released'][0]['diagnosis']
    parts = ('grouping_error', 'labelling_error', 'background_error')
    shown = [f'{p[:-6]} {100 * errors[p]:.1f}' for p in parts if errors[p]]
    print(f'\nThe error of `released`, first model: {", ".join(shown)}')
    for pair in errors['confusions'][:5]:
      print(
        f'- {pair["label"]} called {pair["prediction"]}: '
        f'{100 * pair["of_errors"]:.1f} % of all errors'
      )
  print()


def print_head(data: str) -> None:
  print(f'| {data} | model | ' + ' | '.join(COLUMNS) + ' |')
  print('|---' * (len(COLUMNS) + 2) + '|')


def print_line(name: str, model: str, figures: Mapping) -> None:
  cells = [
    '' if figures.get(key) is None else f'{figures[key]:.1f}'
    for key in COLUMNS.values()
  ]
  print(f'| {name} | {model} | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
  main()
