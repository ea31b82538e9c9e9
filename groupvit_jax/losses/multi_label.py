"""Multi-label contrastive loss between a picture and its prompted nouns.

A noun names one region, a caption the whole picture (GroupViT, arXiv
2202.11094, Table 1: 36.7 to 39.3 mIoU with hard assignment).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.losses.contrastive import (
  MASKED,
  as_float32,
  both_ways,
  log_denominators,
  on_mesh,
  similarity,
)

FORMS = 'released', 'paper'


def multi_label_loss(
  image: Float[Array, 'b e'] | Float[Array, 'b g e'],
  nouns: Float[Array, 'b k e'],
  scale: Float[ArrayLike, ''],
  *,
  form: str = 'released',
  noun_ids: Int[Array, 'b k'] | None = None,
  mesh: Mesh | None = None,
  chunk_size: int | None = None,
) -> Float[Array, '']:
  """Contrasts each picture with its own k nouns among the batch's b * k.

  Image to text has several positives p. The released code takes the
  cross-entropy with the target 1/k on each, `-1/k sum_k log p_k`; the paper
  writes `-log sum_k p_k`, which is content with any one of them. Text to
  image has one positive, so the forms agree there. Both are
  `0.5 * (image to text + text to image)`, means over the global batch.

  With `b g e` the logit is `scale * max_g cos`: each noun is matched to the
  picture's best group instead of to its mean, which ties words to regions.
  Not part of the released recipes.

  `noun_ids` is off in the released recipes too: there, "dog" of another
  picture counts as a negative for this picture of a dog. With few concepts
  (small data, small vocabularies) most negatives are false in this way. Given
  ids, equal ids anywhere in the global batch are one text: a picture is not
  contrasted with texts that carry an id of its own, nor a text with pictures
  that have its id. The positives stay the picture's own k nouns, each against
  the true negatives alone (form 'paper': their sum against them).

  Args:
    image: Unit vectors `b e`, or of every group `b g e`, of the global batch.
    nouns: Unit vectors `b k e` of the k nouns of each picture.
    scale: Inverse temperature, already exponentiated and clamped.
    form: 'released' or 'paper'.
    noun_ids: Integers `b k` that say which nouns are the same word, or None.
    mesh: As in `contrastive_loss`.
    chunk_size: Columns compared at a time, as in `contrastive_loss`. With
      groups, temporary memory is rows x g x chunk_size.

  Returns:
    The scalar loss.

  Raises:
    ValueError: Unknown form; b does not divide over the mesh; bad chunk_size.
  """
  if form not in FORMS:
    raise ValueError(f"form is {form!r}; choose 'released' or 'paper'.")
  image, nouns = as_float32(image), as_float32(nouns)
  options = {'form': form, 'chunk_size': chunk_size}
  if noun_ids is None:
    return on_mesh(partial(_own_nouns, **options), mesh, scale, image, nouns)
  loss = partial(_true_negatives, **options)
  return on_mesh(loss, mesh, scale, image, nouns, noun_ids)


def _own_nouns(
  gather: Callable,
  scale: Array,
  image: Array,
  nouns: Array,
  *,
  form: str,
  chunk_size: int | None,
) -> Float[Array, '']:
  """The positives of a picture are exactly its own k nouns."""
  own = scale * own_cosines(image, nouns)
  texts = nouns.reshape(-1, nouns.shape[-1])
  sums = log_denominators(gather, scale, image, texts, chunk_size)
  if form == 'released':
    positive = jnp.mean(own, axis=1)
  else:
    positive = jax.nn.logsumexp(own, axis=1)
  to_text, to_image = sums[0] - positive, sums[1] - own.reshape(-1)
  return 0.5 * (jnp.mean(to_text) + jnp.mean(to_image))


def own_cosines(
  image: Float[Array, 'b e'] | Float[Array, 'b g e'],
  nouns: Float[Array, 'b k e'],
) -> Float[Array, 'b k']:
  """Cosines of each picture, or its best groups, with its own nouns."""
  # One picture with its own nouns is a comparison of 1 row with k columns.
  return jax.vmap(lambda i, t: similarity(i[None], t)[0])(image, nouns)


def _true_negatives(
  gather: Callable,
  scale: Array,
  image: Array,
  nouns: Array,
  ids: Array,
  *,
  form: str,
  chunk_size: int | None,
) -> Float[Array, '']:
  """Own nouns against the columns that share no id with the row."""

  def compare(rows, columns):
    logits = scale * similarity(rows[0], columns[0])
    return logits, share_an_id(rows[1], columns[1])

  def reduce(matrices, valid):
    logits, same = matrices
    return jax.nn.logsumexp(jnp.where(valid & ~same, logits, MASKED), axis=1)

  rows = image, ids
  columns = nouns.reshape(-1, nouns.shape[-1]), ids.reshape(-1, 1)
  parts = both_ways(compare, reduce, gather, rows, columns, chunk_size)
  texts, images = (jax.nn.logsumexp(part, axis=0) for part in parts)
  own = scale * own_cosines(image, nouns)
  # -log p where p = e^own / (e^own + sum of the negatives).
  positive = own if form == 'released' else jax.nn.logsumexp(own, 1)[:, None]
  to_text = jax.nn.softplus(texts[:, None] - positive)
  to_image = jax.nn.softplus(images - own.reshape(-1))
  return 0.5 * (jnp.mean(to_text) + jnp.mean(to_image))


def share_an_id(
  rows: Int[Array, 'r i'], columns: Int[Array, 'c j']
) -> Bool[Array, 'r c']:
  """Whether any id of the row is any id of the column."""
  equal = rows[:, :, None, None] == columns.T[None, None, :, :]
  return jnp.any(equal, axis=(1, 2))
