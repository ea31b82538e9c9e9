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
  """Pictures, and what names the class of each: all by the same key.

  Raises:
    SourceError: it cannot be read, or a line of it is otherwise; with its
      number.
  """
  rows, first = [], None
  for number, line in folders.numbered_lines(path):
    try:
      record = json.loads(line)
      picture = folders.picture_in(path.parent, record['image'])
      key = _key_of(record)
      rows.append((picture, _class_of(record, key)))
      first = first or (key, number)
      _check_key(key, *first)
    except (ValueError, KeyError, TypeError) as error:
      raise SourceError(
        f'{path}, line {number}, needs "image" and one of "wnid", "label" (a '
        f'whole number) and "name" as JSON ({error}).'
      ) from error
  return rows


def _key_of(record: Any) -> str:
  key = next((key for key in _KEYS if key in record), None)
  if key is None:
    raise KeyError('none of the three')
  return key


def _check_key(key: str, first: str, number: int) -> None:
  """An id among names would be a class of its own, called by its id."""
  if key != first:
    raise ValueError(
      f'its class goes by {key}, and that of line {number} by {first}: give '
      'the same in every line'
    )


def _class_of(record: Any, key: str) -> str | int:
  given = record[key]
  if type(given) is not _KEYS[key]:  # true is an int, but no label
    raise TypeError(f'its {key} is {json.dumps(given)}')
  if key == 'wnid' and given not in _IDS:
    raise ValueError(f"{given!r} is no WordNet id of ImageNet's")
  return given
