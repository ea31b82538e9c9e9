"""`groupvit data`: prepares pairs for training, or looks at them."""

import argparse
import json
import shlex
from typing import Any

from groupvit_jax.cli import common

_SOURCES = """\
A SOURCE is a table (.csv, .tsv, .jsonl, .parquet) with a column of images
(paths, or in Parquet bytes) and one of captions; or tar, TFRecord or
ArrayRecord shards: a path, a pattern in quotes, a folder or an address.
"""
_CONVERT_EXAMPLES = f"""{_SOURCES}
examples:
  groupvit data convert captions.csv my --images photos --short-side 256
  groupvit data convert 'raw/*.tar' my --format array_record --shuffle 0
  groupvit data convert train-00000-of-00009.parquet my

A conversion that was stopped goes on with the same command. OUT/manifest.json
has counts, checksums and reasons; OUT/dropped.jsonl each pair that was left
out. Training reads OUT by data.shards=OUT.

On a cluster, as an Apache Beam pipeline (pip install 'groupvit_jax[beam]'):
  groupvit data convert 'gs://raw/*.tar' gs://mine/set \\
    --runner 'DataflowRunner --project=P --region=R --temp_location=gs://mine/t'
"""
_INSPECT_EXAMPLES = f"""{_SOURCES}
examples:
  groupvit data inspect 'my/*.tar'
  groupvit data inspect captions.csv --images photos --limit 0 --out report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's own commands."""
  group = parser.add_subparsers(metavar='COMMAND', required=True)
  _add_convert(group)
  _add_inspect(group)


def _add_convert(commands: Any) -> None:
  summary = 'check, scale and shard pairs'
  parser = common.add_command(
    commands, 'convert', summary, _CONVERT_EXAMPLES, _convert
  )
  _add_sources(parser)
  parser.add_argument('out', metavar='OUT', help='folder or address to write')
  parser.add_argument(
    '--format',
    choices=('tar', 'array_record', 'tfrecord'),
    default='tar',
    help='of the shards (default: %(default)s)',
  )
  common.add_number(
    parser,
    '--short-side',
    'scale larger images down until their short side has N pixels',
  )
  text = 'pairs per shard (default: %(default)s)'
  common.add_number(parser, '--shard-size', text, default=5000)
  parser.add_argument(
    '--shuffle',
    type=int,
    metavar='SEED',
    help='mix all pairs, for sources in an order (of time, of topics)',
  )
  parser.add_argument(
    '--keep-duplicates',
    action='store_true',
    help='keep pairs of the same image file and captions',
  )
  text = 'processes (default: one for each core)'
  common.add_number(parser, '--workers', text)
  parser.add_argument(
    '--runner',
    metavar='WORDS',
    help='of Apache Beam with its options, such as DirectRunner',
  )
  common.add_overwrite(parser, 'what is at OUT')


def _add_inspect(commands: Any) -> None:
  summary = 'count pairs, sizes, captions, nouns and bad samples'
  parser = common.add_command(
    commands, 'inspect', summary, _INSPECT_EXAMPLES, _inspect
  )
  _add_sources(parser)
  parser.add_argument(
    '--limit',
    type=int,
    default=10_000,
    metavar='N',
    help='pairs to read, at random; 0 for all (default: %(default)s)',
  )
  text = 'folder for contact_sheet.png and inspection.json'
  common.add_path(parser, '--out', 'DIR', text)


def _add_sources(parser):
  parser.add_argument('sources', nargs='+', metavar='SOURCE', help='the pairs')
  parser.add_argument(
    '--images',
    metavar='DIR',
    help="folder of a table's images (default: where the table is)",
  )
  for kind in ('image', 'caption'):
    parser.add_argument(
      f'--{kind}-column',
      metavar='NAME',
      help=f'column or feature of the {kind}',
    )


def _columns(args):
  given = {'image': args.image_column, 'caption': args.caption_column}
  return {kind: name for kind, name in given.items() if name}


def _convert(args: argparse.Namespace) -> None:
  from groupvit_jax.data import conversion

  plan = conversion.Plan(
    sources=tuple(args.sources),
    out=args.out,
    format=args.format,
    short_side=args.short_side,
    shard_size=args.shard_size,
    shuffle=args.shuffle,
    keep_duplicates=args.keep_duplicates,
    images=args.images,
    columns=tuple(sorted(_columns(args).items())),
  )
  if args.runner:
    from groupvit_jax.data import beam

    name, *options = shlex.split(args.runner)
    manifest = beam.convert(
      plan, [f'--runner={name}', *options], args.overwrite
    )
  else:
    manifest = conversion.convert(
      plan, workers=args.workers, overwrite=args.overwrite
    )
  print(f'{args.out}: {manifest["samples"]:,} pairs', end='')
  print(f' in {len(manifest["shards"]):,} shards')
  for reason, count in manifest['dropped'].items():
    print(f'  {count:,} dropped: {reason}')


def _inspect(args: argparse.Namespace) -> None:
  from PIL import Image

  from groupvit_jax import files
  from groupvit_jax.data import inspection, remote, tables

  source = tables.open_source(
    args.sources,
    images=args.images,
    columns=_columns(args),
    cache=remote.own_cache(),
  )
  found = inspection.inspect(source, args.limit or None)
  figures = found.figures()
  for name, value in figures.items():
    if isinstance(value, dict):
      value = ', '.join(f'{k} {n:,}' for k, n in value.items()) or 'none'
    elif isinstance(value, list):
      value = '{} (5 %), {} (median), {} (95 %)'.format(*value or '---')
    elif isinstance(value, float):
      value = f'{value:.2%}'
    print(f'{name.replace("_", " ")}: {value}')
  if args.out:
    args.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(found.sheet).save(args.out / 'contact_sheet.png')
    files.write_atomically(
      args.out / 'inspection.json', json.dumps(figures, indent=1)
    )
    print(f'{args.out}: contact_sheet.png, inspection.json')
