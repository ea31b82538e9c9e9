"""Texts of a batch as a training step reads them: once a device, cut, few rows.

Captions and prompts repeat within a batch, are shorter than the context, and
use few rows of a large vocabulary. All three are exact: texts are encoded with
causal attention and read at their end token, and a row of the table that no
text has used yet has no gradient and no moments.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from groupvit_jax import peers, sharding

# Shapes are rounded up to few values, since each one is compiled.
_LENGTHS = 8, 16, 32, 48  # tokens; beyond them the context length
_SHORT = 16  # nearly all prompts and most captions have no more
_ROWS = 256  # of the vocabulary, at least; then powers of two

GROUPS = 'short', 'long'
ADDED = *GROUPS, 'which', 'rows'


class Texts:
  """Adds to a batch of numpy arrays what `state.make_train_step` reads of it.

  Attributes:
    mesh: of the step.
    used: bool by row of the vocabulary, whether a batch has used it; None if
      the optimizer changes all rows in every step.
    parts: the number of texts on a device is a multiple of it.
  """

  def __init__(
    self,
    mesh: jax.sharding.Mesh,
    used: np.ndarray | None = None,
    parts: int = 1,
  ):
    self.mesh = mesh
    self.used = used
    self.parts = parts
    self._rows: np.ndarray | None = None

  def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the batch with what it has of these.

    short, long: int32 u l, the texts of each device's images, each once, and
      padding; cut behind the longest of all devices. The long ones have more
      than `_SHORT` tokens; all are `long` where two arrays would be larger.
    which: int32 b t, the text at each place of `tokens`: its row among those of
      the same device, the long ones behind the padding of the short ones.
    rows: int32 h, sorted, rows of the vocabulary; all that texts have used so
      far are among them.

    The shapes of texts depend on the batch alone, that of `rows` on earlier
    ones too. Several processes make as many calls and agree on the shapes.
    """
    devices = len(self.mesh.local_devices)
    result = {**batch, **distinct(batch['tokens'], devices, self.parts)}
    if self.used is not None:
      self._use(self.used, np.unique(batch['tokens']))
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


def distinct(
  tokens: Int32[np.ndarray, 'b t l'], devices: int, parts: int = 1
) -> dict[str, np.ndarray]:
  """`short`, `long` and `which` of `Texts`.

  Args:
    tokens: ids whose highest in each row is the end token.
    devices: of this process.
    parts: the number of texts on a device is padded to a multiple of it.
  """
  context = tokens.shape[-1]
  found = [_each_once(rows) for rows in tokens.reshape(devices, -1, context)]
  sizes = [
    (len(x), len(y), len(x) + len(y), _longest(x), _longest(y))
    for x, y, _ in found
  ]
  agreed = peers.largest(np.max(sizes, axis=0).tolist())
  needed, lengths = agreed[:3], [bucket(x, context) for x in agreed[3:]]
  # Quarters of all texts; of long ones, mostly captions, halves of the images.
  images = tokens.shape[0] // devices
  places = images * tokens.shape[1]
  steps = [_up(-(-n // k), parts) for n, k in ((places, 4), (images, 2))]
  counts = [_up(n, step) for n, step in zip(needed[:2], steps, strict=True)]
  together = _up(needed[2], steps[0])
  if counts[1] and together * lengths[1] <= np.dot(counts, lengths):
    # Padded apart they would have more tokens.
    counts = [0, together]
    found = [(x[:0], np.concatenate([x, y]), rows) for x, y, rows in found]
  result = {}
  for i, name in enumerate(GROUPS):
    if counts[i]:
      padded = np.zeros((devices, counts[i], lengths[i]), np.int32)
      for to, groups in zip(padded, found, strict=True):
        to[: len(groups[i])] = groups[i][:, : lengths[i]]
      result[name] = padded.reshape(-1, lengths[i])
  which = [
    np.where(rows < len(short), rows, rows - len(short) + counts[0])
    for short, _, rows in found
  ]
  shape = tokens.shape[:2]
  return {**result, 'which': np.stack(which).reshape(shape).astype(np.int32)}


def _each_once(
  rows: Int32[np.ndarray, 'n l'],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Distinct texts, short and long ones, and the one that each row is."""
  rows = np.ascontiguousarray(rows)
  keys = rows.view((np.void, rows.strides[0]))[:, 0]  # compared as bytes
  _, first, which = np.unique(keys, return_index=True, return_inverse=True)
  texts = rows[first]
  long = texts.argmax(axis=1) >= _SHORT
  order = np.argsort(long, kind='stable')
  short, long = np.split(texts[order], [np.count_nonzero(~long)])
  return short, long, np.argsort(order)[which]


def _longest(texts: np.ndarray) -> int:
  """Tokens of the longest of texts `n l`; 0 for none."""
  return int((texts.argmax(axis=1) + 1).max(initial=0))


def bucket(length: int, context: int) -> int:
  """Tokens that texts of at most `length` tokens are padded to."""
  return next((x for x in _LENGTHS if length <= x < context), context)


def _up(number: int, step: int) -> int:
  return -(-number // step) * step


def encoded(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The texts of a batch that are encoded: arrays u l by name."""
  if 'which' not in batch:
    return {'tokens': batch['tokens'].reshape(-1, batch['tokens'].shape[-1])}
  return {name: batch[name] for name in GROUPS if name in batch}


def in_place(
  features: Mapping[str, jax.Array],
  batch: Mapping[str, Any],
  mesh: jax.sharding.Mesh | None,
) -> jax.Array:
  """Features of all texts, b*t d, from those of `encoded`, u d by name.

  The gradient of a text is the sum over its places.
  """
  if 'which' not in batch:
    return features['tokens']

  def place(which: jax.Array, *texts: jax.Array) -> jax.Array:
    return jnp.concatenate(texts)[which.reshape(-1)]

  groups = [features[name] for name in GROUPS if name in features]
  return sharding.on_each_device(place, mesh, batch['which'], *groups)


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
