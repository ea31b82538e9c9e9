"""The goldens' tiny models in every form that conversion reads.

`as_original` writes the original's names out by hand, so that a mistake in
`convert/keymaps_nvlabs.py` has nothing to agree with.
"""

import json
import pathlib

import numpy as np

from groupvit_jax.convert import load as load_lib
from groupvit_jax.convert import tensors, torch_files
from groupvit_jax.convert.keymaps import HF_GROUPVIT

TESTDATA = pathlib.Path(__file__).parent / 'testdata'


def load(name='hf_three_stage'):
  """All arrays of a golden."""
  with np.load(TESTDATA / f'{name}.npz') as file:
    return dict(file)


def state(arrays):
  """The state dict of a golden."""
  return {
    name.removeprefix('sd/'): x
    for name, x in arrays.items()
    if name.startswith('sd/')
  }


def config(arrays):
  """Hugging Face's config of a golden."""
  return json.loads(arrays['cfg'].tobytes())


def as_state_dict(arrays, hf_config=None, **extras):
  """As if read from a file."""
  return torch_files.StateDict(
    arrays, hf_config or {}, {}, extras, pathlib.Path('weights')
  )


def converted(arrays):
  """The model of a golden."""
  return converted_state(state(arrays), config(arrays))


def converted_state(weights, hf_config):
  """The model of weights by Hugging Face's names."""
  return load_lib.from_state(as_state_dict(weights, hf_config))


def to_flax(arrays):
  """Gradients or statistics by Hugging Face's names, nested by ours."""
  return tensors.nest(HF_GROUPVIT.to_flax(arrays))


def write_huggingface(folder, weights, hf_config):
  """A Hugging Face folder; returns it."""
  folder.mkdir(parents=True)
  tensors.write(folder / 'model.safetensors', weights, {'format': 'pt'})
  (folder / 'config.json').write_text(json.dumps(hf_config))
  return folder


_RENAMED = (
  ('vision_model.embeddings.position_embeddings', 'img_encoder.pos_embed'),
  (
    'vision_model.embeddings.patch_embeddings.projection',
    'img_encoder.patch_embed.proj',
  ),
  ('vision_model.embeddings.layernorm', 'img_encoder.patch_embed.norm'),
  ('vision_model.layernorm', 'img_encoder.norm'),
  ('vision_model.encoder.stages', 'img_encoder.layers'),
  ('text_model.embeddings.token_embedding', 'text_encoder.token_embedding'),
  (
    'text_model.embeddings.position_embedding.weight',
    'text_encoder.positional_embedding',
  ),
  ('text_model.encoder.layers', 'text_encoder.transformer.resblocks'),
  ('text_model.final_layer_norm', 'text_encoder.ln_final'),
  ('visual_projection.3', 'img_projector.linear_out'),
  ('visual_projection', 'img_projector.linear_hidden'),
  ('text_projection.3', 'text_projector.linear_out'),
  ('text_projection', 'text_projector.linear_hidden'),
)
_IN_IMAGE_BLOCKS = (
  ('.layers.', '.blocks.'),
  ('self_attn.out_proj', 'attn.proj'),
  ('layer_norm', 'norm'),
  ('pre_assign_attn.attn.out_proj', 'pre_assign_attn.attn.proj'),
)
_IN_TEXT_BLOCKS = (
  ('self_attn.out_proj', 'attn.out_proj'),
  ('.layer_norm', '.ln_'),
  ('mlp.fc1', 'mlp.c_fc'),
  ('mlp.fc2', 'mlp.c_proj'),
)


def as_original(weights):
  """Hugging Face's weights under the original's names and shapes.

  NVlabs/GroupViT, models/group_vit.py, transformer.py and
  multi_label_contrastive.py: qkv fused, projectors convolutions of width 1.
  """
  renamed = {}
  for name, x in weights.items():
    if '.self_attn.q_proj.' in name:
      x = np.concatenate(
        [weights[name.replace('q_proj', f'{p}_proj')] for p in 'qkv']
      )
      if name.startswith('text_model'):
        name = name.replace('self_attn.q_proj.', 'attn.in_proj_')
      else:
        name = name.replace('self_attn.q_proj', 'attn.qkv')
    elif '.self_attn.k_proj.' in name or '.self_attn.v_proj.' in name:
      continue
    if 'projection.' in name and x.ndim == 2 and 'patch' not in name:
      x = x[..., None]
    text = name.startswith('text_model')
    for theirs, original in _IN_TEXT_BLOCKS if text else ():
      name = name.replace(theirs, original)
    for theirs, original in _RENAMED:
      if name.startswith(theirs):
        name = original + name.removeprefix(theirs)
        break
    if name.startswith('img_encoder.'):
      tail = name.removeprefix('img_encoder.layers.')
      head = name.removesuffix(tail)
      for theirs, original in _IN_IMAGE_BLOCKS:
        tail = tail.replace(theirs, original)
      name = head + tail
    renamed[name] = x
  return renamed | {'multi_label_logit_scale': np.array(2.5, np.float32)}
