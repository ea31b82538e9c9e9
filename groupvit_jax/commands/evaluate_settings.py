"""`--set FIELD=VALUE` of a command line, as plain values."""

from collections.abc import Sequence
from typing import Any

_WORDS = {'none': None, 'true': True, 'false': False}


def read(settings: Sequence[str]) -> dict[str, Any]:
  """Values by field, 'segment.' left out.

  Args:
    settings: texts such as 'top_k=none'. A value is none, true, false, a
      number, numbers between commas, or text.

  Raises:
    ValueError: one without a field or value, or a field that stands twice.
  """
  found = {}
  for text in settings:
    name, equals, value = text.partition('=')
    name = name.strip().removeprefix('segment.')
    if not (name and equals and value.strip()):
      raise ValueError(
        f'--set {text} does not say which field gets which value: write '
        'FIELD=VALUE, as in top_k=none'
      )
    if name in found:
      raise ValueError(f'--set has {name} twice; it can have one value')
    found[name] = _value(value.strip())
  return found


def _value(text: str) -> Any:
  if ',' in text:
    values = tuple(_value(part.strip()) for part in text.split(','))
    return values if all(map(_is_number, values)) else text
  if text.lower() in _WORDS:
    return _WORDS[text.lower()]
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)
