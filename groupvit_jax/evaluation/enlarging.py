"""Scores at a picture's own size: enlarged bilinearly, then compared.

The places and weights are computed once, on the host, and both the host and the
device mix in the same order, so that both find the same labels.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Numbers that one step works on: what a CPU's cache holds, and what keeps an
# accelerator busy without filling its memory.
_CPU_STEP, _STEP = 2**20, 2**26


class Taps(NamedTuple):
  """Where enlarged pixels of b pictures lie between old ones, along one side.

  Attributes:
    first, second: int32 b n, both neighbours.
    weight: float32 b n, the second's.
  """

  first: Any
  second: Any
  weight: Any


def taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Both neighbours of each new pixel, and the second's weight (float32).

  As PyTorch places them with align_corners=False.
  """
  return neighbours((np.arange(new) + 0.5) * (old / new) - 0.5, old)


def neighbours(
  places: Float[np.ndarray, 'n'], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Both pixels around each place, and the second's weight (float32)."""
  places = np.clip(places, 0, count - 1)
  first = np.floor(places).astype(np.intp)
  weight = (places - first).astype(np.float32)
  return first, np.minimum(first + 1, count - 1), weight


def mix(first: Any, second: Any, weight: Any) -> Any:
  """The values in between; always in this order, so that all round alike."""
  return first * (1 - weight) + second * weight


def padded_taps(sides: Sequence[tuple[int, int]], length: int) -> Taps:
  """`taps` of several pictures, filled up to a static length.

  Args:
    sides: (old, new) of each picture.
    length: at least every `new`.

  Returns:
    Numpy arrays; what fills up reads the first pixel.
  """
  first = np.zeros((2, len(sides), length), np.int32)
  weight = np.zeros((len(sides), length), np.float32)
  for i, (old, new) in enumerate(sides):
    first[0, i, :new], first[1, i, :new], weight[i, :new] = taps(old, new)
  return Taps(first[0], first[1], weight)


def by_rows(
  function: Callable[[Array], Any],
  scores: Float[Array, 'b h w k'],
  rows: Taps,
  columns: Taps,
) -> Any:
  """Enlarges some rows at a time and asks `function` about them.

  Nothing of the size of the enlarged picture times its classes is ever held.

  Args:
    function: of enlarged scores, b r W k, to a tree of arrays b r W.
    scores: at the size that the network saw.
    rows, columns: from `padded_taps`, for H rows and W columns.

  Returns:
    The tree, its arrays b H W.
  """
  batch, height = rows.first.shape
  width = max(columns.first.shape[1], scores.shape[2])
  limit = _CPU_STEP if jax.default_backend() == 'cpu' else _STEP
  step = max(1, limit // (batch * width * scores.shape[3]))
  blocks = -(-height // step)
  step = -(-height // blocks)

  def block(part):
    above, below = (_rows(scores, index) for index in part[:2])
    mixed = mix(above, below, part.weight[:, :, None, None])
    left, right = (_columns(mixed, index) for index in columns[:2])
    return function(mix(left, right, columns.weight[:, None, :, None]))

  if blocks == 1:
    return block(rows)
  fill = ((0, 0), (0, blocks * step - height))
  parts = jax.tree.map(
    lambda x: jnp.pad(x, fill).reshape(batch, blocks, step).swapaxes(0, 1),
    rows,
  )

  def join(x):
    x = x.swapaxes(0, 1)
    return x.reshape(batch, blocks * step, *x.shape[3:])[:, :height]

  return jax.tree.map(join, jax.lax.map(block, parts))


_rows = jax.vmap(lambda scores, index: scores[index])
_columns = jax.vmap(lambda scores, index: scores[:, index])
