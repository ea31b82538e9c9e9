"""Values of JSON that others wrote, checked by msgspec.

A config.json comes from anywhere. Mistakes in it should not first show as an
error deep inside a model, and numbers in it should not allocate anything.
"""

import json
import pathlib
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from groupvit_jax.errors import ModelError

T = TypeVar('T')

# Bytes of a JSON file: an index of the shards of a large model has 1e5.
_LARGEST = 2**24
# Numbers beyond it have no place in a config, and overflow in formats.
_BOUND = 1e30

NUMBER = Annotated[float, Meta(gt=-_BOUND, lt=_BOUND)]  # not of nan
FACTOR = Annotated[float, Meta(ge=0, le=1000)]
COUNT = Annotated[int, Meta(gt=0, lt=2**31)]
COUNT_FROM_0 = Annotated[int, Meta(ge=0, lt=2**31)]
COUNTS = list[COUNT_FROM_0]
SIDES = COUNT | Annotated[list[COUNT], Meta(min_length=2, max_length=2)]
ACTIVATION = Literal['quick_gelu', 'gelu']
SIDE = Annotated[int, Meta(gt=0, le=10_000)]
_THREE = Meta(min_length=3, max_length=3)
COLOUR = Annotated[list[NUMBER], _THREE]
DEVIATIONS = Annotated[list[Annotated[float, Meta(gt=1e-6, lt=_BOUND)]], _THREE]


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    ModelError: it cannot be read, is too large, nested too deeply, or no JSON
      object.
  """
  if path.exists() and not path.is_file():  # a pipe would never end
    raise ModelError(f'{path} is no file')
  try:
    with path.open('rb') as file:
      content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
      raise ModelError(f'{path} has more than {_LARGEST} bytes')
    values = json.loads(content)
  except RecursionError as error:
    raise ModelError(f'{path} is nested too deeply') from error
  except OSError as error:
    raise ModelError(f'{path} is not readable: {error.strerror}') from error
  except ModelError:
    raise
  except ValueError as error:
    raise ModelError(f'{path} is not readable as JSON ({error})') from error
  if not isinstance(values, dict):
    raise ModelError(f'{path} holds a {type(values).__name__}, not an object')
  return values


def parse(values: Any, kind: type[T], where: str) -> T:
  """Values of JSON as a msgspec type.

  Args:
    values: plain values.
    kind: a Struct or TypedDict; fields that it does not declare are left out.
    where: what the message calls the values, such as 'config.json'.

  Raises:
    ModelError: they are of another type, or beyond its limits.
  """
  try:
    return msgspec.convert(values, kind)
  except UnicodeEncodeError:
    # A file name that is not UTF-8: msgspec refuses such texts.
    text = json.dumps(values, ensure_ascii=False).encode(errors='replace')
    return parse(json.loads(text), kind, where)
  except RecursionError as error:
    raise ModelError(f'{where} is nested too deeply') from error
  except msgspec.ValidationError as error:
    raise ModelError(f'{where}: {error}') from error
