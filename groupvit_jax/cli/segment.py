"""`groupvit segment`: pictures and words to masks."""

import argparse
import dataclasses
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from PIL import Image

from groupvit_jax import files
from groupvit_jax.cli import common
from groupvit_jax.cli.common import Picture
from groupvit_jax.cli.resume import Journal
from groupvit_jax.viz import overlay

# The kinds of results that `groupvit segment --show` can write.
#
# Each is a function from a segmentation to file contents by name ending.

_MOST_SCORES = 2 << 30  # of 4 bytes; more than a machine should be asked for


def make(kind: str, result: Any, source: str) -> Mapping[str, bytes]:
  """The files of a kind of result.

  Args:
    kind: one of `KINDS`.
    result: an `inference.Segmentation`.
    source: the picture's path, for json.

  Returns:
    Contents by the ending of the file's name.

  Raises:
    ValueError: this segmentation has no such result; the message says why.
  """
  if kind == 'json':
    text = json.dumps(summary(result, source), indent=1, ensure_ascii=False)
    # Of a name that is not UTF-8, JSON can hold the escaped bytes.
    return {'.json': f'{text}\n'.encode(errors='backslashreplace')}
  return _MAKERS[kind](result)


def _overlay(result):
  return {'_overlay.png': _png(result.overlay())}


def _mask(result):
  image = overlay.palette_image(
    result.labels, result.names, background=result.background
  )
  return {'_mask.png': _png(image)}


def _pred(result):
  picture = overlay.class_map(
    result.labels, result.names, background=result.background
  )
  return {'_pred.png': _png(Image.fromarray(picture))}


def _first_group(result):
  return {'_first_group.png': _groups(result, 0)}


def _final_group(result):
  return {'_final_group.png': _groups(result, -1)}


def _all_groups(result):
  return {
    f'_groups_{stage + 1}.png': _groups(result, stage)
    for stage in range(max(1, len(result.groups)))
  }


def _groups(result, stage: int) -> bytes:
  if not result.groups:
    raise ValueError('this model does not group: there are no groups to show')
  picture = overlay.groups_overlay(result.image, result.groups[stage])
  return _png(Image.fromarray(picture))


def _scores(result):
  height, width = result.labels.shape
  if len(result.names) * height * width > _MOST_SCORES:
    raise ValueError(
      f'scores of {len(result.names)} classes at {width} x {height} pixels '
      'would take more than 8 GB: ask for fewer classes, or reduce the picture'
    )
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer, scores=result.scores, names=np.array(result.names)
  )
  return {'_scores.npz': buffer.getvalue()}


_MAKERS = {
  'overlay': _overlay,
  'mask': _mask,
  'pred': _pred,
  'first_group': _first_group,
  'final_group': _final_group,
  'all_groups': _all_groups,
  'scores': _scores,
}


def summary(result: Any, source: str) -> dict[str, Any]:
  """A segmentation as plain values.

  Args:
    result: an `inference.Segmentation`.
    source: the picture's path.

  Returns:
    Size and names; of every class that was found its id (the mask's value),
    name, area in pixels, share of the picture, box [x, y, width, height], mean
    score over its pixels (none for the background), and mask as COCO's RLE.
  """
  from pycocotools import mask as coco

  height, width = result.labels.shape
  classes = []
  for i, name in enumerate(result.names):
    found = result.labels == i
    if name not in result.areas:
      continue
    rle = coco.encode(np.asfortranarray(found, np.uint8))
    entry = {
      'id': i,
      'name': name,
      'area': result.areas[name],
      'share': round(result.areas[name] / found.size, 6),
      'box': list(result.boxes[name]),
      'score': round(result.mean_scores[name], 6),
      'rle': {'size': [height, width], 'counts': rle['counts'].decode()},
    }
    if result.background and i == 0:
      del entry['score']
    classes.append(entry)
  return {
    'picture': source,
    'width': width,
    'height': height,
    'names': list(result.names),
    'background': result.background,
    'classes': classes,
  }


def _png(image: Image.Image) -> bytes:
  buffer = io.BytesIO()
  # Half the time of the default, for a few per cent of size.
  image.save(buffer, format='PNG', compress_level=4)
  return buffer.getvalue()


# A run of `groupvit segment`, once it is clear what has to be done.
#
# Imported only then: what it needs takes a second to import.


class Run:
  """Segments pictures in batches and writes what was asked for."""

  def __init__(
    self,
    args: argparse.Namespace,
    names: Sequence[str],
    steps: Mapping[str, Any],
    done: Journal,
    todo: Sequence[Picture],
  ):
    """Prepares a run.

    Args:
      args: of the command line.
      names: of the classes.
      steps: fields of `SegmentConfig`.
      done: what the folder of the results has.
      todo: pictures that lack something.
    """
    self._args = args
    self._names = list(names)
    self._steps = steps
    self._done = done
    self._todo = todo
    self._failures = common.Failures(len(todo))
    self._written = []

  def all(self) -> None:
    """Loads the model and goes through the pictures."""
    from groupvit_jax import inference

    self._model = inference.load(self._args.model)
    self._config = dataclasses.replace(self._model.config, **self._steps)
    self._done.begin()
    # Quiet for one picture, and where nobody looks (not a terminal).
    hidden = True if len(self._todo) == 1 else None
    bar = tqdm.tqdm(total=len(self._todo), unit='picture', disable=hidden)
    with bar:
      try:
        self._go(bar.update)
      except KeyboardInterrupt:
        raise KeyboardInterrupt(self._interrupted()) from None

  def _go(self, advance) -> None:
    # Several batches at a time: pictures are decoded ahead, and those of
    # similar shape go through the network together.
    size = 4 * self._args.batch
    for picture, result in common.each(self._todo, self._ask, size):
      if isinstance(result, Exception):
        self._failures.add(result)
      else:
        self._write(picture, result)
      advance()

  def _ask(self, chunk):
    return self._model.segment(
      [str(picture.path) for picture in chunk],
      self._names,
      self._config,
      templates=common.templates(self._args),
      batch_size=self._args.batch,
    )

  def _write(self, picture, result) -> None:
    contents, errors = {}, []
    for kind in self._done.missing(picture, self._args.show):
      try:
        contents[kind] = make(kind, result, str(picture.path))
      except ValueError as error:
        errors.append(str(error))
    stem = self._done.stem(picture)
    for endings in contents.values():
      for ending, content in endings.items():
        path = self._args.out / f'{stem}{ending}'
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content)
        self._written.append(path)
    made = {
      kind: [f'{stem}{ending}' for ending in endings]
      for kind, endings in contents.items()
    }
    if made:
      self._done.add(picture, made)
    if errors:
      self._failures.add(ValueError(f'{picture.path}: {"; ".join(errors)}'))

  def _interrupted(self) -> str:
    again = 'the same command'
    if self._args.overwrite:
      again += ' without --overwrite'
    return f'interrupted; {again} goes on where this one stopped'

  def tell(self, found: int) -> int:
    """Prints what became of the pictures; returns the exit code."""
    if found == 1 and self._written:
      print('\n'.join(map(str, self._written)))
      return 0
    failed, skipped = self._failures.count, found - len(self._todo)
    parts = [f'{len(self._todo) - failed} segmented']
    parts += [f'{skipped} skipped as done before'] * bool(skipped)
    parts += [f'{failed} failed'] * bool(failed)
    noun = 'picture' if found == 1 else 'pictures'
    print(f'{found} {noun}: {", ".join(parts)}; see {self._args.out}')
    return 1 if failed else 0


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_pictures(parser)
  common.add_model(parser)
  common.add(parser)
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
  common.add_templates(group, 'simple')
  group.add_argument(
    '--slide',
    action='store_true',
    help='sliding windows, as in the benchmarks, not the whole picture at once',
  )
  group.add_argument(
    '--window',
    metavar='N',
    type=common.positive,
    help='pixels of their side, after scaling (default: the shorter side); '
    'means --slide',
  )
  group.add_argument(
    '--stride',
    metavar='N',
    type=common.positive,
    help='pixels from one to the next (default: half of one); means --slide',
  )
  group.add_argument(
    '--short-side',
    metavar='N',
    type=common.positive,
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
  return None if text == 'all' else common.positive(text)


def run(args: argparse.Namespace) -> int:
  """Runs the sub-command; returns the exit code."""
  from groupvit_jax.cli import resume

  chosen = common.read(args)
  steps = _steps(args, chosen.threshold)
  found = common.find(args.pictures, resume.Results(), without=args.out)
  settings = {
    'model': _identity(args.model),
    'labels': list(chosen.names),
    'templates': common.templates(args),
    'steps': steps,
  }
  done = resume.Journal(args.out, settings, args.overwrite)
  todo = [picture for picture in found if done.missing(picture, args.show)]
  run = Run(args, chosen.names, steps, done, todo)
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
