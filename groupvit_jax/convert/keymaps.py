"""Tables of names: the parameters of a PyTorch state dict, and ours.

A table reads both ways. A name that no row maps, that comes twice, or that is
missing is an error that names it: weights are never guessed.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from groupvit_jax.errors import ModelError

SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Layout:
  """How PyTorch stores an array that we store otherwise, and back."""

  to_flax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # (out, in) to (in, out)
# (out, in, h, w) to (h, w, in, out).
CONV2D = Layout(
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
# (out, in, 1): a linear layer written as a convolution over tokens.
CONV1D = Layout(lambda x: x[..., 0].T, lambda x: x.T[..., None])


@dataclasses.dataclass(frozen=True)
class Row:
  """One array, or one array in each of many blocks.

  Attributes:
    theirs: name in the state dict; `{layer}` stands for a number.
    ours: path in the flax variables below the collection, with the same
      numbers.
    layout: how the two differ.
    part, parts: which part along the last axis of ours, where theirs are apart
      (q, k and v) and ours one array.
    collection: 'params' or 'batch_stats'.
  """

  theirs: str
  ours: str
  layout: Layout = SAME
  part: int = 0
  parts: int = 1
  collection: str = 'params'

  @property
  def path(self) -> str:
    return f'{self.collection}/{self.ours}'


def linear(
  theirs: str,
  ours: str,
  part: int = 0,
  parts: int = 1,
  layout: Layout = LINEAR,
  bias: bool = True,
) -> tuple[Row, ...]:
  """Rows of a linear layer, or of one that is part of a fused one of ours."""
  rows = [
    Row(f'{theirs}.weight', f'{ours}/kernel', layout, part, parts),
    Row(f'{theirs}.bias', f'{ours}/bias', SAME, part, parts),
  ]
  return tuple(rows if bias else rows[:1])


def norm(theirs: str, ours: str) -> tuple[Row, ...]:
  """Rows of a layer norm, or of the parameters of a batch norm."""
  return (
    Row(f'{theirs}.weight', f'{ours}/scale'),
    Row(f'{theirs}.bias', f'{ours}/bias'),
  )


def batch_norm(theirs: str, ours: str) -> tuple[Row, ...]:
  """Rows of a batch norm: parameters and running statistics."""
  stats = (('running_mean', 'mean'), ('running_var', 'var'))
  return norm(theirs, ours) + tuple(
    Row(f'{theirs}.{a}', f'{ours}/{b}', collection='batch_stats')
    for a, b in stats
  )


def under(theirs: str, ours: str, rows: Iterable[Row]) -> tuple[Row, ...]:
  """The rows of a module, below the module that holds it."""
  return tuple(
    dataclasses.replace(
      row, theirs=f'{theirs}.{row.theirs}', ours=f'{ours}/{row.ours}'
    )
    for row in rows
  )


def split_qkv(theirs: Sequence[str], ours: str) -> tuple[Row, ...]:
  """Rows of linear layers that are one fused layer here."""
  rows = ()
  for i, name in enumerate(theirs):
    rows += linear(name, ours, i, len(theirs))
  return rows


class KeyMap:
  """A table of rows, usable both ways.

  Attributes:
    title: what the names belong to, for messages.
    marker: a name that only such a state dict holds.
  """

  def __init__(
    self,
    title: str,
    marker: str,
    rows: Iterable[Row],
    ignored: Sequence[str] = (),
  ):
    """Takes rows, and patterns of names that carry no weight."""
    self.title = title
    self.marker = marker
    self._theirs = [(_pattern(row.theirs), row) for row in rows]
    by_path = collections.defaultdict(list)
    for _, row in self._theirs:
      by_path[row.path].append(row)
    self._ours = [(_pattern(path), rows) for path, rows in by_path.items()]
    self._ignored = re.compile('|'.join(ignored) or r'(?!)')

  def to_flax(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our variables of a state dict, or of gradients by the same names.

    Args:
      state: arrays by their PyTorch names.

    Returns:
      Arrays by path ('params/image/norm/scale').

    Raises:
      ModelError: for names that no row maps or that mean the same array, for
        parts of a fused array that are not there, and for arrays without the
        axes that they should have.
    """
    found = collections.defaultdict(dict)
    unmapped, doubled, missing, misshapen = [], [], [], []
    for name, value in state.items():
      if self._ignored.fullmatch(name):
        continue
      place = self._find(name)
      if place is None:
        unmapped.append(name)
        continue
      path, row = place
      if row.part in found[path]:
        doubled.append(name)
      try:
        found[path][row.part] = row.layout.to_flax(value)
      except (ValueError, IndexError):  # it has other axes
        misshapen.append(f'{name}: {value.shape}')
    for path, parts in found.items():
      names = self.names(path)
      missing += [n for i, n in enumerate(names) if i not in parts]
    self.refuse(
      misshapen=misshapen, unmapped=unmapped, doubled=doubled, missing=missing
    )
    return {path: self._join(path, parts) for path, parts in found.items()}

  def to_torch(self, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of our variables (by path); ModelError as `to_flax`."""
    state, unmapped = {}, []
    for path, value in flat.items():
      names = self.names(path)
      if not names:
        unmapped.append(path)
        continue
      rows = self._rows(path)
      parts = np.split(value, len(rows), axis=-1) if len(rows) > 1 else [value]
      for name, row, part in zip(names, rows, parts, strict=True):
        state[name] = row.layout.to_torch(part)
    self.refuse(unmapped=unmapped)
    return state

  def names(self, path: str) -> list[str]:
    """Their names of the parts of one of our arrays; [] if it has none."""
    for pattern, rows in self._ours:
      if match := pattern.fullmatch(path):
        rows = sorted(rows, key=lambda row: row.part)
        return [row.theirs.format(**match.groupdict()) for row in rows]
    return []

  def refuse(self, **problems: Sequence[str]) -> None:
    """ModelError that lists names by what is wrong with them, if any are."""
    told = [_tell(kind, names) for kind, names in problems.items() if names]
    if told:
      raise ModelError(f'not the weights of {self.title}: {"; ".join(told)}')

  def _join(self, path: str, parts: Mapping[int, np.ndarray]) -> np.ndarray:
    arrays = [parts[i] for i in sorted(parts)]
    if len(arrays) == 1:
      return arrays[0]
    shapes = [x.shape for x in arrays]
    if not arrays[0].ndim or len(set(shapes)) > 1:
      named = zip(self.names(path), shapes, strict=True)
      self.refuse(misshapen=[f'{name}: {shape}' for name, shape in named])
    return np.concatenate(arrays, axis=-1)

  def _find(self, name: str) -> tuple[str, Row] | None:
    for pattern, row in self._theirs:
      if match := pattern.fullmatch(name):
        return row.path.format(**match.groupdict()), row
    return None

  def _rows(self, path: str) -> list[Row]:
    for pattern, rows in self._ours:
      if pattern.fullmatch(path):
        return sorted(rows, key=lambda row: row.part)
    return []


def _pattern(template: str) -> re.Pattern:
  """Matches a template; every `{name}` is a number, and equal ones agree."""
  escaped = re.escape(template)
  return re.compile(re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>\\d+)', escaped))


def _tell(kind: str, names: Sequence[str]) -> str:
  shown = ', '.join(names[:SHOWN])
  more = f', and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
  return f'{len(names)} {kind} ({shown}{more})'
