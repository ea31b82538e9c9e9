"""A model as the folder that Hugging Face's GroupViTModel opens.

What their class cannot compute is refused by name; what their form has no field
for stands under a key of our own, or is told to be left out.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax import model_folder
from groupvit_jax.convert import clip_vocabulary
from groupvit_jax.convert.keymaps_hf_groupvit import HF_GROUPVIT
from groupvit_jax.errors import ModelError
from groupvit_jax.evaluation import segmentation
from groupvit_jax.model_folder import Converted, tensors

# In their config.json, which keeps keys that it does not know, also when the
# model is trained on there: short_side and license, read back by `from_state`.
OURS = 'groupvit_jax'
_SECOND_SCALE = 'params/multi_label_logit_scale'
# Fields that GroupViTModel fixes: another value computes something else.
_FIXED = {
  'group_residual': True,
  'pre_assign_attn': True,
  'token_mixer': True,
  'center_keys': False,
  'assignment': 'hard',
}


def save_huggingface(
  converted: Converted, folder: str | os.PathLike, *, overwrite: bool = False
) -> pathlib.Path:
  """Writes a folder for `transformers.GroupViTModel.from_pretrained`.

  What has no place in it is left out, see `left_out`.

  Args:
    converted: a GroupViT.
    folder: where.
    overwrite: replace a model that is there.

  Returns:
    The absolute path of the folder.

  Raises:
    ModelError: their class cannot express the model, or the folder exists.
  """
  if reasons := inexpressible(converted.architecture):
    raise ModelError(
      "Hugging Face's GroupViTModel cannot express this model: "
      + '; '.join(reasons)
    )
  config = huggingface_config(converted.architecture)
  config[OURS] = {
    'short_side': converted.preprocessing['short_side'],
    'license': converted.metadata['license'],
  }
  state = state_dict(converted.variables)

  def fill(scratch: pathlib.Path) -> None:
    tensors.write(scratch / 'model.safetensors', state, {'format': 'pt'})
    files = {'config.json': config}
    files['preprocessor_config.json'] = _preprocessor(converted)
    if converted.tokenizer == 'clip':
      files |= clip_vocabulary.files(config['text_config'])
    elif converted.tokenizer:
      shutil.copyfile(converted.tokenizer, scratch / 'tokenizer.model')
    for name, content in files.items():
      if not isinstance(content, str):
        content = json.dumps(content, indent=2) + '\n'
      (scratch / name).write_text(content)

  return model_folder.write_folder(folder, fill, overwrite=overwrite)


def inexpressible(architecture: Mapping[str, Any]) -> list[str]:
  """What of an architecture GroupViTModel has no field for; [] if all fits."""
  kind, image = architecture['image_encoder'], architecture['image']
  if kind != 'groupvit':
    return [f'its image encoder is {kind}, not groupvit']
  reasons = [
    f'{name}={image[name]!r} (only {value!r})'
    for name, value in _FIXED.items()
    if image.get(name, value) != value
  ]
  if not architecture['projector_width']:
    reasons.append('projector_width=0 (only with a hidden layer)')
  if architecture.get('learned_background'):
    reasons.append('it has learned a background')
  tokens, groups = image['num_group_tokens'], image['num_output_groups']
  for i in range(1, len(tokens)):
    # Theirs is sized by the groups that left the stage before, and fails on
    # any other number of tokens.
    if tokens[i] and tokens[i - 1] and tokens[i - 1] != groups[i - 1]:
      reasons.append(
        f'num_group_tokens[{i - 1}]={tokens[i - 1]} differs from '
        f'num_output_groups[{i - 1}]={groups[i - 1]}'
      )
  return reasons


def left_out(converted: Converted) -> list[str]:
  """What of a model their form does not hold, in words.

  Not worth a word: what every model has and only training reads (drop path,
  Gumbel noise, initialisation).
  """
  lost = []
  if 'multi_label_logit_scale' in converted.variables['params']:
    lost.append('the temperature of the multi-label loss')
  released = segmentation.SegmentConfig.top_k
  if converted.preprocessing.get('top_k', released) != released:
    lost.append('top_k')
  told = converted.metadata
  lost += [name for name in ('metrics', 'step', 'epoch') if told.get(name)]
  if converted.tokenizer not in ('clip', None):
    lost.append('a tokenizer that transformers can open (ours is there)')
  return lost


def state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Variables by the names of GroupViTModel, its counters included."""
  flat = tensors.flatten(variables)
  flat.pop(_SECOND_SCALE, None)
  state = HF_GROUPVIT.to_torch(flat)
  # Batch norm counts its batches; nothing reads it at a fixed momentum.
  for name in [n for n in state if n.endswith('.running_mean')]:
    counter = name.replace('running_mean', 'num_batches_tracked')
    state[counter] = np.array(0, np.int64)
  return state


def huggingface_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
  """config.json of an architecture; all sizes are written out."""
  image, text = architecture['image'], architecture['text']
  width, tokens = image['width'], image['num_group_tokens']
  groups = zip(tokens, image['num_output_groups'], strict=True)
  return {
    'architectures': ['GroupViTModel'],
    'model_type': 'groupvit',
    'projection_dim': architecture['embed_dim'],
    'projection_intermediate_dim': architecture['projector_width'],
    'text_config': {
      'model_type': 'groupvit_text_model',
      'vocab_size': text['vocab_size'],
      'hidden_size': text['width'],
      'intermediate_size': _hidden(text),
      'num_hidden_layers': text['depth'],
      'num_attention_heads': text['num_heads'],
      'max_position_embeddings': text['context_length'],
      # Our tokenizers put both marks above all pieces.
      'bos_token_id': text['vocab_size'] - 2,
      'eos_token_id': text['vocab_size'] - 1,
    },
    'vision_config': {
      'model_type': 'groupvit_vision_model',
      'hidden_size': width,
      'intermediate_size': _hidden(image),
      'num_hidden_layers': sum(image['depths']),
      'depths': list(image['depths']),
      'num_group_tokens': list(tokens),
      # A stage that does not group has none, whatever ours says.
      'num_output_groups': [g if t else 0 for t, g in groups],
      'num_attention_heads': image['num_heads'],
      'image_size': image['image_size'],
      'patch_size': image['patch_size'],
      'assign_mlp_ratio': [0.5, image.get('assign_mlp_ratio', 4.0)],
    },
  }


def _hidden(encoder: Mapping[str, Any]) -> int:
  return int(encoder['width'] * encoder.get('mlp_ratio', 4.0))


def _preprocessor(converted: Converted) -> dict[str, Any]:
  """The released evaluation: 8/7 of the size, bilinear, centre cut out."""
  size = converted.architecture['image']['image_size']
  h, w = (size, size) if isinstance(size, int) else size
  return {
    'image_processor_type': 'CLIPImageProcessor',
    'do_resize': True,
    'size': {'shortest_edge': round(max(h, w) * 8 / 7)},
    'resample': 2,
    'do_center_crop': True,
    'crop_size': {'height': h, 'width': w},
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': list(converted.preprocessing['mean']),
    'image_std': list(converted.preprocessing['std']),
    'do_convert_rgb': True,
  }
