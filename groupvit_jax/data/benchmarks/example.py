"""What every labelled set gives: a picture with its truth, by position.

Pixels are decoded when they are asked for, so that threads can read ahead.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

IGNORED = 255


@dataclasses.dataclass(frozen=True)
class Example:
  """A picture and the class of each of its pixels.

  Fields:
    name: unique within its set.
    image: RGB pixels.
    label: positions in the set's `class_names`; 255 does not count.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']
  label: Int32[np.ndarray, 'h w']


@runtime_checkable
class LabelledSet(Protocol):
  """Pictures with label maps, by random access from any thread.

  `set[i]` raises ImageError, naming the file, for a picture that cannot be
  used: missing, unreadable, of another size than its truth, or with labels out
  of range. Others may be read all the same.

  Fields:
    class_names: in label order, 'background' first if there is one.
    background: whether class 0 is the background.
  """

  class_names: tuple[str, ...]
  background: bool

  def __len__(self) -> int: ...

  def name(self, index: int) -> str:
    """The name of an example, without reading it."""
    ...

  def __getitem__(self, index: int) -> Example: ...


class First:
  """The first examples of a set, for a quick look.

  Fields: as LabelledSet.
  """

  def __init__(self, examples: LabelledSet, count: int):
    if count < 1:
      raise ValueError(f'limit must be at least 1, not {count}.')
    self._examples = examples
    self._count = min(count, len(examples))
    self.class_names = examples.class_names
    self.background = examples.background

  def __len__(self) -> int:
    return self._count

  def name(self, index: int) -> str:
    return self._examples.name(range(self._count)[index])

  def __getitem__(self, index: int) -> Example:
    return self._examples[range(self._count)[index]]
