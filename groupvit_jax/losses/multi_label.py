"""Multi-label contrastive loss between an image and its prompted nouns.

A noun names one region, a caption the whole image (GroupViT, arXiv
2202.11094, Table 1: 36.7 to 39.3 mIoU with hard assignment).
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.losses.contrastive import (
  MASKED,
  Axes,
  Columns,
  as_float32,
  gather,
  log_denominators,
  on_mesh,
  similarity,
)

FORMS = 'released', 'paper'


def multi_label_loss(
  image: Float[ArrayLike, 'b e'] | Float[ArrayLike, 'b g e'],
  nouns: Float[ArrayLike, 'b k e'],
  logit_scale: Float[ArrayLike, ''],
  *,
  form: str = 'released',
  noun_ids: Int[ArrayLike, 'b k'] | None = None,
  mesh: Mesh | None = None,
  chunk_size: int | None = None,
) -> Float[Array, '']:
  """Contrasts each image with its own k nouns among the batch's b * k.

  Image to text has several positives p. The released code takes the
  cross-entropy with the target 1/k on each, `-1/k sum_k log p_k`; the paper
  writes `-log sum_k p_k`, which is content with any one of them. Text to
  image has one positive, so the forms agree there. Both are
  `0.5 * (image to text + text to image)`, means over the global batch.

  With `b g e` the logit is `logit_scale * max_g cos`: each noun is matched to
  the image's best group instead of to its mean, which ties words to regions.
  Not part of the released recipes.

  `noun_ids` is off in the released recipes too: there, "dog" of another
  image counts as a negative for this image of a dog. With few concepts
  (small data, small vocabularies) most negatives are false in this way. Given
  ids, equal ids anywhere in the global batch are one text: an image is not
  contrasted with texts that carry an id of its own, nor a text with images
  that have its id. The positives stay the image's own k nouns, each against
  the true negatives alone (form 'paper': their sum against them).

  Args:
    image: unit vectors, or those of every group, of the global batch.
    nouns: unit vectors of the k nouns of each image.
    logit_scale: factor on cosines, exponentiated and clamped.
    form: 'released' or 'paper'.
    noun_ids: equal for nouns that are the same word; None: all differ.
    mesh: as in `contrastive_loss`.
    chunk_size: groups times texts compared at a time with each image, as in
      `contrastive_loss`: temporary memory is rows x chunk_size.

  Returns:
    The scalar loss.

  Raises:
    ValueError: unknown form; b does not divide over the mesh; bad chunk_size.
  """

  def loss(
    logit_scale: Array,
    image: Array,
    nouns: Array,
    ids: Array | None = None,
    axis: Axes = None,
  ) -> Array:
    return multi_label_term(
      image,
      gather(nouns.reshape(-1, nouns.shape[-1]), axis),
      logit_scale,
      form=form,
      noun_ids=None if ids is None else gather(ids.reshape(-1), axis),
      chunk_size=chunk_size,
    )

  batched = as_float32(image), as_float32(nouns)
  if noun_ids is not None:
    batched += (jnp.asarray(noun_ids),)
  return on_mesh(loss, mesh, logit_scale, *batched)


def multi_label_term(
  image: Float[Array, 'b e'] | Float[Array, 'b g e'],
  nouns: Columns,
  logit_scale: Float[Array, ''],
  *,
  form: str,
  noun_ids: Columns | None,
  chunk_size: int | None,
) -> Float[Array, '']:
  """`multi_label_loss` of this device's images, for use inside `on_mesh`.

  The columns are flat: the k nouns of the first image, those of the second.
  """
  if form not in FORMS:
    raise ValueError(f"form is {form!r}; choose 'released' or 'paper'.")
  regions, precision = 1, 'highest'
  if image.ndim == 3:
    # As many times the products, and a scale of about ten: a TPU may round to
    # bfloat16 (benchmarks/RESULTS.md), as the network before them does.
    regions, precision = image.shape[1], None

  def logits(texts: Array) -> Array:
    return logit_scale * similarity(image, texts, precision)

  own = nouns.own.reshape(len(image), -1, nouns.own.shape[-1])
  positive = logit_scale * own_cosines(image, own, precision)
  of_text = positive.reshape(-1)
  if noun_ids is None:
    over_texts, over_images = log_denominators(
      logits, nouns, chunk_size, regions
    )
    if form == 'released':
      to_text = over_texts - jnp.mean(positive, axis=1)
    else:
      to_text = over_texts - jax.nn.logsumexp(positive, axis=1)
    to_image = over_images - of_text
  else:
    own_ids = noun_ids.own.reshape(len(image), -1)

    def negative_logits(columns: tuple[Array, Array]) -> Array:
      texts, text_ids = columns
      return jnp.where(share_an_id(own_ids, text_ids), MASKED, logits(texts))

    over_texts, over_images = log_denominators(
      negative_logits, with_ids(nouns, noun_ids), chunk_size, regions
    )
    # -log p where p = e^positive / (e^positive + sum of the negatives).
    if form == 'paper':
      positive = jax.nn.logsumexp(positive, axis=1, keepdims=True)
    to_text = jax.nn.softplus(over_texts[:, None] - positive)
    to_image = jax.nn.softplus(over_images - of_text)
  return 0.5 * (jnp.mean(to_text) + jnp.mean(to_image))


def with_ids(texts: Columns, ids: Columns) -> Columns:
  """Columns of pairs: a text and its id."""
  return Columns(
    (texts.own, ids.own), (texts.everyones, ids.everyones), texts.axis
  )


def own_cosines(
  image: Float[Array, 'b e'] | Float[Array, 'b g e'],
  nouns: Float[Array, 'b k e'],
  precision: str | None = 'highest',
) -> Float[Array, 'b k']:
  """Cosines of each image, or of its best groups, with its own nouns."""

  # One image with its own nouns is a comparison of 1 row with k columns.
  def one(image: Array, nouns: Array) -> Array:
    return similarity(image[None], nouns, precision)[0]

  return jax.vmap(one)(image, nouns)


def share_an_id(
  rows: Int[Array, 'r k'], columns: Int[Array, ' c']
) -> Bool[Array, 'r c']:
  """Whether any id of the row is the column's."""
  return jnp.any(rows[:, :, None] == columns, axis=1)
