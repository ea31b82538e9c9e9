"""Every token of an image should be named by one of the image's nouns.

Our own term. Nouns that meet the best group or token of an image say nothing of
all its other tokens: how far a thing reaches into its ground is left to chance
(docs/research/emergence.md).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from groupvit_jax.losses.contrastive import MASKED, Columns, map_columns
from groupvit_jax.losses.multi_label import share_an_id, with_ids


def coverage_term(
  tokens: Float[Array, 'b n e'],
  nouns: Columns,
  logit_scale: Float[Array, ''],
  noun_ids: Columns,
  chunk_size: int | None,
) -> Float[Array, '']:
  """The mean over tokens of `-log p(a noun of the image | token)`.

  p is the softmax of a token's cosines with the nouns of the whole batch; all
  nouns that have an id of the image's own count as its own. For use inside
  `contrastive.on_mesh`.

  Args:
    tokens: unit vectors of the tokens of this device's images.
    nouns: unit vectors, flat: the k nouns of the first image, of the second.
    logit_scale: inverse temperature.
    noun_ids: equal for nouns that are the same word.
    chunk_size: tokens times nouns compared at a time with each image.
  """
  own_ids = noun_ids.own.reshape(len(tokens), -1)

  def part(columns: tuple[Array, Array], valid: Any) -> tuple[Array, Array]:
    texts, ids = columns
    cosines = jnp.einsum('bne,ce->bnc', tokens, texts)
    logits = jnp.where(valid, logit_scale * cosines, MASKED)
    own = jnp.where(share_an_id(own_ids, ids)[:, None], logits, MASKED)
    return jax.nn.logsumexp(logits, axis=2), jax.nn.logsumexp(own, axis=2)

  every, own = map_columns(
    part, with_ids(nouns, noun_ids), chunk_size, tokens.shape[1]
  )
  return jnp.mean(jax.nn.logsumexp(every, 0) - jax.nn.logsumexp(own, 0))
