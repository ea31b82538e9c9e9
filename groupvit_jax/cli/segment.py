"""`groupvit segment`: images and class names to masks."""

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
from groupvit_jax.cli import common, resume
from groupvit_jax.cli.common import ImageFile
from groupvit_jax.evaluation.config import REGROUPINGS, SegmentConfig

KINDS = {
  'overlay': 'the image with its classes in colour, their names, a legend',
  'mask': 'a PNG whose pixels are the classes: palette, above 256 16-bit grey',
  'pred': 'the classes alone, in colour, with names and a legend',
  'groups': 'the groups of every stage, a file each; the last get the names',
  'scores': 'an npz: scores [class, height, width] and names',
  'json': 'areas, boxes, mean scores and COCO run lengths of the classes',
}
_EARLIER = ('first_group', 'final_group', 'all_groups')  # names of groups

_EXAMPLES = """\
--show takes one or several of these, between commas:
{kinds}
Without --labels or --labels-from, the groups are shown.

Class 0 is the background: pixels whose best score is below --background, or
there is no background with --background none.

The same command resumes a run that was interrupted: images that are done are
skipped.

examples:
  groupvit segment photo.jpg --model my_model --out out
  groupvit segment photo.jpg --model nvidia/groupvit-gcc-yfcc --out named \\
    --labels "dog,grass,sky"
  groupvit segment photos --model my_model --labels-from voc --out voc \\
    --show overlay,mask,json --batch 16
  groupvit segment "photos/*.jpg" --model my_model --out slide --slide \\
    --labels "person|man|woman,dog" --background none --show overlay,groups
"""
_EXAMPLES = _EXAMPLES.format(
  kinds='\n'.join(f'  {kind:<8} {text}' for kind, text in KINDS.items())
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's arguments."""
  parser.epilog = _EXAMPLES
  common.add_images(parser, need_labels=False)
  common.add_path(
    parser, '--out', 'DIR', 'folder for the results', required=True
  )
  parser.add_argument(
    '--show',
    metavar='KINDS',
    type=_kinds,
    help='what to write (default: overlay; without labels, groups)',
  )
  common.add_overwrite(parser, 'results in DIR')
  _add_steps(
    parser.add_argument_group(
      'steps of the inference', 'The defaults are those of the released model.'
    )
  )


def _add_steps(group: argparse._ArgumentGroup) -> None:
  """Options that set a field of `SegmentConfig`, if they are given."""
  unless_given: dict[str, Any] = {'default': argparse.SUPPRESS}
  group.add_argument(
    '--background',
    dest='background_threshold',
    metavar='T',
    type=_threshold,
    help="threshold in 0..1, or 'none' (default: .95; a label set has its own)",
    **unless_given,
  )
  common.add_templates(group, 'simple')
  group.add_argument(
    '--slide',
    dest='mode',
    action='store_const',
    const='slide',
    help='sliding windows, as in the benchmarks, not the whole image at once',
    **unless_given,
  )
  for flag, text in (
    (
      '--window',
      'side of the windows in pixels, after scaling (default: the shorter '
      'side); means --slide',
    ),
    (
      '--stride',
      'pixels from a window to the next (default: half of one); means --slide',
    ),
    (
      '--short-side',
      "pixels that an image's shorter side is scaled to (default: the model's "
      'own, 448 for the released)',
    ),
  ):
    common.add_number(group, flag, text, **unless_given)
  group.add_argument(
    '--top-k',
    metavar='K',
    type=lambda text: None if text == 'all' else common.positive(text),
    help='only the K classes nearest to the whole image may appear; '
    "'all' allows every class (default: the model's own, 5 for the released)",
    **unless_given,
  )
  group.add_argument(
    '--regroup',
    choices=REGROUPINGS,
    help="'kmeans' remakes the groups from the model's tokens (default: the "
    "model's own, 'none' for the released)",
    **unless_given,
  )
  group.add_argument(
    '--soft',
    dest='one_hot',
    action='store_const',
    const=False,
    help='mix the groups at every pixel instead of choosing one',
    **unless_given,
  )


def _kinds(text: str) -> list[str]:
  """An argparse type."""
  chosen = [kind.strip() for kind in text.split(',')]
  unknown = [kind for kind in chosen if kind not in KINDS]
  if unknown:
    now = "'groups' has those of every stage; " * (unknown[0] in _EARLIER)
    raise argparse.ArgumentTypeError(
      f'{now}{unknown[0]!r} is none of {", ".join(KINDS)}'
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


def run(args: argparse.Namespace) -> int:
  """Runs the sub-command; returns the exit code."""
  labels = common.read_labels(args)
  args.show = args.show or (['overlay'] if labels.names else ['groups'])
  if not labels.names and args.show != ['groups']:
    raise ValueError(
      f'--show {",".join(args.show)} needs class names: add --labels "dog,cat"'
    )
  steps = _steps(args, labels.threshold)
  images = common.find_images(
    args.images, resume.EarlierResults(), without=args.out
  )
  settings = {
    'model': _identity(args.model),
    'labels': list(labels.names),
    'templates': common.templates(args),
    'steps': steps,
  }
  folder = resume.ResultsFolder(args.out, settings, args.overwrite)
  todo = [image for image in images if folder.missing(image, args.show)]
  job = _Run(args, folder, len(todo))
  if todo:
    job.segment(todo, labels.names, steps)
  return job.summarize(len(images))


def _steps(args: argparse.Namespace, threshold: float | None) -> dict[str, Any]:
  """Fields of SegmentConfig that the command line sets."""
  names = [field.name for field in dataclasses.fields(SegmentConfig)]
  steps: dict[str, Any] = {'background_threshold': threshold}
  steps |= {name: getattr(args, name) for name in names if name in args}
  if {'window', 'stride'} & steps.keys():
    steps['mode'] = 'slide'
  return steps


def _identity(model: pathlib.Path) -> list[Any]:
  """Path, sizes and times of the weights: results must not mix models."""
  if not model.exists():
    from groupvit_jax import convert

    model = convert.find(model)
  patterns = ('*.safetensors', '*.bin', '*.pt', '*.pth', 'checkpoints/*')
  weights = [model] if model.is_file() else []
  for pattern in patterns if model.is_dir() else ():
    weights += sorted(model.glob(pattern))
  return [
    str(model.resolve()),
    *([w.name, w.stat().st_size, w.stat().st_mtime_ns] for w in weights),
  ]


class _Run:
  """Segments images in batches and writes the results."""

  def __init__(
    self, args: argparse.Namespace, folder: resume.ResultsFolder, total: int
  ):
    self._args, self._folder, self._total = args, folder, total
    self._failures = common.Failures(total)
    self._written: list[pathlib.Path] = []

  def segment(
    self,
    images: Sequence[ImageFile],
    names: Sequence[str],
    steps: Mapping[str, Any],
  ) -> None:
    """Loads the model and goes through the images that lack a result."""
    args = self._args
    model = common.load(args.model)
    config = dataclasses.replace(model.config, **steps)

    def segment(chunk: Sequence[ImageFile]) -> Any:
      paths = [str(image.path) for image in chunk]
      if not names:
        return model.encode(paths, config, batch_size=args.batch)
      return model.segment(
        paths,
        list(names),
        config,
        templates=common.templates(args),
        batch_size=args.batch,
      )

    # Resolved: the folder that a link points to may still have to be made.
    args.out.resolve().mkdir(parents=True, exist_ok=True)
    # Several batches at a time: images are decoded ahead, and those of similar
    # shape go through the network together.
    results = common.each(images, segment, 4 * args.batch)
    # Quiet for one image, and where nobody looks (not a terminal).
    hidden = True if len(images) == 1 else None
    with tqdm.tqdm(total=len(images), unit='image', disable=hidden) as bar:
      try:
        for image, result in results:
          if isinstance(result, Exception):
            self._failures.add(result)
          else:
            self._write(image, result)
          bar.update()
      except KeyboardInterrupt:
        again = 'the same command' + ' without --overwrite' * args.overwrite
        raise KeyboardInterrupt(f'interrupted; {again} resumes it') from None

  def _write(self, image: ImageFile, result: Any) -> None:
    if getattr(result, 'unsure', False):
      common.complain(
        f'{image.path}: the model is unsure, no class stands out (entropy '
        f'{result.entropy:.2f} of 1); check that the labels fit the image',
        'warning',
      )
    stem = self._folder.stem(image)
    made, errors = {}, []
    for kind in self._folder.missing(image, self._args.show):
      try:
        contents = make(kind, result, str(image.path))
      except ValueError as error:
        errors.append(str(error))
        continue
      for ending, content in contents.items():
        path = self._args.out / f'{stem}{ending}'
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content)
        self._written.append(path)
      made[kind] = [f'{stem}{ending}' for ending in contents]
    if made:
      self._folder.add(image, made)
    if errors:
      self._failures.add(ValueError(f'{image.path}: {"; ".join(errors)}'))

  def summarize(self, count: int) -> int:
    """Prints how many images succeeded; returns the exit code."""
    if count == 1 and self._written:
      print('\n'.join(map(str, self._written)))
      return 0
    failed, skipped = self._failures.count, count - self._total
    parts = [f'{self._total - failed} segmented']
    parts += [f'{skipped} skipped as done before'] * bool(skipped)
    parts += [f'{failed} failed'] * bool(failed)
    noun = 'image' if count == 1 else 'images'
    print(f'{count} {noun}: {", ".join(parts)}; see {self._args.out}')
    return 1 if failed else 0


_MOST_SCORES = 2 << 30  # of 4 bytes


def make(kind: str, result: Any, source: str) -> Mapping[str, bytes]:
  """The files of a kind of result.

  Args:
    kind: one of `KINDS`.
    result: an `inference.Segmentation`; for 'groups' also `ImageRegions`.
    source: the image's path, for json.

  Returns:
    Contents by the ending of the file's name.

  Raises:
    ValueError: this segmentation has no such result; the message says why.
  """
  if kind == 'json':
    values = {'image': source, **result.summary()}
    text = json.dumps(values, indent=1, ensure_ascii=False)
    # Of a name that is not UTF-8, JSON can hold the escaped bytes.
    return {'.json': f'{text}\n'.encode(errors='backslashreplace')}
  if kind == 'scores':
    count, (height, width) = len(result.names), result.size
    if count * height * width > _MOST_SCORES:
      raise ValueError(
        f'scores of {count} classes at {width} x {height} pixels would take '
        'more than 8 GB: ask for fewer classes, or reduce the image'
      )
    buffer = io.BytesIO()
    np.savez_compressed(
      buffer, scores=result.scores, names=np.array(result.names)
    )
    return {'_scores.npz': buffer.getvalue()}
  if kind == 'groups':
    stages = range(len(result.groups))
    images = {f'groups_{i + 1}': result.groups_overlay(i) for i in stages}
  else:
    images = {kind: getattr(result, kind)()}
  return {f'_{name}.png': _png(image) for name, image in images.items()}


def _png(image: Image.Image) -> bytes:
  buffer = io.BytesIO()
  # Half the time of the default, for a few per cent of size.
  image.save(buffer, format='PNG', compress_level=4)
  return buffer.getvalue()
