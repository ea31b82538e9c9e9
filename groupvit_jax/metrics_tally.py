"""Whole numbers that are summed on the device without overflow.

What is counted in integers never depends on batch size, padding, the number of
devices or processes, or on where a run was interrupted.
"""

from typing import Any

import flax
import numpy as np
from jaxtyping import Array, Int

# A cell of a confusion matrix may pass 2^31 pixels (ImageNet-S: 10^10), and
# int64 is off by default in JAX: count in two int32 limbs of base 2^30.
_LIMB_BITS = 30


@flax.struct.dataclass
class Tally:
  """An array of counts, exact up to 2^61 per cell.

  Attributes:
    low: int32, counts modulo 2^30.
    high: int32, counts divided by 2^30.
  """

  # Any: JAX rebuilds pytrees with placeholders that are not arrays.
  low: Any
  high: Any

  @classmethod
  def from_counts(cls, counts: Int[Array, '*n']) -> 'Tally':
    """The tally of one batch's counts (int32, not negative)."""
    return cls(low=counts % 2**_LIMB_BITS, high=counts // 2**_LIMB_BITS)

  def merge(self, other: 'Tally') -> 'Tally':
    """Adds the counts of two disjoint sets, with the carry."""
    low = self.low + other.low
    return type(self)(
      low=low % 2**_LIMB_BITS,
      high=self.high + other.high + low // 2**_LIMB_BITS,
    )

  def compute(self) -> np.ndarray:
    """The counts on the host, int64."""
    high = np.asarray(self.high, np.int64) << _LIMB_BITS
    return np.asarray(high + np.asarray(self.low, np.int64))
