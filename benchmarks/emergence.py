"""What makes segmentation emerge: one change at a time, by name and seed.

  python benchmarks/emergence.py --list
  python benchmarks/emergence.py --rows demo residual --seeds 0 1

Every row is `configs/gvit_s.py:demo` with the options named here, run in a
process of its own for `--steps` steps on scenes of `--data-seed`, which is not
the seed of the recorded demo: nothing may be tuned on that one. Prints the
table of docs/emergence.md; a finished row is not run again.
"""

import argparse
import pathlib

import demo

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
  'soft': 'model.assignment=soft',
  'init_.02': 'model.init_std=0.02',
  'no_parts': 'loss.part_weight=0.0',
  'parts_alone': 'loss.multi_label_weight=0.0',
  'pooled': 'loss.noun_match=pooled,loss.part_weight=0.0',
  'no_nouns': 'loss.num_nouns=0,loss.part_weight=0.0',
  'noun_scale_20': 'loss.noun_scale=20.0',
  'shared_nouns': 'loss.share_nouns=true',
  'no_balance': 'loss.balance_weight=0.0',
  'no_sharpness': 'loss.sharpness_weight=0.0',
  'sharpness_.3': 'loss.sharpness_weight=0.3',
  'groups_8': 'tokens=8x0,groups=8x0',
  'groups_32': 'tokens=32x0,groups=32x0',
  'mixing_after': 'depths=1x1',
  'mixing_more': 'depths=4x0',
  'two_stages': 'depths=1x1x0,tokens=16x8x0,groups=16x8x0',
  'patch_4': 'patch=4',
  'batch_128': 'batch=128,optimizer.reference_batch_size=128',
  'adamw': 'optimizer.name=adamw',
  'clip_kmeans': 'clip',
}
COLUMNS = {
  'mIoU': 'miou',
  'things': 'miou_things',
  'grounds': 'miou_grounds',
  'oracle': 'oracle_miou',
  'untrained oracle': 'untrained_oracle_miou',
  'groups in use': 'groups_in_use',
  'train seconds': 'train_seconds',
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
  parser.add_argument('--list', action='store_true', help='name all rows')
  args = parser.parse_args()
  if args.list:
    for name, options in ROWS.items():
      print(f'{name:<18}{options}')
    return
  print(f'{demo.environment()}; {args.steps} steps\n')
  print('| row | seed | ' + ' | '.join(COLUMNS) + ' | labelling error |')
  print('|---' * (len(COLUMNS) + 3) + '|')
  for name in args.rows:
    for seed in args.seeds:
      print(line(name, seed, measure(name, seed, args)), flush=True)


def measure(name: str, seed: int, args: argparse.Namespace) -> dict:
  """Runs one row, or reads what it left."""
  # The row first: a variant in it (clip) has to stand before the options.
  options = f'steps={args.steps},seed={seed},data.seed={args.data_seed}'
  arg = ','.join(filter(None, ['demo', ROWS[name], options]))
  folder = f'{name}-{args.steps}-steps-seed-{seed}-data-{args.data_seed}'
  return demo.run(arg, args.workdir / folder)


def line(name: str, seed: int, summary: dict) -> str:
  cells = [summary.get(key, '') for key in COLUMNS.values()]
  error = round(summary['oracle_miou'] - summary['miou'], 2)
  return f'| {name} | {seed} | ' + ' | '.join(map(str, [*cells, error])) + ' |'


if __name__ == '__main__':
  main()
