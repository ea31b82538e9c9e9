"""Emergence of segmentation: one change at a time, by name and seed.

  python benchmarks/emergence.py --list
  python benchmarks/emergence.py --rows demo residual --seeds 0 1
  python benchmarks/emergence.py --jobs 2   # one core each, on two cores

Every row is `configs/gvit_s.py:demo` with the options named here, run in a
process of its own for `--steps` steps on scenes of `--data-seed`, which is not
the seed of the recorded demo: nothing may be tuned on that one. Prints the
table of docs/research/emergence.md; a finished row is not run again.
"""

import argparse
import collections
import concurrent.futures
import functools
import itertools
import os
import pathlib
import queue
from collections.abc import Sequence

import demo
import numpy as np

ROWS = {
  'demo': '',
  'released': (
    'model.group_residual=true,model.pre_assign_attn=true,'
    'model.center_keys=false,model.gumbel_noise=1.0,model.init_std=0.02,'
    'loss.noun_match=pooled,loss.part_weight=0.0,loss.balance_weight=0.0,'
    'loss.sharpness_weight=0.0,eval.top_k=5'
  ),
  'residual': 'model.group_residual=true',
  'pre_assign_attn': 'model.pre_assign_attn=true',
  'common_keys': 'model.center_keys=false',
  'noise_1': 'model.gumbel_noise=1.0',
  'noise_0': 'model.gumbel_noise=0.0',
  'temperature_.5': 'model.gumbel_temperature=0.5',
  'temperature_2': 'model.gumbel_temperature=2.0',
  'soft': 'model.assignment=soft',
  'init_.02': 'model.init_std=0.02',
  'no_parts': 'loss.part_weight=0.0',
  'parts_alone': 'loss.multi_label_weight=0.0',
  'pooled': 'loss.noun_match=pooled,loss.part_weight=0.0',
  'no_nouns': 'loss.num_nouns=0,loss.part_weight=0.0',
  'soft_no_nouns': (
    'model.assignment=soft,loss.num_nouns=0,loss.part_weight=0.0'
  ),
  'noun_scale_20': 'loss.noun_scale=20.0',
  'shared_nouns': 'loss.share_nouns=true',
  'no_balance': 'loss.balance_weight=0.0',
  'balance_.1': 'loss.balance_weight=0.1',
  'no_sharpness': 'loss.sharpness_weight=0.0',
  'sharpness_.3': 'loss.sharpness_weight=0.3',
  'groups_8': 'tokens=8x0,groups=8x0',
  'groups_12': 'tokens=12x0,groups=12x0',
  'groups_32': 'tokens=32x0,groups=32x0',
  'tokens_16_groups_4': 'tokens=16x0,groups=4x0',
  'tokens_16_groups_8': 'tokens=16x0,groups=8x0',
  'tokens_32_groups_8': 'tokens=32x0,groups=8x0',
  'tokens_64_groups_8': 'tokens=64x0,groups=8x0',
  'tokens_64_groups_16': 'tokens=64x0,groups=16x0',
  'mixing_after': 'depths=1x1',
  'mixing_more': 'depths=4x0',
  'two_stages': 'depths=1x1x0,tokens=16x8x0,groups=16x8x0',
  'patch_4': 'patch=4',
  'batch_128': 'batch=128,optimizer.reference_batch_size=128',
  'adamw': 'optimizer.name=adamw,lr=1e-3',
  # Without the gate, as GroupViT in the rows above.
  'learned_groups': (
    'eval.regroup=none,eval.one_hot=true,eval.mix_logits=false'
  ),
  'clip_kmeans': 'clip,eval.top_k=0',
  'clip_pixels': 'clip,eval.top_k=0,eval.regions=pixels',
  'clip_parts_kmeans': 'clip,eval.top_k=0,loss.part_weight=1.0',
  'clip_parts_pixels': (
    'clip,eval.top_k=0,loss.part_weight=1.0,eval.regions=pixels'
  ),
}
COLUMNS = {
  'mIoU': 'miou',
  'things': 'miou_things',
  'grounds': 'miou_grounds',
  'oracle': 'oracle_miou',
  'untrained oracle': 'untrained_oracle_miou',
  'groups in use': 'groups_in_use',
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--rows', nargs='+', choices=ROWS, default=list(ROWS), metavar='ROW'
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--data-seed', type=int, default=1)
  parser.add_argument('--workdir', type=pathlib.Path, default='runs/emergence')
  parser.add_argument(
    '--jobs',
    type=int,
    default=1,
    help='runs at a time, sharing the cores',
  )
  parser.add_argument('--list', action='store_true', help='name all rows')
  args = parser.parse_args()
  if args.list:
    for name, options in ROWS.items():
      print(f'{name:<22}{options}')
    return
  print(f'{demo.environment()}; {args.steps} steps\n')
  print_head()
  runs = list(itertools.product(args.rows, args.seeds))
  found = collections.defaultdict(list)
  for (name, seed), summary in zip(runs, measure_all(runs, args), strict=True):
    found[name].append(figures(summary))
    print_line(name, seed, found[name][-1])
  print('\nMeans over the seeds:\n')
  print_head()
  for name, values in found.items():
    print_line(name, f'{len(values)} seeds', np.mean(values, axis=0))


def measure_all(runs: Sequence[tuple[str, int]], args: argparse.Namespace):
  """Yields the summaries of all runs in their order."""
  # The first alone: it draws the scenes that the others read.
  first, *others = runs
  yield measure(*first, args)
  cores = sorted(os.sched_getaffinity(0))
  shares = queue.SimpleQueue()
  for i in range(args.jobs):
    shares.put(cores[i % len(cores) :: args.jobs])
  with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
    yield from pool.map(lambda run: measure_on(shares, run, args), others)


def measure_on(shares: queue.SimpleQueue, run: tuple[str, int], args) -> dict:
  """`measure` on cores that no other run uses meanwhile."""
  cores = shares.get()
  try:
    return measure(
      *run, args, preexec_fn=functools.partial(os.sched_setaffinity, 0, cores)
    )
  finally:
    shares.put(cores)


def measure(name: str, seed: int, args: argparse.Namespace, **options) -> dict:
  """Runs one row, or reads what it left."""
  # The row first: a variant in it (clip) has to stand before the options.
  fields = (
    f'steps={args.steps},seed={seed},data.seed={args.data_seed},'
    f'run.eval_every={args.steps}'
  )
  arg = ','.join(filter(None, ['demo', ROWS[name], fields]))
  folder = f'{name}-{args.steps}-steps-seed-{seed}-data-{args.data_seed}'
  return demo.run(arg, args.workdir / folder, **options)


def figures(summary: dict) -> list[float]:
  """Values of COLUMNS, and the labelling error: the gain from better labels."""
  values = [summary[key] for key in COLUMNS.values()]
  return [*values, summary['oracle_miou'] - summary['miou']]


def print_head() -> None:
  print('| row | seed | ' + ' | '.join([*COLUMNS, 'labelling error']) + ' |')
  print('|---' * (len(COLUMNS) + 3) + '|')


def print_line(name: str, seed: object, values: Sequence[float]) -> None:
  cells = ' | '.join(f'{value:.1f}' for value in values)
  print(f'| {name} | {seed} | {cells} |', flush=True)


if __name__ == '__main__':
  main()
