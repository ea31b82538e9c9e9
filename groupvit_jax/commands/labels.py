"""The class names of a command line: written out, a label set, or a file."""

import argparse
import pathlib
from typing import NamedTuple

# As data/label_sets.py has them; here for a --help that starts at once.
SETS = ('voc', 'voc20', 'context', 'context59', 'coco', 'ade20k', 'cityscapes')
_RELEASED = 0.95  # the threshold for VOC and COCO, and of the demo


class Labels(NamedTuple):
  """Class names, and the threshold under which a pixel is background.

  Attributes:
    names: of the classes, without the background.
    threshold: None for no background.
  """

  names: tuple[str, ...]
  threshold: float | None


def add(parser: argparse.ArgumentParser) -> None:
  """Declares --labels and --labels-from, one of which is required."""
  group = parser.add_mutually_exclusive_group(required=True)
  group.add_argument(
    '--labels',
    metavar='NAMES',
    help='class names between commas; a | between names of the same class: '
    '"person|man|woman,dog"',
  )
  group.add_argument(
    '--labels-from',
    metavar='SET',
    help=f'{", ".join(SETS)}, or a text file with a name per line; voc, '
    'context and coco have a background, voc20 and context59 have none',
  )


def read(args: argparse.Namespace) -> Labels:
  """The names that a command line asks for.

  Raises:
    ValueError: none, an empty one, or one that stands twice.
  """
  if args.labels is not None:
    names = tuple(' '.join(name.split()) for name in args.labels.split(','))
    threshold = _RELEASED
    option = '--labels'
  else:
    names, threshold = _read_set(args.labels_from)
    option = f'--labels-from {args.labels_from}'
  _check(names, option)
  return Labels(names, threshold)


def _read_set(name: str) -> tuple[tuple[str, ...], float | None]:
  from groupvit_jax.benchmarks import label_sets

  if name in SETS:
    threshold = label_sets.BACKGROUND_THRESHOLDS.get(name)
    return label_sets.LABEL_SETS[name], threshold
  path = pathlib.Path(name)
  if not path.exists():
    raise ValueError(
      f'{name} is no label set and no file: choose one of {", ".join(SETS)}, '
      'or give a text file with a name per line'
    )
  return label_sets.read_names(path), _RELEASED


def _check(names: tuple[str, ...], option: str) -> None:
  """Here as well as in the library: it costs nothing before a model loads."""
  if not any(names):
    raise ValueError(
      f'{option} names no class: give names between commas, as in "dog,grass"'
    )
  seen = set()
  for name in names:
    for word in name.split('|'):
      key = ' '.join(word.split()).lower()
      if not key:
        raise ValueError(f'{option} has an empty name: {_around(names, name)}')
      if key in seen:
        raise ValueError(
          f'{option} has {key[:60]!r} twice; each name may stand once'
        )
      seen.add(key)


def _around(names: tuple[str, ...], name: str) -> str:
  if name:
    return f'a part of {name[:60]!r} is empty'
  place = names.index(name)
  return f'after {names[place - 1][:60]!r}' if place else 'at the beginning'
