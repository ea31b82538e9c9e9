"""The training loss of a dual encoder: its terms and their weights.

Contrastive, nouns against images, groups or tokens, a learned background, and
terms on the assignment; each is a function of `losses`.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from groupvit_jax.data import on_device
from groupvit_jax.losses import assignment as assignment_losses
from groupvit_jax.losses import background as background_losses
from groupvit_jax.losses import contrastive, multi_label
from groupvit_jax.training import config as config_lib

NOUN_MATCHES = 'pooled', 'best_group'


def make(
  model: nn.Module,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh | None,
) -> Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]:
  """The loss of any dual encoder with the methods of `DualEncoder`.

  Args:
    model: the Flax module.
    config: a run's config; its `loss` says which terms there are.
    mesh: negatives come from all of its devices.

  Returns:
    The `loss_fn` of a `task.Task`.
  """
  loss = config.loss
  match_groups = loss.num_nouns > 0 and loss.noun_match == 'best_group'
  match_tokens = loss.num_nouns > 0 and loss.part_weight > 0

  def loss_fn(variables, batch, rng):
    erase_rng, gumbel_rng, drop_rng = jax.random.split(rng, 3)
    images = on_device.normalize(batch['image'])
    if config.data.erase_probability:
      images = on_device.random_erase(
        erase_rng, images, config.data.erase_probability
      )
    out, updates = model.apply(
      variables,
      images,
      batch.get('distinct', batch['tokens']),
      batch.get('which'),
      train=True,
      with_groups=match_groups or loss.background_weight > 0,
      with_token_embeddings=match_tokens,
      rngs={'gumbel': gumbel_rng, 'drop_path': drop_rng},
      mutable=['batch_stats'],
    )
    terms = {
      'contrastive': contrastive.contrastive_loss(
        out['image'],
        out['texts'][:, 0],
        out['logit_scale'],
        mesh=mesh,
        chunk_size=loss.chunk_size or None,
      )
    }
    total = loss.contrastive_weight * terms['contrastive']
    match = functools.partial(_noun_loss, out, batch, loss, mesh)
    if loss.num_nouns:
      # Against the pooled image, or against its best group each.
      terms['multi_label'] = (
        match(out['groups'], loss.noun_scale)
        if match_groups
        else match(out['image'], out['multi_label_logit_scale'])
      )
      total += loss.multi_label_weight * terms['multi_label']
    if match_tokens:
      terms['part'] = match(out['token_embeddings'], loss.noun_scale)
      total += loss.part_weight * terms['part']
    if loss.background_weight:
      terms['background'] = _background_loss(out, batch, loss, mesh)
      total += loss.background_weight * terms['background']
    if out.get('assignments'):
      regulariser, statistics = _assignment_terms(out, loss)
      total += regulariser
      terms.update(statistics)
    metrics = {'loss': total, 'scale': out['logit_scale'], **terms}
    batch_stats = updates.get('batch_stats', {})
    return total, (batch_stats, jax.tree.map(jnp.float32, metrics))

  return loss_fn


def _noun_loss(out, batch, loss, mesh, regions, scale):
  """Nouns against images, or each against the best of an image's regions."""
  noun_tokens = batch['tokens'][:, 1:]
  return multi_label.multi_label_loss(
    regions,
    out['texts'][:, 1:],
    scale,
    form=loss.multi_label_form,
    noun_ids=text_ids(noun_tokens) if loss.share_nouns else None,
    mesh=mesh,
    chunk_size=loss.chunk_size or None,
  )


def _background_loss(out, batch, loss, mesh):
  """Trains the background token alone: groups and nouns are fixed here."""
  groups, nouns, scale = jax.lax.stop_gradient(
    (out['groups'], out['texts'][:, 1:], out['logit_scale'])
  )
  return background_losses.background_loss(
    groups,
    nouns,
    out['background_token'],
    scale,
    noun_ids=text_ids(batch['tokens'][:, 1:]),
    mesh=mesh,
    chunk_size=loss.chunk_size or None,
  )


def _assignment_terms(out, loss):
  """Returns the weighted regulariser and what the curves show of it.

  Both are of the last grouping stage alone: with two stages, nothing here
  asks the first to use its groups (as the watch of `collapse` sees it too).
  """
  # Without the noise: under it, near-zero logits look sharp and balanced, and
  # the terms would have nothing to push against.
  soft = out['assignments'][-1]
  terms = assignment_losses.assignment_statistics(soft)
  regulariser = jnp.float32(0.0)
  if loss.balance_weight:
    terms['balance'] = assignment_losses.balance_loss(soft)
    regulariser += loss.balance_weight * terms['balance']
  if loss.sharpness_weight:
    terms['sharpness'] = assignment_losses.sharpness_loss(soft)
    regulariser += loss.sharpness_weight * terms['sharpness']
  return regulariser, terms


def text_ids(tokens: jax.Array) -> jax.Array:
  """Returns int32 `b k` ids of `b k l` token rows; equal rows, equal ids.

  A polynomial hash modulo 2^32, so that two unequal texts of one batch share
  an id about once in four billion pairs.
  """
  powers = jnp.cumprod(jnp.full(tokens.shape[-1], 0x9E3779B1, jnp.uint32))
  ids = jnp.sum(tokens.astype(jnp.uint32) * powers, axis=-1, dtype=jnp.uint32)
  return jax.lax.bitcast_convert_type(ids, jnp.int32)
