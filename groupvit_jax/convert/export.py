"""A model as a folder for transformers (GroupViTModel, CLIPModel) or open_clip.

What their class cannot compute is refused by name; what their form has no field
for stands under a key of our own, or is listed as left out.
"""

import functools
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import sentencepiece as spm

from groupvit_jax.convert import clip_export, tensors, torch_files
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert.folder import Converted
from groupvit_jax.convert.keymaps import HF_GROUPVIT
from groupvit_jax.errors import ModelError
from groupvit_jax.evaluation.config import OWN_STEPS, SegmentConfig
from groupvit_jax.text import clip

# CLIP's vocabulary, in the files that Hugging Face's CLIPTokenizer reads. The
# sentencepiece model here holds the pieces in the order of their merges; the
# two pieces that a merge joined are what the earlier merges make of its piece.

_MARKS = (clip.SOT_TEXT, clip.EOT_TEXT)
_CHARACTERS = {byte: character for character, byte in clip.alphabet().items()}
# Single bytes, plain and at the end of a word; the rest are merges.
_SINGLE = 512


def clip_files(text_config: Mapping[str, Any]) -> dict[str, Any]:
  """Contents by file name; a str is text, else JSON."""
  vocabulary, merges = _tables()
  start, end = _MARKS
  marks = {
    'bos_token': start,
    'eos_token': end,
    'pad_token': end,
    'unk_token': end,
  }
  return {
    'vocab.json': json.dumps(vocabulary, ensure_ascii=False),
    'merges.txt': '#version: 0.2\n' + '\n'.join(merges) + '\n',
    'tokenizer_config.json': {
      'tokenizer_class': 'CLIPTokenizer',
      'model_max_length': text_config['max_position_embeddings'],
      **marks,
    },
    'special_tokens_map.json': marks,
  }


@functools.cache
def _tables() -> tuple[dict[str, int], tuple[str, ...]]:
  """Ids by their spelling, and the merges in order."""
  model = spm.SentencePieceProcessor(model_file=str(clip.MODEL_PATH))
  pieces = [model.id_to_piece(i) for i in range(clip.SOT_ID)]
  ranks = {piece: i for i, piece in enumerate(pieces)}
  merges = []
  for rank in range(_SINGLE, len(pieces)):
    left, right = _joined(pieces[rank], rank, ranks)
    merges.append(f'{_spell(left)} {_spell(right)}')
  vocabulary = {_spell(piece): i for i, piece in enumerate(pieces)}
  for i, mark in enumerate(_MARKS):
    vocabulary[mark] = len(pieces) + i
  return vocabulary, tuple(merges)


def _joined(piece: str, rank: int, ranks: Mapping[str, int]) -> list[str]:
  """The two parts of a piece, by applying the merges below its rank."""
  parts = list(piece)
  while len(parts) > 2:
    pairs = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
    lowest = min(pairs)
    if lowest >= rank:
      break
    i = pairs.index(lowest)
    parts[i : i + 2] = [parts[i] + parts[i + 1]]
  if len(parts) != 2:
    raise ValueError(f'piece {rank} of the vocabulary is no merge of two')
  return parts


def _spell(piece: str) -> str:
  """CLIP's spelling: a printable character for each byte, `</w>` at the end."""
  spelled = []
  for code in map(ord, piece):
    spelled.append(_CHARACTERS[code & 0xFF])
    if code & 0x100:  # see clip_bpe: U+E100 and above end a word
      spelled.append('</w>')
  return ''.join(spelled)


# In their config.json, which keeps keys that it does not know, also when the
# model is trained on there: short_side and license, read back by `from_state`.
OURS = 'groupvit_jax'
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
  """Writes a folder for `from_pretrained` of transformers' GroupViT or CLIP.

  What has no place in it is left out, see `left_out`.

  Args:
    converted: a GroupViT, or a CLIP with a ViT.
    folder: where.
    overwrite: replace a model that is there.

  Returns:
    The absolute path of the folder.

  Raises:
    ModelError: their class cannot express the model, or the folder exists.
  """
  if converted.architecture['image_encoder'].startswith('clip_'):
    clip_export.check(converted.architecture)
    config = clip_export.huggingface_config(converted.architecture)
    state = clip_export.huggingface_state(converted)
  else:
    if reasons := inexpressible(converted.architecture):
      raise ModelError(
        "Hugging Face's GroupViTModel cannot express this model: "
        + '; '.join(reasons)
      )
    config = huggingface_config(converted.architecture)
    flat = tensors.flatten(converted.variables)
    flat.pop('params/multi_label_logit_scale', None)
    state = HF_GROUPVIT.to_torch(flat)
  config[OURS] = {
    'short_side': converted.preprocessing['short_side'],
    'license': converted.metadata['license'],
  }

  def fill(scratch: pathlib.Path) -> None:
    tensors.write(scratch / 'model.safetensors', state, {'format': 'pt'})
    files = {'config.json': config}
    files['preprocessor_config.json'] = _preprocessor(converted)
    if converted.tokenizer == 'clip':
      files |= clip_files(config['text_config'])
    elif converted.tokenizer:
      shutil.copyfile(converted.tokenizer, scratch / 'tokenizer.model')
    for name, content in files.items():
      if not isinstance(content, str):
        content = json.dumps(content, indent=2) + '\n'
      (scratch / name).write_text(content)

  return model_folder.write_folder(folder, fill, overwrite=overwrite)


def save_open_clip(
  converted: Converted, folder: str | os.PathLike, *, overwrite: bool = False
) -> pathlib.Path:
  """Writes a folder for open_clip's `create_model('local-dir:...')`.

  Arguments, result and errors as of `save_huggingface`; ResNets as well.
  """
  clip_export.check(converted.architecture)
  state = clip_export.open_clip_state(converted)
  config = clip_export.open_clip_config(converted)

  def fill(scratch: pathlib.Path) -> None:
    weights = scratch / 'open_clip_model.safetensors'
    tensors.write(weights, state, {'format': 'pt'})
    text = json.dumps(config, indent=2) + '\n'
    (scratch / torch_files.OPEN_CLIP_CONFIG).write_text(text)

  return model_folder.write_folder(folder, fill, overwrite=overwrite)


def inexpressible(architecture: Mapping[str, Any]) -> list[str]:
  """Fields of an architecture that GroupViTModel lacks; [] if all fits."""
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
  # Theirs is sized by the groups that left the stage before, and fails on any
  # other number of tokens.
  reasons.extend(
    f'num_group_tokens[{i - 1}]={tokens[i - 1]} differs from '
    f'num_output_groups[{i - 1}]={groups[i - 1]}'
    for i in range(1, len(tokens))
    if tokens[i] and tokens[i - 1] and tokens[i - 1] != groups[i - 1]
  )
  return reasons


def left_out(converted: Converted) -> list[str]:
  """Parts of a model that their form does not hold, in words.

  Not worth a word: what every model has and only training reads (drop path,
  Gumbel noise, initialisation).
  """
  lost = []
  if 'multi_label_logit_scale' in converted.variables['params']:
    lost.append('the logit scale of the multi-label loss')
  lost += [
    name
    for name in OWN_STEPS
    if name in converted.preprocessing
    and converted.preprocessing[name] != getattr(SegmentConfig, name)
  ]
  kept = converted.metadata
  lost += [name for name in ('metrics', 'step', 'epoch') if kept.get(name)]
  if converted.tokenizer not in ('clip', None):
    lost.append('a tokenizer that transformers can open (ours is there)')
  return lost


def huggingface_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
  """config.json of an architecture; all sizes are written out."""
  image, text = architecture['image'], architecture['text']
  tokens = image['num_group_tokens']
  groups = zip(tokens, image['num_output_groups'], strict=True)
  return {
    'architectures': ['GroupViTModel'],
    'model_type': 'groupvit',
    'projection_dim': architecture['embed_dim'],
    'projection_intermediate_dim': architecture['projector_width'],
    'text_config': {
      'model_type': 'groupvit_text_model',
      **clip_export.text_fields(text, 'quick_gelu'),
    },
    'vision_config': {
      'model_type': 'groupvit_vision_model',
      'num_hidden_layers': sum(image['depths']),
      'depths': list(image['depths']),
      'num_group_tokens': list(tokens),
      # A stage that does not group has none, whatever ours says.
      'num_output_groups': [g if t else 0 for t, g in groups],
      'assign_mlp_ratio': [0.5, image.get('assign_mlp_ratio', 4.0)],
      **clip_export.image_fields(image, 'gelu'),
    },
  }


def _preprocessor(converted: Converted) -> dict[str, Any]:
  """The released evaluation: 8/7 of the size, bilinear, centre cut out.

  CLIP's: the size itself, bicubic.
  """
  clip = converted.architecture['image_encoder'].startswith('clip_')
  size = converted.architecture['image']['image_size']
  h, w = np.broadcast_to(size, 2).tolist()
  return {
    'image_processor_type': 'CLIPImageProcessor',
    'do_resize': True,
    'size': {'shortest_edge': round(max(h, w) * (1 if clip else 8 / 7))},
    'resample': 3 if clip else 2,
    'do_center_crop': True,
    'crop_size': {'height': h, 'width': w},
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': list(converted.preprocessing['mean']),
    'image_std': list(converted.preprocessing['std']),
    'do_convert_rgb': True,
  }
