"""`groupvit export`: a model as programs that need nothing of this package."""

import argparse

from groupvit_jax.cli import common

_EXAMPLES = """\
OUT then has the programs `image` and `text` (unit vectors of images and of
token ids), with class names also `segment` (scores of square images), and
programs.json, which says what each takes and returns. Any number of images
goes through at once. docs/export.md shows how they are called.

--format stablehlo and onnx write a file for each, tf a SavedModel with a
signature for each. tf needs TensorFlow: pip install 'groupvit_jax[train]';
onnx needs jax2onnx: pip install 'groupvit_jax[onnx]'.

examples:
  groupvit export my_model programs
  groupvit export nvidia/groupvit-gcc-yfcc segmenter --labels "dog,grass,sky"
  groupvit export my_model for_cpu --platforms cpu
  groupvit export my_model saved_model --format tf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_path(parser, 'model', 'MODEL', common.MODEL)
  common.add_path(parser, 'out', 'OUT', 'the folder to write')
  parser.add_argument(
    '--format',
    choices=('stablehlo', 'tf', 'onnx'),
    default='stablehlo',
    help="jax.export's files around StableHLO, a TensorFlow SavedModel, or "
    'ONNX files (default: %(default)s)',
  )
  common.add_labels(parser, required=False)
  parser.add_argument(
    '--platforms',
    metavar='NAMES',
    default='cpu,cuda,tpu',
    help='between commas; none of them has to be here (default: %(default)s); '
    'ONNX files are for any',
  )
  common.add_overwrite(parser, 'what is at OUT')


def run(args: argparse.Namespace) -> None:
  """Runs the sub-command."""
  labels = common.read_labels(args)
  platforms = args.platforms.split(',')
  known = ('cpu', 'cuda', 'rocm', 'tpu')
  if unknown := set(platforms) - set(known):
    raise ValueError(
      f'--platforms: {min(unknown)!r} is none of {", ".join(known)}'
    )
  from groupvit_jax import inference
  from groupvit_jax.inference import export

  print(
    export.save(
      inference.load(args.model),
      args.out,
      labels.names,
      format=args.format,
      platforms=platforms,
      overwrite=args.overwrite,
    )
  )
