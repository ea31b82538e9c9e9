"""A Task is a model, its loss, and the functions that evaluation may call.

`TASKS` maps a config's `task` to the function that builds it; the training
loop and the evaluators know nothing else about a model.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from groupvit_jax import errors
from groupvit_jax.data import on_device
from groupvit_jax.losses import assignment as assignment_losses
from groupvit_jax.losses import background as background_losses
from groupvit_jax.losses import contrastive, multi_label
from groupvit_jax.models import build, dual_encoder, groupvit, vit
from groupvit_jax.models import text as text_model

NOUN_MATCHES = 'pooled', 'best_group'

Variables = Mapping[str, Any]
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
  """What the training loop needs of a system.

  Attributes:
    model: the Flax module.
    init: `(rng, batch) -> variables`, the dict of `params` and `batch_stats`.
    loss_fn: `(variables, batch, rng) -> (loss, (batch_stats, metrics))`, where
      metrics is a dict of float32 scalars.
    predict_fns: name -> pure function of (variables, inputs); see
      `docs/architecture.md` for the contract.
  """

  model: nn.Module
  init: Callable[[jax.Array, Batch], Variables]
  loss_fn: Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
  predict_fns: Mapping[str, Callable]


def dual_encoder_task(
  model: nn.Module,
  config: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh | None,
) -> Task:
  """The task of any dual encoder with the methods of `DualEncoder`."""
  _check_loss(config.loss)
  return Task(
    model=model,
    init=lambda rng, batch: _init(model, rng, batch),
    loss_fn=_make_loss_fn(model, config, mesh),
    predict_fns=_predict_fns(model),
  )


def _check_loss(loss: ml_collections.ConfigDict) -> None:
  """ConfigError for what would else fail only when the loss is traced."""
  for name, known in (
    ('noun_match', NOUN_MATCHES),
    ('multi_label_form', multi_label.FORMS),
  ):
    if loss[name] not in known:
      raise errors.ConfigError(
        f'unknown loss.{name} {loss[name]!r}; choose one of {", ".join(known)}'
      )
  if loss.chunk_size < 0:
    raise errors.ConfigError(
      f'loss.chunk_size is {loss.chunk_size}; give the columns of the '
      'similarity at a time, or 0 for all'
    )
  if loss.background_weight and not loss.num_nouns:
    raise errors.ConfigError(
      'a background is learned from nouns; set loss.num_nouns above 0, or '
      'loss.background_weight to 0'
    )


def groupvit_task(config, vocab_size, mesh=None) -> Task:
  """GroupViT: the image encoder groups patches (paper, section 3)."""
  return dual_encoder_task(_model(config, vocab_size), config, mesh)


def clip_task(config, vocab_size, mesh=None) -> Task:
  """The CLIP-style baseline: the same blocks, no groups (paper, Table 4)."""
  return dual_encoder_task(_model(config, vocab_size), config, mesh)


TASKS = {'groupvit': groupvit_task, 'clip': clip_task}
TITLES = {'groupvit': 'GroupViT', 'clip': 'ViT without groups'}


def architecture(
  config: ml_collections.ConfigDict | Mapping[str, Any], vocab_size: int
) -> dict[str, Any]:
  """The architecture that a training config asks for, fit for JSON.

  Args:
    config: a run's config, or a mapping read from its `config.json`.
    vocab_size: of its tokenizer.

  Returns:
    What `models.build.build` takes; options at their default are written out.
  """
  if config['task'] not in TASKS:
    raise ValueError(
      f'unknown task {config["task"]!r}; choose one of {", ".join(TASKS)}'
    )
  image = {'image_size': config['image_size'], **config['model']}
  kind = groupvit.GroupViT
  if config['task'] == 'clip':
    kind = vit.ViT
    image['depth'] = sum(image['depths'])
    image = {name: image[name] for name in build.fields(kind) if name in image}
  loss = config['loss']
  text = {'vocab_size': vocab_size, **config['text']}
  # Absent from the config of a run before there was one.
  learned = dict(loss).get('background_weight', 0) > 0
  return {
    'image_encoder': 'vit' if kind is vit.ViT else 'groupvit',
    'image': _complete(kind, image),
    'text': _complete(text_model.TextTransformer, text),
    'embed_dim': config['joint']['embed_dim'],
    'projector_width': config['joint']['projector_width'],
    'projector_bias': True,
    'separate_multi_label_scale': (
      loss['num_nouns'] > 0 and loss['noun_match'] == 'pooled'
    ),
    **({'learned_background': True} if learned else {}),
  }


def _complete(module: type[nn.Module], values: Mapping[str, Any]) -> dict:
  """The values, sequences as lists, and defaults for the fields not named."""
  defaults = {name: getattr(module, name) for name in build.fields(module)}
  return {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in {**defaults, **values}.items()
  }


def _model(config, vocab_size) -> dual_encoder.DualEncoder:
  return build.build(
    architecture(config, vocab_size), dtype=config.dtype, remat=config.remat
  )


def _init(model: nn.Module, rng: jax.Array, batch: Batch) -> Variables:
  params_rng, gumbel_rng, drop_rng = jax.random.split(rng, 3)
  rngs = {'params': params_rng, 'gumbel': gumbel_rng, 'drop_path': drop_rng}
  images = on_device.normalize(batch['image'][:1])
  # train=True so that every parameter of the training path is created.
  variables = model.init(rngs, images, batch['tokens'][:1], train=True)
  return {
    'params': variables['params'],
    'batch_stats': variables.get('batch_stats', {}),
  }


def _make_loss_fn(model, config, mesh):
  """Returns the training loss: contrastive, nouns, and assignment terms."""
  loss = config.loss
  match_groups = loss.num_nouns > 0 and loss.noun_match == 'best_group'
  match_parts = loss.num_nouns > 0 and loss.part_weight > 0

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
      batch['tokens'],
      train=True,
      with_groups=match_groups or loss.background_weight > 0,
      with_parts=match_parts,
      rngs={'gumbel': gumbel_rng, 'drop_path': drop_rng},
      mutable=['batch_stats'],
    )
    terms = {
      'contrastive': contrastive.contrastive_loss(
        out['image'],
        out['texts'][:, 0],
        out['scale'],
        mesh=mesh,
        chunk_size=loss.chunk_size or None,
      )
    }
    total = loss.contrastive_weight * terms['contrastive']
    match = functools.partial(_noun_loss, out, batch, loss, mesh)
    if loss.num_nouns:
      # Against the pooled picture, or against its best group each.
      terms['multi_label'] = (
        match(out['groups'], loss.noun_scale)
        if match_groups
        else match(out['image'], out['multi_label_scale'])
      )
      total += loss.multi_label_weight * terms['multi_label']
    if match_parts:
      terms['part'] = match(out['parts'], loss.noun_scale)
      total += loss.part_weight * terms['part']
    if loss.background_weight:
      terms['background'] = _background_loss(out, batch, loss, mesh)
      total += loss.background_weight * terms['background']
    if out.get('assignments'):
      regulariser, statistics = _assignment_terms(out, loss)
      total += regulariser
      terms.update(statistics)
    metrics = {'loss': total, 'scale': out['scale'], **terms}
    batch_stats = updates.get('batch_stats', {})
    return total, (batch_stats, jax.tree.map(jnp.float32, metrics))

  return loss_fn


def _noun_loss(out, batch, loss, mesh, regions, scale):
  """Nouns against pictures, or each against the best of a picture's regions."""
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
  """What the background is, from the groups and nouns of the batch."""
  given = out['groups'], out['texts'][:, 1:], out['scale']
  if not loss.background_shapes:
    given = jax.lax.stop_gradient(given)
  groups, nouns, scale = given
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


def _predict_fns(model: nn.Module) -> dict[str, Callable]:
  cls = type(model)

  def of_images(method):
    def predict(variables, images, sizes=None):
      images = on_device.normalize(images)
      return model.apply(variables, images, sizes, method=method)

    return predict

  def text(variables, tokens):
    # As the projector gives them: templates are averaged before normalising.
    return model.apply(
      variables, tokens, normalize=False, method=cls.encode_text
    )

  return {
    'image': of_images(cls.encode_image),
    'text': text,
    'regions': of_images(cls.encode_regions),
    'scale': lambda variables: model.apply(variables, method=cls.scale),
  }
