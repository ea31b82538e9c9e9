"""What the report's sections share: classes, escaped text, numbers, tables.

Whatever comes from outside reaches the page through `text`.
"""

import html
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np


class Classes(NamedTuple):
  """Names and RGB colours by class index."""

  names: tuple[str, ...]
  colours: np.ndarray


def text(value: Any) -> str:
  """Anything as HTML text, safe between tags and inside attributes."""
  return html.escape(str(value), quote=True)


def sentence(words: str) -> str:
  """The same, beginning with a capital letter."""
  return words[:1].upper() + words[1:]


def table(rows: Mapping[str, str]) -> str:
  """A row for each name; empty text if there is none."""
  cells = ''.join(
    f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
    for name, value in rows.items()
  )
  return f'<table class="table">{cells}</table>' if cells else ''


def is_number(value: Any) -> bool:
  """Whether it can be printed and drawn: a finite number."""
  if isinstance(value, bool) or not isinstance(
    value, (int, float, np.integer, np.floating)
  ):
    return False
  return math.isfinite(value)


def clip(percent: Real) -> float:
  """Within 0 to 100, the length of a meter."""
  return min(100.0, max(0.0, float(percent)))


def count(value: Real) -> str:
  """1,200 for 1200."""
  return f'{value:,.0f}'
