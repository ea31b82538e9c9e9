"""Symmetric image-text contrastive loss, and how losses are computed.

A loss is written as its equation, over this device's rows and everybody's
columns. Around it stand `on_mesh`, which splits the batch over devices,
`gather`, which collects the columns of all devices once for all losses, and
`map_columns` and `log_denominators`, which compare with a chunk at a time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from groupvit_jax import sharding

# Stands for minus infinity in a logsumexp. Finite, because over entries that
# are all -inf its gradient is NaN inside: hidden by the mask, but an alarm for
# jax_debug_nans.
MASKED = -1e30
# Names of the mesh axes that split a batch, as `on_mesh` gives them.
Axes = str | tuple[str, ...] | None


def contrastive_loss(
  image: Float[ArrayLike, 'b e'],
  text: Float[ArrayLike, 'b e'],
  logit_scale: Float[ArrayLike, ''],
  *,
  mesh: Mesh | None = None,
  chunk_size: int | None = None,
) -> Float[Array, '']:
  """Cross-entropy of the matching pair among the global batch, both ways.

  With the logits `l_ij = logit_scale * image_i . text_j` it is
  `-1/2b sum_i (log softmax_j(l_ij)_i + log softmax_j(l_ji)_i)` (GroupViT, arXiv
  2202.11094; the factor 1/2 is the released code's, the paper sums). Pair i
  matches only itself: the released code's labels `arange(b) + b * rank` are
  the diagonal of the global batch. Softmax and sums are float32.

  Args:
    image: unit vectors of the global batch.
    text: unit vectors; row i belongs to image i.
    logit_scale: factor on cosines, exponentiated and clamped.
    mesh: splits b over all of its devices. Every device then
      compares its own images with the texts of all. Call it inside jit on
      global arrays and differentiate from outside. None: one device.
    chunk_size: texts compared at a time, so that b x b logits never exist,
      forward or backward; None: all at once.

  Returns:
    The scalar loss, equal on every device.

  Raises:
    ValueError: b does not divide over the mesh, or chunk_size is below 1.
  """

  def loss(
    logit_scale: Array, image: Array, text: Array, axis: Axes = None
  ) -> Array:
    return contrastive_term(image, gather(text, axis), logit_scale, chunk_size)

  return on_mesh(loss, mesh, logit_scale, as_float32(image), as_float32(text))


@dataclasses.dataclass(frozen=True)
class Columns:
  """Arrays that every device compares its rows with.

  Attributes:
    own: array or tree of arrays, this device's part of the global batch first.
    everyones: the same of all devices, in their order.
    axis: of the mesh; None: one device, and the two are one.
  """

  own: Any
  everyones: Any
  axis: Axes = None

  def map(self, function: Callable[[Any], Any]) -> 'Columns':
    """The columns that a function makes of these."""
    return Columns(function(self.own), function(self.everyones), self.axis)


def gather(own: Any, axis: Axes) -> Columns:
  """Collects a tree of arrays from all devices; `axis` as `on_mesh` gives it.

  The gradient is reduce-scattered: each device receives the sum for its own.
  """
  if axis is None:
    return Columns(own, own)
  everyones = jax.lax.all_gather(own, axis, axis=0, tiled=True)
  return Columns(own, everyones, axis)


def contrastive_term(
  image: Float[Array, 'b e'],
  text: Columns,
  logit_scale: Float[Array, ''],
  chunk_size: int | None,
) -> Float[Array, '']:
  """`contrastive_loss` of this device's images, for use inside `on_mesh`."""

  def logits(texts: Array) -> Array:
    return logit_scale * similarity(image, texts)

  positive = logit_scale * jnp.sum(image * text.own, axis=-1)
  over_texts, over_images = log_denominators(logits, text, chunk_size)
  return 0.5 * jnp.mean((over_texts - positive) + (over_images - positive))


def similarity(
  rows: Float[Array, 'r e'] | Float[Array, 'r g e'],
  columns: Float[Array, 'c e'],
  precision: str | None = 'highest',
) -> Float[Array, 'r c']:
  """Cosine of every row with every column; the best group where there are some.

  Args:
    rows: unit vectors, or those of every group of an image.
    columns: unit vectors.
    precision: of the product. By default full float32: a TPU would round to
      bfloat16 and a GPU to TF32, and a scale of 100 multiplies that error.
      None: as jax does it on the device.

  Returns:
    The cosines; with groups the maximum over g. The gradient goes to that
    group, to the first of equal ones.
  """
  if rows.ndim == 2:
    return jnp.einsum('re,ce->rc', rows, columns, precision=precision)
  cosine = jnp.einsum('rge,ce->rgc', rows, columns, precision=precision)
  # The maximum, spelled so that its gradient is one product: that of jnp.max
  # divides among ties and took 3 to 4 times as long on a CPU.
  best = jnp.argmax(jax.lax.stop_gradient(cosine), axis=1)
  chosen = jax.nn.one_hot(best, cosine.shape[1], axis=1)
  return jnp.sum(cosine * chosen, axis=1)


def on_mesh(
  loss: Callable[..., Any],
  mesh: Mesh | None,
  scalars: Any,
  *batched: Any,
) -> Any:
  """Evaluates a loss whose rows are local and whose columns are global.

  Under a mesh the loss runs in `jax.shard_map`; an all_gather transposes to a
  reduce-scatter, so the gradient is that of the mean over the global batch. It
  has to be taken outside: inside shard_map, jax already sums the gradients of
  replicated values, and a pmean on top leaves them too large by the number of
  devices, silently.

  Args:
    loss: function of `(scalars, *batched)`, and of `axis`, the name of the
      mesh axis, under a mesh. Returns a mean over its rows, or a tree of them.
    mesh: of `sharding.make_mesh`; None: one device.
    scalars: the same on every device; one, or a tree of them.
    *batched: trees of arrays whose first axis is the global batch.

  Returns:
    The mean over the devices of what `loss` returns.

  Raises:
    ValueError: the batch does not divide over the mesh.
  """
  scalars = jax.tree.map(as_float32, scalars)
  if mesh is None:
    return loss(scalars, *batched)
  axis = sharding.batch_axes(mesh)
  devices, batch = mesh.size, _length(batched)
  if batch % devices:
    raise ValueError(
      f'A batch of {batch} does not divide over {devices} devices; choose a '
      'multiple (sharding.fit_batch_size rounds to one).'
    )

  def local(*arrays: Any) -> Any:
    return jax.lax.pmean(loss(*arrays, axis=axis), axis)

  specs = (PartitionSpec(), *(PartitionSpec(axis) for _ in batched))
  return jax.shard_map(
    local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec()
  )(scalars, *batched)


def log_denominators(
  logits: Callable[[Any], Array],
  columns: Columns,
  chunk_size: int | None,
  regions: int = 1,
) -> tuple[Float[Array, ' r'], Float[Array, ' c']]:
  """Logarithms of the softmax denominators, both ways.

  Args:
    logits: function of columns to the logits `r c` of this device's rows.
    columns: from `gather`.
    chunk_size, regions: as in `map_columns`.

  Returns:
    logsumexp of the logits of this device's rows over all columns, and of this
    device's columns over all rows. Each logit is computed once for both.
  """

  def part(columns: Any, valid: Any) -> tuple[Array, Array]:
    x = jnp.where(valid, logits(columns), MASKED)
    return jax.nn.logsumexp(x, axis=1), jax.nn.logsumexp(x, axis=0)

  of_rows, of_columns = map_columns(part, columns, chunk_size, regions)
  # So far over this device's rows only: device d gets what all devices have
  # for its columns.
  own, total = _length(columns.own), _length(columns.everyones)
  of_columns = of_columns.reshape(-1)[:total].reshape(-1, own)
  if axis := columns.axis:
    of_columns = jax.lax.all_to_all(of_columns, axis, 0, 0, tiled=True)
  lse = jax.nn.logsumexp
  return lse(of_rows, axis=0), lse(of_columns, axis=0)


def map_columns(
  part: Callable[[Any, Any], Any],
  columns: Columns,
  chunk_size: int | None,
  regions: int = 1,
) -> Any:
  """Compares with all columns chunk by chunk, recomputing each backwards.

  Args:
    part: function of `(columns, valid)` of a chunk; `valid` (True, or bool `c`)
      is False where a column is padding.
    columns: from `gather`.
    chunk_size: comparisons per chunk with each image; None: one chunk.
    regions: that an image compares with each column.

  Returns:
    The results of `part`, stacked along a new first axis of chunks.

  Raises:
    ValueError: chunk_size is below 1.
  """
  if chunk_size is not None and chunk_size < 1:
    raise ValueError(
      f'chunk_size is {chunk_size}; give at least 1 column, or None for all.'
    )
  total = _length(columns.everyones)
  size = max(chunk_size // regions, 1) if chunk_size else total
  if size >= total:
    return jax.tree.map(lambda x: x[None], part(columns.everyones, True))
  chunks = -(-total // size)
  padding = chunks * size - total

  def split(x: Array) -> Array:
    x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(chunks, size, *x.shape[1:])

  valid = (jnp.arange(chunks * size) < total).reshape(chunks, size)
  # Without the checkpoint the scan would keep every chunk's logits.
  step = jax.checkpoint(part, prevent_cse=False)
  split_columns = jax.tree.map(split, columns.everyones)
  return jax.lax.map(lambda x: step(*x), (split_columns, valid))


def as_float32(x: ArrayLike) -> Array:
  """The value as a float32 array; losses are float32 whatever the model is."""
  return jnp.asarray(x, jnp.float32)


def _length(tree: Any) -> int:
  """Length of the first axis, which all leaves share."""
  return jax.tree.leaves(tree)[0].shape[0]
