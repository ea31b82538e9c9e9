"""Values of JSON that others wrote: each of its kind, or refused by name.

A config.json comes from anywhere; what is wrong in it should not first show as
an error deep inside a model.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from groupvit_jax.errors import ModelError


class Kind(NamedTuple):
  """What a value should be: in words for a message, and as a test."""

  words: str
  fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
  return type(value) in (int, float)


def _is_count(value: Any) -> bool:
  return type(value) is int and value > 0


def _each(fits: Callable[[Any], bool], *lengths: int):
  return lambda values: (
    isinstance(values, list | tuple)
    and all(map(fits, values))
    and (not lengths or len(values) in lengths)
  )


TEXT = Kind('a text', lambda value: isinstance(value, str))
TEXTS = Kind('a list of texts', _each(TEXT.fits))
NUMBER = Kind('a number', _is_number)
COUNT = Kind('a whole number above 0', _is_count)
COUNTS = Kind(
  'a list of whole numbers', _each(lambda n: type(n) is int and n >= 0)
)
SIDES = Kind(
  'a whole number above 0 or two of them',
  lambda value: _is_count(value) or _each(_is_count, 2)(value),
)
COLOUR = Kind('three numbers', _each(_is_number, 3))
MAPPING = Kind('an object', lambda value: isinstance(value, Mapping))
NUMBERS_BY_NAME = Kind(
  'an object of numbers',
  lambda value: MAPPING.fits(value) and all(map(_is_number, value.values())),
)
TEXTS_BY_NAME = Kind(
  'an object of texts',
  lambda value: MAPPING.fits(value) and all(map(TEXT.fits, value.values())),
)


def get(
  values: Mapping[str, Any], name: str, kind: Kind, where: str, default=None
) -> Any:
  """A value, or the default where there is none (or null).

  Args:
    values: an object of JSON.
    name: of the field.
    kind: one of the kinds of this module.
    where: what the message calls the object, such as 'config.json'.
    default: for a field that is not there.

  Raises:
    ModelError: it is of another kind.
  """
  value = values.get(name)
  if value is None:
    return default
  if not kind.fits(value):
    raise ModelError(
      f'{where}: {name} should be {kind.words}, and is {repr(value)[:80]}'
    )
  return value


def need(values: Mapping[str, Any], name: str, kind: Kind, where: str) -> Any:
  """The same of a field that has to be there; ModelError if it is not."""
  value = get(values, name, kind, where)
  if value is None:
    raise ModelError(f'{where} lacks {name}')
  return value
