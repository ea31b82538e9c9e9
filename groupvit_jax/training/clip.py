"""CLIP's own training: its architecture and loss, from `configs/clip.py`."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from groupvit_jax.data import on_device
from groupvit_jax.losses import contrastive, sigmoid
from groupvit_jax.models import build
from groupvit_jax.models import text as text_model
from groupvit_jax.training import accumulate
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import loss as loss_lib
from groupvit_jax.training import texts as texts_lib

LOSSES = 'softmax', 'sigmoid'
# Tasks, which are the names of the image encoders, and their titles.
TITLES = {'clip_vit': 'CLIP with a ViT', 'clip_resnet': 'CLIP with a ResNet'}


def architecture(config: Any, vocab_size: int) -> dict[str, Any]:
  """The architecture that a config of one of these tasks asks for."""
  kind = config['task']
  image = {'image_size': config['image_size'], **config['model']}
  text = {'vocab_size': vocab_size, **config['text']}
  return {
    'image_encoder': kind,
    'image': build.complete(build.IMAGE_ENCODERS[kind], image),
    'text': build.complete(text_model.TextTransformer, text),
    'embed_dim': config['joint']['embed_dim'],
    'projector_width': 0,
    'projector_bias': False,
    'separate_multi_label_scale': False,
    # Theirs is the last layer of the attention pool.
    **({'image_projector_bias': True} if kind == 'clip_resnet' else {}),
    **({'logit_bias': True} if config['loss']['name'] == 'sigmoid' else {}),
  }


def normalizer(config: Any) -> Callable[[Any], Any]:
  """Function that normalises pixels as `data.normalization` says."""
  mean, std = on_device.NORMALIZATIONS[normalization(config)]
  return functools.partial(on_device.normalize, mean=mean, std=std)


def normalization(config: Any) -> str:
  """A key of `on_device.NORMALIZATIONS`; ImageNet's where a config has none."""
  return dict(config['data']).get('normalization', 'imagenet')


def make_loss(
  model: nn.Module,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh | None,
) -> accumulate.Parts:
  """Returns the parts of a `task.Task`: softmax or sigmoid over pairs."""
  normalize = normalizer(config)
  options = {'mesh': mesh, 'chunk_size': config.loss.chunk_size or None}

  def images(variables, batch, unused_rng):
    return loss_lib.encode_images(model, variables, normalize(batch['image']))

  def head(variables, features, texts, batch):
    out, updates = model.apply(
      variables,
      features,
      texts_lib.in_place(texts, batch, mesh),
      train=True,
      mutable=['batch_stats'],
      method='joint',
    )
    image, text, scale = out['image'], out['texts'][:, 0], out['logit_scale']
    metrics = {'scale': scale}
    if config.loss.name == 'sigmoid':
      bias = out['logit_bias']
      loss = sigmoid.sigmoid_loss(image, text, scale, bias, **options)
      metrics['bias'] = bias
    else:
      loss = contrastive.contrastive_loss(image, text, scale, **options)
    metrics = jax.tree.map(jnp.float32, {'loss': loss, **metrics})
    return loss, (updates.get('batch_stats', {}), metrics)

  texts = functools.partial(loss_lib.encode_texts, model)
  return accumulate.Parts(images, texts, head)
