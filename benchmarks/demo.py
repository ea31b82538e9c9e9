"""The demo over several seeds, beside ViTs without groups trained as long.

  python benchmarks/demo.py --seeds 0 1 2

Runs `configs/gvit_s.py:demo` and the `BASELINES`, its `clip` form (the same
blocks without groups, patches grouped by k-means: the paper's Table 4 in
small), one after the other, each in a process of its own, and prints the table
of RESULTS.md. The ViT's step is cheaper: short runs of both, one after the
other, measure by how much, and it gets that many steps more.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import runpy
import subprocess
import sys
from importlib import metadata

from groupvit_jax.training import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / 'configs/gvit_s.py'
BASELINES = {
  # Every loss of the demo that needs no groups: nouns against the pooled image
  # and against the best token. Labelled by the same steps as the demo.
  'same-losses': 'clip,loss.part_weight=1.0,eval.top_k=0',
  # The paper's: nouns against the pooled image, released inference.
  'clip': 'clip,eval.one_hot=true,eval.mix_logits=false',
}
COLUMNS = (
  'miou',
  'miou_things',
  'miou_grounds',
  'oracle_miou',
  'pixel_accuracy',
  'untrained_miou',
  'untrained_oracle_miou',
  'steps',
  'images_per_second',
  'train_seconds',
  'wall_seconds',
)
PROBE_STEPS = 150


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--workdir', type=pathlib.Path, default='runs/benchmark')
  parser.add_argument(
    '--baselines', nargs='*', choices=BASELINES, default=['same-losses']
  )
  parser.add_argument(
    '--options', default='', help='further config options, as in ":demo,..."'
  )
  parser.add_argument(
    '--steps',
    type=int,
    default=read_config('demo').num_steps,
    help='of the demo',
  )
  args = parser.parse_args()

  def short(name: str, base: str) -> dict:
    arg = f'{base},seed={args.seeds[0]},steps={PROBE_STEPS}'
    return run(arg, args.workdir / f'{name}-probe')

  forms = {'demo': with_options('demo', args.options)}
  for name in args.baselines:
    # The options of a baseline stand behind its variant, `clip`.
    forms[name] = with_options(f'demo,{BASELINES[name]}', args.options)
  speeds = {
    name: short(name, form)['images_per_second'] for name, form in forms.items()
  }
  rows = []
  for name, form in forms.items():
    steps = round(args.steps * speeds[name] / speeds['demo'])
    for seed in args.seeds:
      arg = f'{form},seed={seed},steps={steps}'
      rows.append((name, seed, run(arg, args.workdir / f'{name}-{seed}')))
      print_rows(rows[-1:])
  print(f'\n{environment()}\n')
  print('| model | seed | ' + ' | '.join(COLUMNS) + ' |')
  print('|---' * (len(COLUMNS) + 2) + '|')
  print_rows(rows)


def read_config(arg: str | None, path: pathlib.Path = CONFIG):
  """The config that `path:arg` names."""
  return runpy.run_path(str(path))['get_config'](arg)


def with_options(base: str, options: str) -> str:
  return ','.join(filter(None, [base, options]))


def run(
  arg: str,
  workdir: pathlib.Path,
  config: pathlib.Path = CONFIG,
  **options,
) -> dict:
  """Trains `config:arg` in a process of its own; returns its summary.

  A workdir that is finished is taken as it is, so that the script goes on
  where it was stopped; that of another configuration is refused. The options
  are those of `subprocess.run`.
  """
  workdir = workdir.resolve()
  finished = workdir / 'summary.json'
  if finished.exists():
    wanted = config_lib.to_json(read_config(arg, config))
    stored = (workdir / 'config.json').read_text()
    base = config_lib.to_json(read_config(None, config))
    if changed := config_lib.differences(wanted, stored, base):
      sys.exit(f'{workdir} holds another run ({changed[0]}); remove it')
    return json.loads(finished.read_text())
  subprocess.run(
    [
      sys.executable,
      '-m',
      'groupvit_jax.main',
      f'--config={config}:{arg}',
      f'--workdir={workdir}',
    ],
    check=True,
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    **options,
  )
  return json.loads(finished.read_text())


def environment() -> str:
  """Date, versions and device of the measurement."""
  versions = ', '.join(
    f'{name} {metadata.version(name)}' for name in ('jax', 'flax', 'numpy')
  )
  today = datetime.date.today().isoformat()
  return (
    f'{today}, {os.cpu_count()} cores of {platform.machine()}, '
    f'Python {platform.python_version()}, {versions}'
  )


def print_rows(rows) -> None:
  for name, seed, summary in rows:
    cells = [str(summary.get(column, '')) for column in COLUMNS]
    print(f'| {name} | {seed} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
