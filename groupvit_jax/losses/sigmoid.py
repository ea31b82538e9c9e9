"""The sigmoid loss of SigLIP (Zhai et al. 2023, arXiv 2303.15343).

Every pair of the global batch is a decision of its own, so that no device needs
a sum over all pairs before it can begin.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from groupvit_jax.losses.contrastive import (
  Axes,
  as_float32,
  gather,
  map_columns,
  on_mesh,
  similarity,
)


def sigmoid_loss(
  image: Float[ArrayLike, 'b e'],
  text: Float[ArrayLike, 'b e'],
  logit_scale: Float[ArrayLike, ''],
  logit_bias: Float[ArrayLike, ''],
  *,
  mesh: Mesh | None = None,
  chunk_size: int | None = None,
) -> Float[Array, '']:
  """Logistic loss of all pairs, matching or not, over the batch.

  With `l_ij = logit_scale * image_i . text_j + logit_bias`, and z_ij = 1 where
  i = j and -1 elsewhere, it is `-1/b sum_ij log sigmoid(z_ij l_ij)` (their
  algorithm 1). As softplus(-l) = softplus(l) - l, that is the sum of
  softplus(l_ij) over all pairs less the sum of l_ii.

  Args:
    image: unit vectors of the global batch.
    text: unit vectors; row i belongs to image i.
    logit_scale: factor on cosines, exponentiated.
    logit_bias: added to every logit; theirs starts at -10.
    mesh, chunk_size: as in `contrastive_loss`.

  Returns:
    The scalar loss, equal on every device.

  Raises:
    ValueError: b does not divide over the mesh, or chunk_size is below 1.
  """

  def loss(
    scalars: tuple[Array, Array],
    image: Array,
    text: Array,
    axis: Axes = None,
  ) -> Array:
    scale, bias = scalars

    def all_pairs(texts: Array, valid: Array | bool) -> Array:
      logits = scale * similarity(image, texts) + bias
      return jnp.where(valid, jax.nn.softplus(logits), 0).sum(1)

    total = map_columns(all_pairs, gather(text, axis), chunk_size).sum(0)
    own = scale * jnp.sum(image * text, axis=-1) + bias
    return jnp.mean(total - own)

  scalars = as_float32(logit_scale), as_float32(logit_bias)
  return on_mesh(loss, mesh, scalars, as_float32(image), as_float32(text))
