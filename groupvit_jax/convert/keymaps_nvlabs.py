"""Names in the original GroupViT (NVlabs/GroupViT, models/group_vit.py).

qkv is one layer, and the projectors are convolutions of width 1.
"""

from groupvit_jax.convert.keymaps import (
  CONV1D,
  CONV2D,
  KeyMap,
  Row,
  batch_norm,
  linear,
  norm,
  under,
)
from groupvit_jax.convert.keymaps_grouping import stage
from groupvit_jax.convert.keymaps_shared import OPENAI_TEXT

_BLOCK = (
  *norm('norm1', 'norm1'),
  *norm('norm2', 'norm2'),
  *linear('attn.qkv', 'attn/qkv'),
  *linear('attn.proj', 'attn/out'),
  *linear('mlp.fc1', 'mlp/fc1'),
  *linear('mlp.fc2', 'mlp/fc2'),
)
_IMAGE = (
  Row('pos_embed', 'embed/positions'),
  *linear('patch_embed.proj', 'embed', layout=CONV2D),
  *norm('patch_embed.norm', 'embed/norm'),
  *under('layers.{stage}', 'stage_{stage}', stage('blocks', _BLOCK, 'proj')),
  *norm('norm', 'norm'),
)
_PROJECTOR = (
  *linear('linear_hidden.0', 'fc1', layout=CONV1D),
  *batch_norm('linear_hidden.1', 'norm'),
  *linear('linear_out', 'fc2', layout=CONV1D),
)

NVLABS = KeyMap(
  'the original GroupViT',
  'img_encoder.patch_embed.proj.weight',
  (
    *under('img_encoder', 'image', _IMAGE),
    *under('text_encoder', 'text', OPENAI_TEXT),
    *under('img_projector', 'image_projector', _PROJECTOR),
    *under('text_projector', 'text_projector', _PROJECTOR),
    Row('logit_scale', 'logit_scale'),
    Row('multi_label_logit_scale', 'multi_label_logit_scale'),
  ),
  ignored=(r'.*\.num_batches_tracked',),
)
