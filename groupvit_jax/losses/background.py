"""A background learned from captions, as a rival that every noun has to beat.

A softmax over class names must give every group to one of them, because
nothing competes with the names. Captions can train a competitor without masks:
in some group of an image each of its nouns has to beat it, and nouns of other
images have to lose against it in every group. An image is a bag of groups
labelled by its nouns: multiple instance learning.

The competitor's score in group g is not a further unit vector but
`g . v + level`, a cosine that a noun has to exceed in this group: on :demo the
groups of different classes are nearly orthogonal, so that no single direction
is near all of them (docs/research/background.md). With v = 0 it is one learned
threshold, the bias of a sigmoid loss (SigLIP, arXiv 2303.15343).
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from groupvit_jax.losses.contrastive import (
  Axes,
  Columns,
  as_float32,
  gather,
  map_columns,
  on_mesh,
  similarity,
)
from groupvit_jax.losses.multi_label import (
  own_cosines,
  share_an_id,
  with_ids,
)


def background_loss(
  groups: Float[ArrayLike, 'b g e'],
  nouns: Float[ArrayLike, 'b k e'],
  token: Float[ArrayLike, ' f'],
  logit_scale: Float[ArrayLike, ''],
  *,
  noun_ids: Int[ArrayLike, 'b k'],
  mesh: Mesh | None = None,
  chunk_size: int | None = None,
) -> Float[Array, '']:
  """Own nouns beat the background in some group, other nouns in none.

  With the margin `m_ij = max_g (noun_j - v) . g_i - level` it is half the mean
  of softplus(-logit_scale m) over the images' own nouns, and half the mean of
  softplus(logit_scale m) over nouns of other images that are not of this one
  too. Means, not a softmax: the level does not rise with the size of the batch.

  Args:
    groups: unit vectors of the global batch's groups.
    nouns: unit vectors of each image's nouns.
    token: f = e + 1 numbers: the vector v, then the level.
    logit_scale: factor on cosines, exponentiated.
    noun_ids: equal ids are one text.
    mesh: as in `contrastive_loss`.
    chunk_size: texts compared at a time, as in `contrastive_loss`.

  Returns:
    The scalar loss; log 2 while the token is zero and so are all cosines.
  """

  def loss(
    scalars: tuple[Array, Array],
    groups: Array,
    nouns: Array,
    ids: Array,
    axis: Axes = None,
  ) -> Array:
    scale, token = scalars
    texts = gather(nouns.reshape(-1, nouns.shape[-1]), axis)
    of_all = gather(ids.reshape(-1), axis)
    return background_term(groups, texts, token, scale, of_all, chunk_size)

  batched = as_float32(groups), as_float32(nouns), jnp.asarray(noun_ids)
  return on_mesh(loss, mesh, (logit_scale, token), *batched)


def background_term(
  groups: Float[Array, 'b g e'],
  nouns: Columns,
  token: Float[Array, ' f'],
  logit_scale: Float[Array, ''],
  noun_ids: Columns,
  chunk_size: int | None,
) -> Float[Array, '']:
  """`background_loss` of this device's images, for use inside `on_mesh`.

  The columns are flat, as in `multi_label_term`.
  """
  own_ids = noun_ids.own.reshape(len(groups), -1)
  # (noun - v) . g - level as one product of vectors with one more number.
  one = jnp.ones((*groups.shape[:2], 1), jnp.float32)
  groups = jnp.concatenate([groups, one], axis=-1)
  nouns = nouns.map(lambda x: jnp.pad(x, ((0, 0), (0, 1))) - token)

  def foreign_nouns(
    columns: tuple[Array, Array], valid: Array | bool
  ) -> tuple[Array, Array]:
    texts, text_ids = columns
    foreign = valid & ~share_an_id(own_ids, text_ids)
    wrong = jax.nn.softplus(logit_scale * similarity(groups, texts))
    return (wrong * foreign).sum(1), foreign.sum(1)

  parts = map_columns(
    foreign_nouns, with_ids(nouns, noun_ids), chunk_size, groups.shape[1]
  )
  total, count = (x.sum(0) for x in parts)
  absent = total / jnp.maximum(count, 1)
  own = nouns.own.reshape(len(groups), -1, nouns.own.shape[-1])
  present = jax.nn.softplus(-logit_scale * own_cosines(groups, own))
  return 0.5 * (jnp.mean(present) + jnp.mean(absent))
