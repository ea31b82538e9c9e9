"""Random numbers of a scene, the same on every machine and numpy version.

Only numpy's raw bit stream is used, which numpy promises never to change; the
distributions of `Generator` carry no such promise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Number = float | int
_LENGTH = 256  # numbers in one stream; a thing uses well under half of them


class Rng:
  """One finite stream of uniform numbers, used up in order."""

  def __init__(self, values: list[float]):
    self._values = values
    self._next = 0

  def unit(self) -> float:
    """A number in [0, 1)."""
    value = self._values[self._next]
    self._next += 1
    return value

  def uniform(self, low: Number, high: Number) -> float:
    """A number in [low, high)."""
    return low + (high - low) * self.unit()

  def around(self, middle: Number, spread: Number) -> float:
    """A number within `spread` of `middle`, most often close to it."""
    return middle + spread * (self.unit() + self.unit() - 1.0)

  def chance(self, probability: Number) -> bool:
    """True with this probability."""
    return self.unit() < probability

  def below(self, count: int) -> int:
    """An integer in [0, count)."""
    return int(self.unit() * count)

  def choice(self, options: Sequence[Any]) -> Any:
    """One of the options, each as likely."""
    return options[self.below(len(options))]

  def weighted(self, options: Sequence[tuple[Any, int]]) -> Any:
    """One of `(option, weight)`, by weight."""
    left = self.unit() * sum(weight for _, weight in options)
    for option, weight in options:
      left -= weight
      if left < 0:
        return option
    return options[-1][0]

  def shuffled(self, items: Sequence[Any]) -> list[Any]:
    """The items in random order."""
    keys = [self.unit() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def streams(seed: int, index: int, count: int) -> list[Rng]:
  """Independent random numbers for scene `index` of `seed` (both from 0)."""
  bits = np.random.Philox(np.random.SeedSequence((seed, index)))
  raw = bits.random_raw(count * _LENGTH)
  values = ((raw >> np.uint64(11)) * 2.0**-53).reshape(count, _LENGTH)
  return [Rng(row) for row in values.tolist()]
