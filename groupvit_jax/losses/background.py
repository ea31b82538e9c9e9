"""A background learned from captions: what no noun has to be compared with.

A softmax over the classes asked for must give every group to one of them. What
it lacks is a rival that is always there. Captions can train one without masks:
in some group of a picture each of its nouns has to beat the rival (there is the
thing that was named), and the nouns of other pictures have to lose against it
in every group (they are not there). A picture is a bag of groups, labelled by
its nouns: multiple instance learning.

The rival of a group g is not a further unit vector but `g . v + level`, a
cosine that a noun has to exceed in this group: on :demo the groups of different
classes are nearly orthogonal, so that no single direction is near all of them
(docs/research/background.md). With v = 0 it is one learned threshold, the bias
of a sigmoid loss (SigLIP, arXiv 2303.15343).

A group token that the pooled picture leaves out was thought of instead. Nothing
would train it: the losses are as pleased if it wins nothing, or everything that
no caption needs, and it would change the model and all its weights.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from groupvit_jax.losses.contrastive import (
  as_float32,
  map_columns,
  on_mesh,
  similarity,
)
from groupvit_jax.losses.multi_label import own_cosines, share_an_id


def background_loss(
  groups: Float[Array, 'b g e'],
  nouns: Float[Array, 'b k e'],
  token: Float[Array, 'f'],
  scale: Float[ArrayLike, ''],
  *,
  noun_ids: Int[Array, 'b k'],
  mesh: Mesh | None = None,
  chunk_size: int | None = None,
) -> Float[Array, '']:
  """Own nouns beat the background in some group, other nouns in none.

  With the margin `m_ij = max_g (noun_j - v) . g_i - level` it is half the mean
  of softplus(-scale m) over the pictures' own nouns, and half that of
  softplus(scale m) over nouns of other pictures that are not of this one too.
  Means, not a softmax: the level does not rise with the size of the batch.

  Args:
    groups: Unit vectors `b g e` of the global batch's groups.
    nouns: Unit vectors `b k e` of each picture's nouns.
    token: f = e + 1 numbers: the vector v, then the level.
    scale: Inverse temperature.
    noun_ids: Integers `b k`; equal ids are one text.
    mesh: As in `contrastive_loss`.
    chunk_size: Columns compared at a time, as in `contrastive_loss`.

  Returns:
    The scalar loss; log 2 while the token is zero and so are all cosines.
  """
  groups, nouns, token = map(as_float32, (groups, nouns, token))
  one = jnp.ones((*groups.shape[:2], 1), jnp.float32)
  # (noun - v) . g - level as one product, so that the best group is found by
  # the margin.
  rows = jnp.concatenate([groups, one], axis=-1)
  columns = jnp.pad(nouns, ((0, 0), (0, 0), (0, 1))) - token
  loss = functools.partial(_loss, chunk_size=chunk_size)
  return on_mesh(loss, mesh, scale, rows, columns, noun_ids)


def _loss(
  gather: Callable,
  scale: Array,
  rows: Array,
  nouns: Array,
  ids: Array,
  *,
  chunk_size: int | None,
) -> Float[Array, '']:
  flat = nouns.reshape(-1, nouns.shape[-1]), ids.reshape(-1, 1)
  columns = jax.tree.map(gather, flat)

  def part(columns, valid):
    nouns, column_ids = columns
    foreign = valid & ~share_an_id(ids, column_ids)
    wrong = jax.nn.softplus(scale * similarity(rows, nouns))
    return (wrong * foreign).sum(1), foreign.sum(1)

  total, count = (x.sum(0) for x in map_columns(part, columns, chunk_size))
  absent = total / jnp.maximum(count, 1)
  present = jax.nn.softplus(-scale * own_cosines(rows, nouns))
  return 0.5 * (jnp.mean(present) + jnp.mean(absent))
