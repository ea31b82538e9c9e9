"""Builds a model from its architecture, the one way to make one.

An architecture is plain numbers, as a JSON file keeps them: what training
reads from its config, and conversion from the shapes of foreign weights.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from groupvit_jax.models import (
  dual_encoder,
  grouping,
  groupvit,
  resnet,
  text,
  vit,
)

IMAGE_ENCODERS = {
  'groupvit': groupvit.GroupViT,
  'vit': vit.ViT,
  'clip_vit': vit.ClipViT,
  'clip_resnet': resnet.ClipResNet,
}

_ENCODERS = ('image_encoder', 'image', 'text')
_TOP = (
  *_ENCODERS,
  'embed_dim',
  'projector_width',
  'projector_bias',
  'separate_multi_label_scale',
)
# Named only where it is on, so that other models' files stay as they are.
_OPTIONAL = ('learned_background', 'image_projector_bias', 'logit_bias')
# What has no right value but the trained one. Other fields of a module default
# to the released model, so that a file from before an option was added is read.
_SIZES = (
  'image_size',
  'patch_size',
  'width',
  'depth',
  'depths',
  'num_heads',
  'num_group_tokens',
  'num_output_groups',
  'vocab_size',
  'context_length',
)
# Not of the model but of how it is run, or flax's own.
_RUNTIME = ('dtype', 'remat', 'name', 'parent')


def build(
  architecture: Mapping[str, Any],
  *,
  dtype: DTypeLike = jnp.float32,
  remat: bool = False,
  matmul_operands: str = 'float32',
  **image_options: Any,
) -> dual_encoder.DualEncoder:
  """The model of an architecture.

  Args:
    architecture: image_encoder (a name in `IMAGE_ENCODERS`), image (its
      `defaults` by name, sequences as lists), text (those of
      `TextTransformer`), embed_dim, projector_width (0: one linear layer),
      projector_bias, separate_multi_label_scale; learned_background,
      image_projector_bias and logit_bias, off where they are not named. Sizes
      must be there; other fields of the two encoders have a default.
    dtype: of the computation; parameters are float32.
    remat: recompute the encoders' activations backwards.
    matmul_operands: see `DualEncoder`.
    **image_options: fields of the image encoder, in place of those in
      `architecture`.

  Returns:
    An unbound flax module.

  Raises:
    ValueError: for fields that are unknown or missing, naming them.
  """
  _check('architecture', architecture, _TOP + _OPTIONAL, required=_TOP)
  kind = architecture['image_encoder']
  if kind not in IMAGE_ENCODERS:
    raise ValueError(
      f'architecture: unknown image_encoder {kind!r}; choose one of '
      f'{", ".join(IMAGE_ENCODERS)}'
    )
  image = {**architecture['image'], **image_options}
  options = {'dtype': dtype, 'remat': remat}
  return dual_encoder.DualEncoder(
    image=_module('image', IMAGE_ENCODERS[kind], image, options),
    text=_module('text', text.TextTransformer, architecture['text'], options),
    **{k: v for k, v in architecture.items() if k not in _ENCODERS},
    dtype=dtype,
    matmul_operands=matmul_operands,
  )


def defaults(module: type[nn.Module]) -> dict[str, Any]:
  """Fields that an architecture may set of an encoder, with their defaults.

  Options of the Grouping Blocks stand beside the fields of `GroupViT`.
  """
  found = {
    field.name: field.default
    for field in dataclasses.fields(module)
    if field.name not in _RUNTIME
  }
  config: Any = found.pop('grouping', None)
  return found | (dataclasses.asdict(config) if config else {})


def released_sizes(module: type[nn.Module]) -> dict[str, Any]:
  """The sizes of the released model, by field."""
  found = defaults(module)
  return {name: found[name] for name in found if name in _SIZES}


def complete(
  module: type[nn.Module], values: Mapping[str, Any]
) -> dict[str, Any]:
  """The values, sequences as lists, and defaults for the fields not named."""
  return {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in {**defaults(module), **values}.items()
  }


def _module(
  part: str,
  module: type[nn.Module],
  values: Mapping[str, Any],
  options: Mapping[str, Any],
) -> nn.Module:
  """One encoder, its lists made tuples, as flax must be able to hash it."""
  known = tuple(defaults(module))
  required = [name for name in known if name in _SIZES]
  _check(f'architecture, {part}', values, known, required)
  values = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in values.items()
  }
  if module is groupvit.GroupViT:
    names = [f.name for f in dataclasses.fields(grouping.GroupingConfig)]
    chosen = {name: values.pop(name) for name in names if name in values}
    values['grouping'] = grouping.GroupingConfig(**chosen)
  return module(**values, **options)


def _check(
  where: str,
  values: Mapping[str, Any],
  known: Sequence[str],
  required: Sequence[str],
) -> None:
  """Raises ValueError if fields are unknown or missing."""
  unknown = [name for name in values if name not in known]
  missing = [name for name in required if name not in values]
  if unknown or missing:
    wrong = [f'unknown fields: {", ".join(unknown)}'] if unknown else []
    wrong += [f'missing fields: {", ".join(missing)}'] if missing else []
    raise ValueError(
      f'{where}: {"; ".join(wrong)}. The fields are {", ".join(known)}.'
    )


# openai/CLIP: image size, width, blocks by stage, joint width, text width.
_CLIP_RESNETS = {
  'RN50': (224, 64, (3, 4, 6, 3), 1024, 512),
  'RN101': (224, 64, (3, 4, 23, 3), 512, 512),
  'RN50x4': (288, 80, (4, 6, 10, 6), 640, 640),
  'RN50x16': (384, 96, (6, 8, 18, 8), 768, 768),
  'RN50x64': (448, 128, (3, 15, 36, 10), 1024, 1024),
}


def clip_resnet(name: str) -> dict[str, Any]:
  """The architecture of a CLIP ResNet that OpenAI released, by its name."""
  image_size, width, depths, embed_dim, text_width = _CLIP_RESNETS[name]
  return {
    'image_encoder': 'clip_resnet',
    'image': {
      'image_size': image_size,
      'width': width,
      'depths': list(depths),
      'num_heads': width // 2,
    },
    'text': {
      **released_sizes(text.TextTransformer),
      'width': text_width,
      'num_heads': text_width // 64,
    },
    'embed_dim': embed_dim,
    'projector_width': 0,
    'projector_bias': False,
    'image_projector_bias': True,
    'separate_multi_label_scale': False,
  }
