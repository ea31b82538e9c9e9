"""A Task is a model, its loss, and the functions that evaluation may call.

The training loop and the evaluators know nothing else about a model.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from groupvit_jax.data import on_device
from groupvit_jax.models import build, dual_encoder, groupvit, vit
from groupvit_jax.models import text as text_model
from groupvit_jax.training import accumulate, clip
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import loss as loss_lib

Variables = Mapping[str, Any]
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
  """Model and functions of a system, for the training loop.

  Attributes:
    model: the Flax module.
    init: `(rng, batch) -> variables`, the dict of `params` and `batch_stats`.
    parts: the loss in parts, of which `loss_fn` is made.
    predict_fns: name -> pure function of (variables, inputs); see
      `docs/architecture.md` for the contract.
  """

  model: nn.Module
  init: Callable[[jax.Array, Batch], Variables]
  parts: accumulate.Parts
  predict_fns: Mapping[str, Callable]

  @property
  def loss_fn(
    self,
  ) -> Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]:
    """`(variables, batch, rng) -> (loss, (batch_stats, metrics))`.

    The metrics are a dict of float32 scalars.
    """
    return self.parts.loss_fn


# Titles by the names that a config's `task` has.
TASKS = {
  'groupvit': 'GroupViT',
  'clip': 'ViT without groups',
  **clip.TITLES,
}


def make(
  config: config_lib.Config,
  vocab_size: int,
  mesh: jax.sharding.Mesh | None = None,
) -> Task:
  """The task that a config names.

  'groupvit' groups patches (paper, section 3); 'clip' is the baseline of the
  same blocks without groups (paper, Table 4); the others are CLIP itself.
  """
  model = build.build(
    architecture(config, vocab_size),
    dtype=config.dtype,
    remat=config.remat,
    matmul_operands=config.matmul_operands,
  )
  normalize, make_parts = on_device.normalize, loss_lib.make
  if config.task in clip.TITLES:
    normalize, make_parts = clip.normalizer(config), clip.make_loss
  return Task(
    model=model,
    init=functools.partial(_init, model),
    parts=make_parts(model, config, mesh),
    predict_fns=dual_encoder.predict_fns(model, normalize),
  )


def architecture(config: Any, vocab_size: int) -> dict[str, Any]:
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
  if config['task'] in clip.TITLES:
    return clip.architecture(config, vocab_size)
  image = {'image_size': config['image_size'], **config['model']}
  kind: type[nn.Module] = groupvit.GroupViT
  if config['task'] == 'clip':
    kind = vit.ViT
    image['depth'] = sum(image['depths'])
    image = {k: v for k, v in image.items() if k in build.defaults(kind)}
  loss = config['loss']
  text = {'vocab_size': vocab_size, **config['text']}
  # Absent from the config of a run before there was one.
  learned = dict(loss).get('background_weight', 0) > 0
  return {
    'image_encoder': 'vit' if kind is vit.ViT else 'groupvit',
    'image': build.complete(kind, image),
    'text': build.complete(text_model.TextTransformer, text),
    'embed_dim': config['joint']['embed_dim'],
    'projector_width': config['joint']['projector_width'],
    'projector_bias': True,
    'separate_multi_label_scale': (
      loss['num_nouns'] > 0 and loss['noun_match'] == 'pooled'
    ),
    **({'learned_background': True} if learned else {}),
  }


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
