"""`groupvit convert`: weights from elsewhere to a model folder, and back."""

import argparse

from groupvit_jax.cli import common

_EXAMPLES = """\
A SOURCE is a .pth file of the original GroupViT, a Hugging Face folder (of
GroupViT or CLIP), OpenAI's CLIP (its .pt archives, open_clip's checkpoints), a
training workdir, a model folder, or a name on the Hugging Face hub. Everything
else (sizes, stages, tokens) is read from it. PyTorch's files (.pth, .pt, .bin)
are read without PyTorch, and nothing in them is executed.

examples:
  groupvit convert group_vit_gcc_yfcc_30e-879422e0.pth my_model
  groupvit convert runs/demo my_model
  groupvit convert nvidia/groupvit-gcc-redcaps my_model
  groupvit convert RN50.pt my_clip
  groupvit convert my_model for_transformers --to huggingface
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_path(parser, 'source', 'SOURCE', 'a file, folder or name')
  common.add_path(parser, 'out', 'OUT', 'the folder to write')
  parser.add_argument(
    '--to',
    choices=('groupvit_jax', 'huggingface', 'open_clip'),
    default='groupvit_jax',
    help='huggingface: a folder that transformers opens (GroupViTModel, '
    "CLIPModel); open_clip: of a CLIP, with OpenAI's names "
    '(default: %(default)s)',
  )
  common.add_overwrite(parser, 'what is at OUT')


def run(args: argparse.Namespace) -> None:
  """Runs the sub-command."""
  from groupvit_jax import convert

  print(
    convert.convert(args.source, args.out, to=args.to, overwrite=args.overwrite)
  )
