"""The training loss of a dual encoder: its terms and their weights.

Contrastive, nouns against images, groups or tokens, a learned background, and
terms on the assignment; each is a function of `losses`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from groupvit_jax.data import on_device
from groupvit_jax.losses import assignment as assignment_losses
from groupvit_jax.losses import background as background_losses
from groupvit_jax.losses import contrastive, multi_label
from groupvit_jax.training import accumulate
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import texts as texts_lib

# The loss and its terms, as metrics name them.
TERMS = (
  *('loss', 'contrastive', 'multi_label', 'part', 'background'),
  *('balance', 'sharpness'),
)
NOUN_MATCHES = 'pooled', 'best_group'


def make(
  model: nn.Module,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh | None,
) -> accumulate.Parts:
  """The loss of any dual encoder with the methods of `DualEncoder`.

  Args:
    model: the Flax module.
    config: a run's config; its `loss` says which terms there are.
    mesh: negatives come from all of its devices.

  Returns:
    The parts of a `task.Task`.
  """
  loss = config.loss
  compared = weights(loss)
  match_groups = loss.num_nouns > 0 and loss.noun_match == 'best_group'
  with_groups = match_groups or 'background' in compared
  with_tokens = 'part' in compared
  kept = ['assignments']
  if with_groups or with_tokens:
    kept += ['groups', 'token_embeddings', 'tokens']

  def images(variables, batch, rng):
    erase_rng, gumbel_rng, drop_rng = jax.random.split(rng, 3)
    images = on_device.normalize(batch['image'])
    if config.data.erase_probability:
      images = on_device.random_erase(
        erase_rng, images, config.data.erase_probability
      )
    rngs = {'gumbel': gumbel_rng, 'drop_path': drop_rng}
    return encode_images(model, variables, images, kept, rngs=rngs)

  def head(variables, features, texts, batch):
    out, updates = model.apply(
      variables,
      features,
      texts_lib.in_place(texts, batch, mesh),
      train=True,
      with_groups=with_groups,
      with_token_embeddings=with_tokens,
      mutable=['batch_stats'],
      method='joint',
    )
    terms = compare(out, batch, loss, mesh)
    total = jnp.float32(0.0)
    for name, weight in compared.items():
      total += weight * terms[name]
    if out.get('assignments'):
      regulariser, statistics = _assignment_terms(out, loss)
      total += regulariser
      terms.update(statistics)
    metrics = {'loss': total, 'scale': out['logit_scale'], **terms}
    batch_stats = updates.get('batch_stats', {})
    return total, (batch_stats, jax.tree.map(jnp.float32, metrics))

  return accumulate.Parts(images, functools.partial(encode_texts, model), head)


def encode_images(
  model: nn.Module,
  variables: Any,
  images: jax.Array,
  kept: Sequence[str] = (),
  rngs: Any = None,
) -> tuple[tuple[jax.Array, dict[str, Any]], Any]:
  """The features of images that a loss needs, and batch statistics.

  Args:
    model: has the methods of `DualEncoder`.
    variables: of the model.
    images: normalised.
    kept: intermediates of the encoder that are needed; those that it has.
    rngs: of Flax.
  """
  (pooled, out), updates = model.apply(
    variables,
    images,
    True,
    rngs=rngs,
    mutable=['batch_stats'],
    method='image_outputs',
  )
  found = {name: out[name] for name in kept if name in out}
  return (pooled, found), updates.get('batch_stats', {})


def encode_texts(model: nn.Module, variables: Any, tokens: Any) -> Any:
  """The features of a tree of texts, u l each."""
  encode = functools.partial(model.apply, variables, method='text_outputs')
  return jax.tree.map(encode, tokens)


def weights(loss: config_lib.Config) -> dict[str, float]:
  """The terms that compare with the whole batch, and their weights."""
  found = {'contrastive': loss.contrastive_weight}
  if loss.num_nouns:
    found['multi_label'] = loss.multi_label_weight
    if loss.part_weight:
      found['part'] = loss.part_weight
  if loss.background_weight:
    found['background'] = loss.background_weight
  return found


def compare(
  out: Mapping[str, Any],
  batch: Mapping[str, jax.Array],
  loss: config_lib.Config,
  mesh: jax.sharding.Mesh | None,
) -> dict[str, jax.Array]:
  """The terms of `weights`: images, groups and tokens against all texts.

  They share one pass: the texts, the smaller side, are gathered once from all
  devices; images and their groups and tokens stay where they are.

  Args:
    out: of the model; the embeddings that the terms need.
    batch: with `tokens`.
    loss: a config's.
    mesh: negatives come from all of its devices.
  """
  chunk_size = loss.chunk_size or None
  names = weights(loss)

  def terms(scalars, rows, axis=None):
    # Flat: a TPU pads an axis of few texts to eight.
    texts, ids = rows['texts'], rows['ids'].reshape(-1)
    captions = contrastive.gather(texts[:, 0], axis)
    nouns = texts[:, 1:].reshape(-1, texts.shape[-1])
    nouns, ids = contrastive.gather(nouns, axis), contrastive.gather(ids, axis)

    def match(regions, scale):
      return multi_label.multi_label_term(
        regions,
        nouns,
        scale,
        form=loss.multi_label_form,
        noun_ids=ids if loss.share_nouns else None,
        chunk_size=chunk_size,
      )

    scale = scalars['logit_scale']
    result = {
      'contrastive': contrastive.contrastive_term(
        rows['image'], captions, scale, chunk_size
      )
    }
    if 'multi_label' in names:
      # Against the pooled image, or against its best group each.
      result['multi_label'] = (
        match(rows['groups'], scalars['noun_scale'])
        if loss.noun_match == 'best_group'
        else match(rows['image'], scalars['multi_label_logit_scale'])
      )
    if 'part' in names:
      result['part'] = match(rows['token_embeddings'], scalars['noun_scale'])
    if 'background' in names:
      # Trains the background token alone: groups and nouns are fixed here.
      stop = jax.lax.stop_gradient
      result['background'] = background_losses.background_term(
        stop(rows['groups']),
        nouns.map(stop),
        scalars['background_token'],
        stop(scale),
        ids,
        chunk_size,
      )
    return result

  kept = 'logit_scale', 'multi_label_logit_scale', 'background_token'
  scalars = {name: out[name] for name in kept if name in out}
  scalars['noun_scale'] = loss.noun_scale
  kept = 'image', 'texts', 'groups', 'token_embeddings'
  rows = {name: out[name] for name in kept if name in out}
  rows['ids'] = text_ids(batch['tokens'][:, 1:])
  return contrastive.on_mesh(terms, mesh, scalars, rows)


def _assignment_terms(out, loss):
  """Returns the weighted regulariser and what the curves show of it.

  Both are of the last grouping stage alone: with two stages, nothing here
  asks the first to use its groups (`CollapseMonitor` reads that one too).
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


def text_ids(tokens: Int[Array, 'b k l']) -> Int[Array, 'b k']:
  """Returns ids of token rows; equal rows, equal ids.

  A polynomial hash modulo 2^32, so that two unequal texts of one batch share
  an id about once in four billion pairs.
  """
  powers = jnp.cumprod(jnp.full(tokens.shape[-1], 0x9E3779B1, jnp.uint32))
  ids = jnp.sum(tokens.astype(jnp.uint32) * powers, axis=-1, dtype=jnp.uint32)
  return jax.lax.bitcast_convert_type(ids, jnp.int32)
