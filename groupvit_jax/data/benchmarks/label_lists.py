"""labels.jsonl: pictures and what names their class, a line each.

A line is an object with `image` and one of `wnid`, `label` (a number), `name`.
"""

import json
import pathlib
from typing import Any

from groupvit_jax.data.benchmarks import folders
from groupvit_jax.data.benchmarks.imagenet import IMAGENET_IDS
from groupvit_jax.errors import SourceError

NAME = 'labels.jsonl'
# The first of these that a line has names its class.
_KEYS = {'wnid': str, 'label': int, 'name': str}
_IDS = frozenset(IMAGENET_IDS)


def read(path: pathlib.Path) -> list[tuple[pathlib.Path, str | int]]:
  """Pictures, and what names the class of each: all numbers or all texts.

  Raises:
    SourceError: it cannot be read, or a line of it is otherwise; with its
      number.
  """
  rows = []
  for number, line in enumerate(folders.lines(path), 1):
    try:
      record = json.loads(line)
      rows.append((path.parent / record['image'], _class_of(record)))
      if type(rows[-1][1]) is not type(rows[0][1]):
        raise TypeError('numbers and names of classes do not go together')
    except (ValueError, KeyError, TypeError) as error:
      raise SourceError(
        f'{path}, line {number}, needs "image" and one of "wnid", "label" (a '
        f'whole number) and "name" as JSON ({error}).'
      ) from error
  return rows


def _class_of(record: Any) -> str | int:
  key = next((key for key in _KEYS if key in record), None)
  if key is None:
    raise KeyError('none of the three')
  given = record[key]
  if type(given) is not _KEYS[key]:  # true is an int, but no label
    raise TypeError(f'its {key} is {json.dumps(given)}')
  if key == 'wnid' and given not in _IDS:
    raise ValueError(f"{given!r} is no WordNet id of ImageNet's")
  return given
