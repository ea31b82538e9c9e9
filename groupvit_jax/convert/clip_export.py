"""CLIP as open_clip and Hugging Face's `CLIPModel` store it.

open_clip's names are OpenAI's, so that its file is also the state dict that
openai/CLIP's `build_model` takes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax.convert import tensors
from groupvit_jax.convert.folder import Converted
from groupvit_jax.convert.keymaps import HF_CLIP, OPENAI_CLIP, OPENAI_RESNET
from groupvit_jax.errors import ModelError
from groupvit_jax.models import resnet

_KEYMAPS = {'clip_vit': OPENAI_CLIP, 'clip_resnet': OPENAI_RESNET}


def check(architecture: Mapping[str, Any]) -> None:
  """ModelError for a model that their classes cannot compute."""
  kind = architecture['image_encoder']
  reasons = []
  if kind not in _KEYMAPS:
    reasons.append(f'its image encoder is {kind}, not one of CLIP')
  if architecture['projector_width'] or architecture['projector_bias']:
    reasons.append('its projectors are not single matrices')
  if architecture['separate_multi_label_scale']:
    reasons.append('it has a second logit scale')
  if len(set(_activations(architecture))) > 1:
    reasons.append('its encoders have different activations')
  if reasons:
    raise ModelError(f'no CLIP can express this model: {"; ".join(reasons)}')


def open_clip_state(converted: Converted) -> dict[str, np.ndarray]:
  """State dict by OpenAI's names."""
  keymap = _KEYMAPS[converted.architecture['image_encoder']]
  return keymap.to_torch(tensors.flatten(converted.variables))


def open_clip_config(converted: Converted) -> dict[str, Any]:
  """open_clip_config.json, which `create_model('local-dir:...')` reads."""
  a = converted.architecture
  image, text = a['image'], a['text']
  vision = {
    name: image[name]
    for name in ('image_size', 'patch_size', 'width', 'mlp_ratio')
    if name in image
  }
  width = image['width']
  if a['image_encoder'] == 'clip_resnet':
    width *= resnet.ClipResNet.patch_size
  vision['layers'] = image.get('depth', image.get('depths'))
  vision['head_width'] = width // image['num_heads']
  model = {
    'embed_dim': a['embed_dim'],
    'quick_gelu': _activations(a)[0] == 'quick_gelu',
    'vision_cfg': vision,
    'text_cfg': {
      'context_length': text['context_length'],
      'vocab_size': text['vocab_size'],
      'width': text['width'],
      'heads': text['num_heads'],
      'layers': text['depth'],
      'mlp_ratio': text.get('mlp_ratio', 4.0),
    },
  }
  if a.get('logit_bias'):
    bias = converted.variables['params']['logit_bias']
    model['init_logit_bias'] = float(bias)
  return {
    'model_cfg': model,
    'preprocess_cfg': {
      'mean': list(converted.preprocessing['mean']),
      'std': list(converted.preprocessing['std']),
      'interpolation': 'bicubic',
      'resize_mode': 'shortest',
    },
  }


def huggingface_state(converted: Converted) -> dict[str, np.ndarray]:
  """State dict of `CLIPModel`."""
  flat = tensors.flatten(converted.variables)
  if flat.pop('params/logit_bias', None) is not None:
    raise ModelError(
      "CLIPModel has no bias of the logits; use '--to open_clip'"
    )
  return HF_CLIP.to_torch(flat)


def huggingface_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
  """config.json of `CLIPModel`; ModelError for a ResNet, which it lacks."""
  if architecture['image_encoder'] != 'clip_vit':
    raise ModelError(
      "transformers has no class for CLIP's ResNets; use '--to open_clip'"
    )
  image, text = architecture['image'], architecture['text']
  vision_act, text_act = _activations(architecture)
  return {
    'architectures': ['CLIPModel'],
    'model_type': 'clip',
    'projection_dim': architecture['embed_dim'],
    'text_config': {
      'model_type': 'clip_text_model',
      'projection_dim': architecture['embed_dim'],
      **text_fields(text, text_act),
    },
    'vision_config': {
      'model_type': 'clip_vision_model',
      'projection_dim': architecture['embed_dim'],
      'num_hidden_layers': image['depth'],
      **image_fields(image, vision_act),
    },
  }


def text_fields(text: Mapping[str, Any], activation: str) -> dict[str, Any]:
  """Fields of a text_config, of CLIP and GroupViT."""
  return {
    'vocab_size': text['vocab_size'],
    'max_position_embeddings': text['context_length'],
    # Our tokenizers put both marks above all pieces.
    'bos_token_id': text['vocab_size'] - 2,
    'eos_token_id': text['vocab_size'] - 1,
    'num_hidden_layers': text['depth'],
    **_transformer(text, activation),
  }


def image_fields(image: Mapping[str, Any], activation: str) -> dict[str, Any]:
  """Fields of a vision_config, of CLIP and GroupViT."""
  return {
    'image_size': image['image_size'],
    'patch_size': image['patch_size'],
    **_transformer(image, activation),
  }


def _transformer(encoder: Mapping[str, Any], activation: str) -> dict[str, Any]:
  return {
    'hidden_size': encoder['width'],
    'intermediate_size': int(encoder['width'] * encoder.get('mlp_ratio', 4.0)),
    'num_attention_heads': encoder['num_heads'],
    'hidden_act': activation,
  }


def _activations(architecture: Mapping[str, Any]) -> tuple[str, str]:
  """Of the image encoder (of a ResNet's text encoder, as it has none)."""
  text = architecture['text'].get('activation', 'quick_gelu')
  if architecture['image_encoder'] != 'clip_vit':
    return text, text
  return architecture['image'].get('activation', 'quick_gelu'), text
