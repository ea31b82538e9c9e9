"""`groupvit classify`: which of some classes a picture as a whole shows."""

import argparse
import json

from groupvit_jax.cli import common

_EXAMPLES = """\
examples:
  groupvit classify photo.jpg --model my_model --labels "a cat,a dog,a house"
  groupvit classify photos --model my_model --labels-from coco --top 3
  groupvit classify photos --model my_model --labels-from names.txt --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_pictures(parser)
  common.add_model(parser)
  common.add(parser)
  # As the released model is measured on ImageNet.
  common.add_templates(parser, 'subset')
  parser.add_argument(
    '--top',
    metavar='N',
    type=common.positive,
    default=5,
    help='classes shown of each picture (default: %(default)s)',
  )
  parser.add_argument(
    '--json',
    action='store_true',
    help='a line of JSON per picture, with all classes',
  )


def run(args: argparse.Namespace) -> int:
  """Runs the sub-command; returns the exit code."""
  from groupvit_jax.cli import resume

  names = list(common.read(args).names)
  found = common.find(args.pictures, resume.Results())

  from groupvit_jax import inference

  model = inference.load(args.model)

  def ask(chunk):
    return model.classify(
      [str(picture.path) for picture in chunk],
      names,
      templates=common.templates(args),
      batch_size=args.batch,
    )

  failures = common.Failures(len(found))
  for picture, odds in common.each(found, ask, args.batch):
    if isinstance(odds, Exception):
      failures.add(odds)
    else:
      print(_told(str(picture.path), odds, args), flush=True)
  return 1 if failures.count else 0


def _told(path: str, odds: dict[str, float], args: argparse.Namespace) -> str:
  if args.json:
    rounded = {name: round(share, 6) for name, share in odds.items()}
    return json.dumps({'picture': path, 'classes': rounded}, ensure_ascii=False)
  best = sorted(odds.items(), key=lambda item: -item[1])[: args.top]
  return '\n'.join([path, *(f'{share:8.1%}  {name}' for name, share in best)])
