"""Texts of a batch as a training step reads them: each once, cut, few rows.

Captions and prompts repeat within a batch, are shorter than the context, and
use few rows of a large vocabulary. All three are exact: texts are encoded with
causal attention and read at their end token, and a row of the table that no
text has used yet has no gradient and no moments.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from groupvit_jax import peers

# Shapes are rounded up to few values, since each one is compiled.
_STEP = 8  # tokens
_PARTS = 4  # of the texts of a batch
_ROWS = 256  # of the vocabulary, at least; then powers of two


class Texts:
  """Adds to a batch of numpy arrays what `state.make_train_step` reads of it.

  Attributes:
    used: bool by row of the vocabulary, whether a batch has used it; None if
      the optimizer changes all rows in every step.
    parts: the number of texts is a multiple of it times the devices.
  """

  def __init__(self, used: np.ndarray | None, parts: int = 1):
    self.used = used
    self.parts = parts
    self._rows: np.ndarray | None = None

  def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the batch with what it has of these.

    distinct: int32 u l, every text of `tokens` once, cut behind the longest,
      and padding texts; the shape depends on the batch alone.
    which: int32 b t, the text of `distinct` at each place of `tokens`.
    rows: int32 h, sorted, rows of the vocabulary; all that texts have used so
      far are among them.

    With several processes, which take the same shapes, `tokens` are cut behind
    the longest text of all of them, and nothing is added. They make the same
    number of calls.
    """
    tokens = batch['tokens']
    if jax.process_count() > 1:
      length = peers.largest(cut_length(tokens))
      return {**batch, 'tokens': np.ascontiguousarray(tokens[..., :length])}
    multiple = jax.device_count() * self.parts
    result = {**batch, **distinct(tokens, multiple)}
    if self.used is not None:
      self._use(self.used, np.unique(tokens))
      if self._rows is not None:
        result['rows'] = self._rows
    return result

  def _use(self, used: np.ndarray, ids: np.ndarray) -> None:
    if self._rows is not None and used[ids].all():
      return
    used[ids] = True
    rows, self._rows = np.flatnonzero(used), None
    bucket = 1 << (max(len(rows), _ROWS) - 1).bit_length()
    if bucket <= len(used) // 2:
      others = np.flatnonzero(~used)[: bucket - len(rows)]
      self._rows = np.sort(np.concatenate([rows, others])).astype(np.int32)


def distinct(tokens: np.ndarray, multiple: int) -> dict[str, np.ndarray]:
  """`distinct` and `which` of `Texts`, from tokens `b t l`.

  Args:
    tokens: ids whose highest in each row is the end token.
    multiple: the number of distinct texts is padded to a multiple of it.
  """
  rows = np.ascontiguousarray(tokens.reshape(-1, tokens.shape[-1]))
  keys = rows.view([('', rows.dtype)] * rows.shape[1])[:, 0]
  _, first, which = np.unique(keys, return_index=True, return_inverse=True)
  texts = rows[first]
  step = _up(-(-len(rows) // _PARTS), multiple)
  # Padding repeats a text: nothing reads it, so its gradient is zero.
  texts = np.resize(texts, (_up(len(texts), step), texts.shape[1]))
  return {
    'distinct': np.ascontiguousarray(texts[:, : cut_length(texts)]),
    'which': which.reshape(tokens.shape[:2]).astype(np.int32),
  }


def cut_length(tokens: np.ndarray) -> int:
  """Tokens that the longest text of `... l` needs, rounded up."""
  longest = int(tokens.argmax(axis=-1).max()) + 1
  return min(_up(longest, _STEP), tokens.shape[-1])


def _up(number: int, step: int) -> int:
  return -(-number // step) * step


def used_rows(params: Any, opt_state: Any) -> np.ndarray | None:
  """Rows of the vocabulary that the optimizer has moments of.

  Returns:
    Bool by row; None where the optimizer keeps no moments of the table.
  """
  used = np.zeros(params[TABLE[0]][TABLE[1]].shape[0], bool)
  found = []

  def look(x: Any) -> Any:
    found.append(np.asarray(x).any(axis=1))
    return x

  map_table(look, opt_state)
  return np.logical_or.reduce([used, *found]) if found else None


TABLE = 'text', 'tokens'  # of the parameters, and of the optimizer's moments


def map_table(function: Any, *trees: Any) -> Any:
  """Applies a function to the tables in trees of parameters or moments."""

  def at(path: Any, *leaves: Any) -> Any:
    names = tuple(getattr(key, 'key', None) for key in path[-2:])
    return function(*leaves) if names == TABLE else leaves[0]

  return jax.tree_util.tree_map_with_path(at, *trees)
