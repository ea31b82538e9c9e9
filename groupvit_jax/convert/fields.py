"""Values of JSON that others wrote: each of its kind, or refused by name.

A config.json comes from anywhere. Mistakes in it should not first show as an
error deep inside a model, and numbers in it should not allocate anything.
"""

import json
import pathlib
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from groupvit_jax.errors import ModelError

# Bytes of a JSON file: an index of the shards of a large model has 1e5.
_LARGEST = 2**24
# Numbers beyond it have no place in a config, and overflow in formats.
_BOUND = 1e30


def read_json(path: pathlib.Path) -> Any:
  """The content of a JSON file.

  Raises:
    ModelError: it cannot be read, is too large, nested too deeply, or no JSON.
  """
  try:
    with path.open('rb') as file:
      content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
      raise ModelError(f'{path} has more than {_LARGEST} bytes')
    return json.loads(content)
  except RecursionError as error:
    raise ModelError(f'{path} is nested too deeply') from error
  except OSError as error:
    raise ModelError(f'{path} is not readable: {error.strerror}') from error
  except ModelError:
    raise
  except ValueError as error:
    raise ModelError(f'{path} is not readable as JSON ({error})') from error


class Kind(NamedTuple):
  """What a value should be: in words for a message, and as a test."""

  words: str
  fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and abs(value) < _BOUND  # not of nan


def _is_figure(value: Any) -> bool:
  """A number, or one that is not finite, as metrics may be."""
  return isinstance(value, float) or _is_number(value)


def _is_count(value: Any) -> bool:
  return type(value) is int and 0 < value < 2**31


def _each(fits: Callable[[Any], bool], *lengths: int) -> Callable[[Any], bool]:
  return lambda values: (
    isinstance(values, list | tuple)
    and all(map(fits, values))
    and (not lengths or len(values) in lengths)
  )


TEXT = Kind('a text', lambda value: isinstance(value, str))
TEXTS = Kind('a list of texts', _each(TEXT.fits))
FLAG = Kind('true or false', lambda value: isinstance(value, bool))
NUMBER = Kind('a number', _is_number)
FACTOR = Kind(
  'a number from 0 to 1000',
  lambda value: _is_number(value) and 0 <= value <= 1e3,
)
COUNT = Kind('a whole number above 0', _is_count)
COUNTS = Kind(
  'a list of whole numbers', _each(lambda n: n == 0 or _is_count(n))
)
COUNT_FROM_0 = Kind(
  'a whole number of at least 0', lambda n: n is not False and COUNTS.fits([n])
)
SIDES = Kind(
  'a whole number above 0 or two of them',
  lambda value: _is_count(value) or _each(_is_count, 2)(value),
)
SIDE = Kind(
  'a whole number from 1 to 10000',
  lambda value: _is_count(value) and value <= 10_000,
)
COLOUR = Kind('three numbers', _each(_is_number, 3))
DEVIATIONS = Kind(
  'three numbers above 0', _each(lambda x: _is_number(x) and x > 1e-6, 3)
)
MAPPING = Kind('an object', lambda value: isinstance(value, Mapping))
FIGURES = Kind(
  'an object of numbers',
  lambda value: MAPPING.fits(value) and all(map(_is_figure, value.values())),
)
TEXTS_BY_NAME = Kind(
  'an object of texts',
  lambda value: MAPPING.fits(value) and all(map(TEXT.fits, value.values())),
)


def get(
  values: Mapping[str, Any],
  name: str,
  kind: Kind,
  where: str,
  default: Any = None,
) -> Any:
  """A value, or the default where there is none (or null).

  Args:
    values: an object of JSON.
    name: of the field.
    kind: what it should be.
    where: what the message calls the object, such as 'config.json'.
    default: for a field that is not there.

  Raises:
    ModelError: it is of another kind.
  """
  value = values.get(name)
  if value is None:
    return default
  if not kind.fits(value):
    shown = reprlib.repr(value)[:80]
    raise ModelError(f'{where}: {name} should be {kind.words}, and is {shown}')
  return value


def need(values: Mapping[str, Any], name: str, kind: Kind, where: str) -> Any:
  """The same of a field that has to be there; ModelError if it is not."""
  value = get(values, name, kind, where)
  if value is None:
    raise ModelError(f'{where} lacks {name}')
  return value
