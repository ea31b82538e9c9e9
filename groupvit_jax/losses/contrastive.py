"""Symmetric image-text contrastive loss, sharded over devices and chunked.

Also the two building blocks that the contrastive losses share: `on_mesh`
(global negatives under a mesh) and `both_ways` (row sums in chunks).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float

AXIS = 'data'  # the mesh axis that splits the batch, as in sharding.make_mesh

# Stands for minus infinity in a logsumexp. Finite, because over entries that
# are all -inf its gradient is NaN inside: hidden by the mask, but an alarm for
# jax_debug_nans.
MASKED = -1e30

Rows = Float[Array, 'r e'] | Float[Array, 'r g e']
Columns = Float[Array, 'c e'] | Float[Array, 'c g e']


def contrastive_loss(
  image: Float[Array, 'b e'],
  text: Float[Array, 'b e'],
  scale: Float[ArrayLike, ''],
  *,
  mesh: Mesh | None = None,
  chunk_size: int | None = None,
) -> Float[Array, '']:
  """Cross-entropy of the matching pair among the global batch, both ways.

  The mean of the image-to-text and the text-to-image loss (GroupViT, arXiv
  2202.11094; the factor 0.5 is the released code's, the paper sums). Pair i
  matches only itself: the released code's labels `arange(b) + b * rank` are
  the diagonal of the global batch. Softmax and sums are float32.

  Args:
    image: Unit vectors `b e` of the global batch.
    text: Unit vectors `b e`, row i belongs to image i.
    scale: Inverse temperature, already exponentiated and clamped.
    mesh: Mesh with an axis 'data' that splits b. Every device then compares
      its own rows with the embeddings gathered from all. Call it inside jit on
      global arrays and differentiate from outside. None: plain mathematics
      on whole arrays.
    chunk_size: Columns compared at a time, so that b x b logits never exist,
      forward or backward; None: all at once.

  Returns:
    The scalar loss, equal on every device.

  Raises:
    ValueError: b does not divide over the mesh, or chunk_size is below 1.
  """

  def loss(gather, scale, image, text):
    own = scale * jnp.sum(image * text, axis=-1)
    sums = log_denominators(gather, scale, image, text, chunk_size)
    return 0.5 * sum(jnp.mean(x - own) for x in sums)

  return on_mesh(loss, mesh, scale, as_float32(image), as_float32(text))


def on_mesh(
  loss: Callable[..., Array], mesh: Mesh | None, scale: ArrayLike, *batched: Any
) -> Float[Array, '']:
  """Evaluates a loss whose rows are local and whose columns are global.

  Under a mesh the loss runs in `jax.shard_map`; its all_gather transposes to a
  reduce-scatter, so the gradient is that of the mean over the global batch. It
  has to be taken outside: inside shard_map, jax already sums the gradients of
  replicated values, and a pmean on top leaves them too large by the number of
  devices, silently.

  Args:
    loss: Function of `(gather, scale, *batched)`; `gather` turns the local
      rows of an array into those of all devices. Returns a mean over rows.
    mesh: Mesh with an axis 'data', or None for a single device.
    scale: Scalar, the same on every device.
    *batched: Arrays whose first axis is the global batch.

  Returns:
    The mean of the loss over the devices.

  Raises:
    ValueError: The batch does not divide over the mesh.
  """
  scale = as_float32(scale)
  if mesh is None:
    return loss(lambda x: x, scale, *batched)
  devices, batch = mesh.shape[AXIS], batched[0].shape[0]
  if batch % devices:
    raise ValueError(
      f'A batch of {batch} does not divide over {devices} devices; choose a '
      'multiple (sharding.fit_batch_size rounds to one).'
    )

  def local(scale, *batched):
    def gather(x):
      return jax.lax.all_gather(x, AXIS, axis=0, tiled=True)

    return jax.lax.pmean(loss(gather, scale, *batched), AXIS)

  specs = (PartitionSpec(), *(PartitionSpec(AXIS) for _ in batched))
  return jax.shard_map(
    local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec()
  )(scale, *batched)


def log_denominators(
  gather: Callable[[Array], Array],
  scale: Float[Array, ''],
  rows: Rows,
  columns: Columns,
  chunk_size: int | None,
) -> tuple[Float[Array, ' r'], Float[Array, ' c']]:
  """Logarithms of the softmax denominators, both ways.

  Args:
    gather: As `on_mesh` gives it.
    scale: Inverse temperature.
    rows: This device's unit vectors, as in `similarity`.
    columns: This device's unit vectors, as in `similarity`.
    chunk_size: As in `map_columns`.

  Returns:
    logsumexp of the logits of the rows over all columns, and of the columns
    over all rows.
  """

  def compare(rows, columns):
    return scale * similarity(rows, columns)

  def reduce(logits, valid):
    return jax.nn.logsumexp(jnp.where(valid, logits, MASKED), axis=1)

  parts = both_ways(compare, reduce, gather, rows, columns, chunk_size)
  return tuple(jax.nn.logsumexp(part, axis=0) for part in parts)


def both_ways(
  compare: Callable[[Any, Any], Any],
  reduce: Callable[[Any, Any], Any],
  gather: Callable[[Array], Array],
  rows: Any,
  columns: Any,
  chunk_size: int | None,
) -> tuple[Any, Any]:
  """Reduces local rows over global columns, and the other way round.

  Args:
    compare: Function of (rows, columns) to matrices `r c`, a tree of them;
      with its arguments swapped it gives the transposed.
    reduce: Function of those matrices, and of `valid` as in `map_columns`,
      that reduces the axis of the columns.
    gather: As `on_mesh` gives it.
    rows: Array or tree of arrays with the local rows first.
    columns: Likewise.
    chunk_size: As in `map_columns`.

  Returns:
    The reductions per row and per column, a first axis of chunks added.
  """

  def one_way(rows, columns):
    def part(columns, valid):
      return reduce(compare(rows, columns), valid)

    return map_columns(part, columns, chunk_size)

  all_rows, all_columns = jax.tree.map(gather, (rows, columns))
  if chunk_size is None and _length(all_rows) == _length(rows):
    # One device: the same matrix, read along both axes, at half the price.
    matrices = compare(rows, columns)
    transposed = jax.tree.map(jnp.transpose, matrices)
    parts = reduce(matrices, True), reduce(transposed, True)
    return jax.tree.map(lambda x: x[None], parts)
  return one_way(rows, all_columns), one_way(columns, all_rows)


def similarity(rows: Rows, columns: Columns) -> Float[Array, 'r c']:
  """Cosine of every row with every column; the best group where there are some.

  The product runs at full float32 precision: by default a TPU rounds to
  bfloat16 and a GPU to TF32, and a scale of 100 multiplies that error.

  Args:
    rows: Unit vectors `r e`, or `r g e`: a picture's groups.
    columns: Unit vectors `c e`, or `c g e`; only one side has groups.

  Returns:
    `r c`; with groups the maximum over g, each noun's best group. The gradient
    goes to that group, to the first of equal ones.
  """
  if columns.ndim == 3:
    return similarity(columns, rows).T
  if rows.ndim == 2:
    return jnp.einsum('re,ce->rc', rows, columns, precision='highest')
  cosine = jnp.einsum('rge,ce->rgc', rows, columns, precision='highest')
  # The maximum, spelled so that its gradient is one product: that of jnp.max
  # divides among ties and took 3 to 4 times as long on a CPU.
  best = jnp.argmax(jax.lax.stop_gradient(cosine), axis=1)
  chosen = jax.nn.one_hot(best, cosine.shape[1], axis=1)
  return jnp.sum(cosine * chosen, axis=1)


def map_columns(
  part: Callable[[Any, Any], Any], columns: Any, chunk_size: int | None
) -> Any:
  """Reduces the columns chunk by chunk, recomputing each in the backward pass.

  Args:
    part: Function of `(columns, valid)` that reduces over the columns given;
      `valid` (True, or bool `c`) is False where a column is padding.
    columns: Array or tree of arrays whose first axis is the columns.
    chunk_size: Columns per chunk; None, or at least all of them: one chunk.

  Returns:
    The results of `part`, stacked along a new first axis of chunks.

  Raises:
    ValueError: chunk_size is below 1.
  """
  if chunk_size is not None and chunk_size < 1:
    raise ValueError(
      f'chunk_size is {chunk_size}; give at least 1 column, or None for all.'
    )
  total = _length(columns)
  if chunk_size is None or chunk_size >= total:
    return jax.tree.map(lambda x: x[None], part(columns, True))
  chunks = -(-total // chunk_size)
  padding = chunks * chunk_size - total

  def split(x):
    x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(chunks, chunk_size, *x.shape[1:])

  valid = (jnp.arange(chunks * chunk_size) < total).reshape(chunks, chunk_size)
  # Without the checkpoint the scan would keep every chunk's logits.
  step = jax.checkpoint(part, prevent_cse=False)
  return jax.lax.map(lambda x: step(*x), (jax.tree.map(split, columns), valid))


def as_float32(x: ArrayLike) -> Array:
  """The value as a float32 array; losses are float32 whatever the model is."""
  return jnp.asarray(x, jnp.float32)


def _length(tree: Any) -> int:
  """Length of the first axis, which all leaves share."""
  return jax.tree.leaves(tree)[0].shape[0]
