"""`groupvit classify`: the class of whole images."""

import argparse
import json
from collections.abc import Sequence

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
  common.add_images(parser)
  # As the released model is measured on ImageNet.
  common.add_templates(parser, 'subset')
  text = 'classes shown for each image (default: %(default)s)'
  common.add_number(parser, '--top', text, default=5)
  parser.add_argument(
    '--json',
    action='store_true',
    help='a line of JSON per image, with all classes',
  )


def run(args: argparse.Namespace) -> int:
  """Runs the sub-command; returns the exit code."""
  from groupvit_jax.cli import resume

  names = list(common.read_labels(args).names)
  images = common.find_images(args.images, resume.EarlierResults())
  model = common.load(args.model)

  def classify(chunk: Sequence[common.ImageFile]) -> list[dict[str, float]]:
    shares = model.classify(
      [str(image.path) for image in chunk],
      names,
      templates=common.templates(args),
      batch_size=args.batch,
    )
    assert isinstance(shares, list)  # as the images are
    return shares

  failures = common.Failures(len(images))
  for image, shares in common.each(images, classify, args.batch):
    if isinstance(shares, Exception):
      failures.add(shares)
    else:
      print(_text(str(image.path), shares, args), flush=True)
  return 1 if failures.count else 0


def _text(path: str, shares: dict[str, float], args: argparse.Namespace) -> str:
  if args.json:
    rounded = {name: round(share, 6) for name, share in shares.items()}
    return json.dumps({'image': path, 'classes': rounded}, ensure_ascii=False)
  best = sorted(shares.items(), key=lambda item: -item[1])[: args.top]
  return '\n'.join([path, *(f'{share:8.1%}  {name}' for name, share in best)])
