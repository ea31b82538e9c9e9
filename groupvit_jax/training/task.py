"""A Task is a model, its loss, and the functions that evaluation may call.

`TASKS` maps a config's `task` to the function that builds it; the training
loop and the evaluators know nothing else about a model.
"""

import dataclasses
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
  """What the training loop needs of a system.

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


def dual_encoder_task(
  model: nn.Module,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh | None,
) -> Task:
  """The task of any dual encoder with the methods of `DualEncoder`."""
  return Task(
    model=model,
    init=lambda rng, batch: _init(model, rng, batch),
    parts=loss_lib.make(model, config, mesh),
    predict_fns=dual_encoder.predict_fns(model, on_device.normalize),
  )


def groupvit_task(
  config: config_lib.Config,
  vocab_size: int,
  mesh: jax.sharding.Mesh | None = None,
) -> Task:
  """GroupViT: the image encoder groups patches (paper, section 3)."""
  return dual_encoder_task(_model(config, vocab_size), config, mesh)


def clip_task(
  config: config_lib.Config,
  vocab_size: int,
  mesh: jax.sharding.Mesh | None = None,
) -> Task:
  """The CLIP-style baseline: the same blocks, no groups (paper, Table 4)."""
  return dual_encoder_task(_model(config, vocab_size), config, mesh)


def openai_clip_task(
  config: config_lib.Config,
  vocab_size: int,
  mesh: jax.sharding.Mesh | None = None,
) -> Task:
  """CLIP itself (`configs/clip.py`), with a ViT or a ResNet."""
  model, normalize = _model(config, vocab_size), clip.normalizer(config)
  return Task(
    model=model,
    init=lambda rng, batch: _init(model, rng, batch),
    parts=clip.make_loss(model, config, mesh),
    predict_fns=dual_encoder.predict_fns(model, normalize),
  )


TASKS = {
  'groupvit': groupvit_task,
  'clip': clip_task,
  **dict.fromkeys(clip.TITLES, openai_clip_task),
}
TITLES = {
  'groupvit': 'GroupViT',
  'clip': 'ViT without groups',
  **clip.TITLES,
}


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


def _model(
  config: config_lib.Config, vocab_size: int
) -> dual_encoder.DualEncoder:
  return build.build(
    architecture(config, vocab_size),
    dtype=config.dtype,
    remat=config.remat,
    matmul_operands=config.matmul_operands,
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
