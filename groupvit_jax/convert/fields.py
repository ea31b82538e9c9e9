"""Values of JSON that others wrote, checked by msgspec.

A config.json comes from anywhere. Mistakes in it should not first show as an
error deep inside a model, and numbers in it should not allocate anything.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

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


TEXT = str
TEXTS = list[str]
FLAG = bool
ACTIVATION = Literal['gelu', 'quick_gelu']
NUMBER = Annotated[float, Meta(gt=-_BOUND, lt=_BOUND)]  # not of nan
FACTOR = Annotated[float, Meta(ge=0, le=1000)]
COUNT = Annotated[int, Meta(gt=0, lt=2**31)]
COUNT_FROM_0 = Annotated[int, Meta(ge=0, lt=2**31)]
COUNTS = list[COUNT_FROM_0]
SIDES = COUNT | Annotated[list[COUNT], Meta(min_length=2, max_length=2)]
SIDE = Annotated[int, Meta(gt=0, le=10_000)]
_THREE = Meta(min_length=3, max_length=3)
COLOUR = Annotated[list[NUMBER], _THREE]
DEVIATIONS = Annotated[list[Annotated[float, Meta(gt=1e-6, lt=_BOUND)]], _THREE]
MAPPING = dict[str, Any]
FIGURES = dict[str, float]  # metrics may be infinite
TEXTS_BY_NAME = dict[str, str]


def check(values: Any, kind: Any, where: str) -> None:
  """Checks values of JSON.

  Args:
    values: plain values.
    kind: a type of msgspec, such as one of this module.
    where: what the message calls the values, such as 'config.json'.

  Raises:
    ModelError: they are of another type, or beyond its limits.
  """
  try:
    msgspec.convert(values, kind)
  except UnicodeEncodeError:
    # A file name that is not UTF-8: msgspec refuses such texts.
    text = json.dumps(values, ensure_ascii=False).encode(errors='replace')
    check(json.loads(text), kind, where)
  except RecursionError as error:
    raise ModelError(f'{where} is nested too deeply') from error
  except msgspec.ValidationError as error:
    raise ModelError(f'{where}: {error}') from error


def get(
  values: Mapping[str, Any],
  name: str,
  kind: Any,
  where: str,
  default: Any = None,
) -> Any:
  """A value, or the default where there is none (or null).

  Args:
    values: an object of JSON.
    name: of the field.
    kind: its type.
    where: what the message calls the object, such as 'config.json'.
    default: for a field that is not there.

  Raises:
    ModelError: it is of another type.
  """
  value = values.get(name)
  if value is None:
    return default
  check(value, kind, f'{where}, {name}')
  return value


def need(values: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
  """The same of a field that has to be there; ModelError if it is not."""
  value = get(values, name, kind, where)
  if value is None:
    raise ModelError(f'{where} lacks {name}')
  return value
