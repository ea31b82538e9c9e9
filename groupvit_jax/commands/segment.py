"""`groupvit segment`: pictures and words to masks."""

import argparse
import pathlib
from typing import Any

from groupvit_jax.commands import arguments, labels

KINDS = {
  'overlay': 'the picture with its classes in colour, their names, a legend',
  'mask': 'a PNG whose pixels are the classes: palette, above 256 16-bit grey',
  'pred': 'the classes alone, in colour, with names and a legend',
  'first_group': 'the groups of the first grouping stage',
  'final_group': 'the groups of the last one, which get the names',
  'all_groups': 'the groups of every stage, a file each',
  'scores': 'an npz: scores [class, height, width] and names',
  'json': 'areas, boxes, mean scores and COCO run lengths of the classes',
}

_EXAMPLES = """\
--show takes one or several of these, between commas:
{kinds}

Class 0 is the background: what no class claims. --background sets the score
below which that is so, or 'none' for pictures that are all named classes.

A run that was interrupted goes on where it stopped, by the same command:
pictures that are done are skipped.

examples:
  groupvit segment photo.jpg --model my_model --labels "dog,grass,sky" --out out
  groupvit segment photos --model my_model --labels-from voc --out voc \\
    --show overlay,mask,json --batch 16
  groupvit segment "photos/*.jpg" --model my_model --out groups --slide \\
    --labels "person|man|woman,dog" --background none --show all_groups
"""
_EXAMPLES = _EXAMPLES.format(
  kinds='\n'.join(f'  {kind:<12} {text}' for kind, text in KINDS.items())
)


def add(commands) -> None:
  """Declares the sub-command."""
  parser = arguments.add_command(
    commands, 'segment', 'find named things in pictures', _EXAMPLES
  )
  arguments.add_pictures(parser)
  arguments.add_model(parser)
  labels.add(parser)
  parser.add_argument(
    '--out',
    required=True,
    metavar='DIR',
    type=pathlib.Path,
    help='folder for the results',
  )
  parser.add_argument(
    '--show',
    metavar='KINDS',
    type=_kinds,
    default=['overlay'],
    help='what to write (default: overlay)',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace results in DIR'
  )
  _add_steps(parser)
  parser.set_defaults(run=_run)


def _add_steps(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    'steps of the inference', 'The defaults are those of the released model.'
  )
  group.add_argument(
    '--background',
    metavar='T',
    type=_threshold,
    default=argparse.SUPPRESS,
    help="threshold in 0..1, or 'none' (default: .95; a label set has its own)",
  )
  arguments.add_templates(group, 'simple')
  group.add_argument(
    '--slide',
    action='store_true',
    help='sliding windows, as in the benchmarks, not the whole picture at once',
  )
  group.add_argument(
    '--window',
    metavar='N',
    type=arguments.positive,
    help='pixels of their side, after scaling (default: the shorter side); '
    'means --slide',
  )
  group.add_argument(
    '--stride',
    metavar='N',
    type=arguments.positive,
    help='pixels from one to the next (default: half of one); means --slide',
  )
  group.add_argument(
    '--short-side',
    metavar='N',
    type=arguments.positive,
    help="pixels that a picture's shorter side is scaled to (default: the "
    "model's own, 448 for the released)",
  )
  group.add_argument(
    '--top-k',
    metavar='K',
    type=_top_k,
    default=argparse.SUPPRESS,
    help="only the K classes nearest to the whole picture may be found; 'all' "
    "lets every class (default: the model's own, 5 for the released)",
  )
  group.add_argument(
    '--soft',
    action='store_true',
    help='mix the groups at every pixel instead of choosing one',
  )


def _kinds(text: str) -> list[str]:
  """An argparse type."""
  chosen = [kind.strip() for kind in text.split(',')]
  unknown = [kind for kind in chosen if kind not in KINDS]
  if unknown:
    raise argparse.ArgumentTypeError(
      f'{unknown[0]!r} is none of {", ".join(KINDS)}'
    )
  return list(dict.fromkeys(chosen))


def _threshold(text: str) -> float | None:
  """An argparse type."""
  if text == 'none':
    return None
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f"must be 'none' or in 0..1: {text!r}")
  return value


def _top_k(text: str) -> int | None:
  """An argparse type."""
  return None if text == 'all' else arguments.positive(text)


def _run(args: argparse.Namespace) -> int:
  from groupvit_jax.commands import journal, pictures, segment_run

  chosen = labels.read(args)
  steps = _steps(args, chosen.threshold)
  found = pictures.find(args.pictures, journal.Results(), without=args.out)
  settings = {
    'model': _identity(args.model),
    'labels': list(chosen.names),
    'templates': arguments.templates(args),
    'steps': steps,
  }
  done = journal.Journal(args.out, settings, args.overwrite)
  todo = [picture for picture in found if done.missing(picture, args.show)]
  run = segment_run.Run(args, chosen.names, steps, done, todo)
  if todo:
    run.all()
  return run.tell(len(found))


def _steps(args: argparse.Namespace, threshold: float | None) -> dict[str, Any]:
  """Fields of SegmentConfig that the command line sets."""
  steps = {'background_threshold': getattr(args, 'background', threshold)}
  if args.slide or args.window or args.stride:
    steps['mode'] = 'slide'
  if args.soft:
    steps['one_hot'] = False
  for name in ('short_side', 'window', 'stride'):
    if getattr(args, name):
      steps[name] = getattr(args, name)
  if 'top_k' in args:
    steps['top_k'] = args.top_k
  return steps


def _identity(model: pathlib.Path) -> list[Any]:
  """Tells other weights at the same place: results must not mix them."""
  parts = ('*.safetensors', '*.bin', '*.pt', '*.pth', 'checkpoints/*')
  weights = [model] if model.is_file() else []
  for part in parts if model.is_dir() else ():
    weights += sorted(model.glob(part))
  return [
    str(model.resolve()),
    *([w.name, w.stat().st_size, w.stat().st_mtime_ns] for w in weights),
  ]
