"""Hugging Face GroupViT state dicts as this project's variables.

Test helper: a table of patterns; a key that is unmapped or doubled raises.
"""

import re

import numpy as np

from groupvit_jax.models import dual_encoder, groupvit, text

_TEXT = r'text_model\.encoder\.layers\.(?P<layer>\d+)\.'
_STAGE = r'vision_model\.encoder\.stages\.(?P<stage>\d+)\.'
_GROUP = _STAGE + r'downsample\.'
_GROUPING = 'image/stage_{stage}/grouping'

# Module pattern, flax path; a number is the place in a fused kernel.
_BLOCK = (
  (r'self_attn\.q_proj', 'attn/qkv', 0),
  (r'self_attn\.k_proj', 'attn/qkv', 1),
  (r'self_attn\.v_proj', 'attn/qkv', 2),
  (r'self_attn\.out_proj', 'attn/out', None),
  (r'layer_norm(?P<i>[12])', 'norm{i}', None),
  (r'mlp\.(?P<fc>fc[12])', 'mlp/{fc}', None),
)
_MODULES = (
  *((_TEXT + k, 'text/block_{layer}/' + path, i) for k, path, i in _BLOCK),
  *(
    (
      _STAGE + r'layers\.(?P<layer>\d+)\.' + k,
      'image/stage_{stage}/block_{layer}/' + path,
      i,
    )
    for k, path, i in _BLOCK
  ),
  (r'text_model\.final_layer_norm', 'text/norm', None),
  (r'vision_model\.layernorm', 'image/norm', None),
  (r'vision_model\.embeddings\.layernorm', 'image/embed/norm', None),
  (
    r'vision_model\.embeddings\.patch_embeddings\.projection',
    'image/embed',
    None,
  ),
  (_STAGE + r'group_projector\.0', 'image/stage_{stage}/norm_previous', None),
  (
    _STAGE + r'group_projector\.1\.(?P<fc>fc[12])',
    'image/stage_{stage}/project_previous/mlp/{fc}',
    None,
  ),
  *(
    (_GROUP + k, f'{_GROUPING}/{path}', i)
    for k, path, i in (
      (r'(?P<norm>norm_tokens|norm_x)', '{norm}', None),
      (r'mlp_inter\.(?P<fc>fc[12])', 'mixer/mlp/{fc}', None),
      (r'norm_post_tokens', 'norm_mixed', None),
      (r'pre_assign_attn\.attn\.q_proj', 'pre_assign/attn/q', None),
      (r'pre_assign_attn\.attn\.k_proj', 'pre_assign/attn/kv', 0),
      (r'pre_assign_attn\.attn\.v_proj', 'pre_assign/attn/kv', 1),
      (r'pre_assign_attn\.attn\.out_proj', 'pre_assign/attn/out', None),
      (
        r'pre_assign_attn\.(?P<norm>norm2|norm_post)',
        'pre_assign/{norm}',
        None,
      ),
      (r'pre_assign_attn\.mlp\.(?P<fc>fc[12])', 'pre_assign/mlp/{fc}', None),
      (r'assign\.q_proj', 'assign/q', None),
      (r'assign\.k_proj', 'assign/kv', 0),
      (r'assign\.v_proj', 'assign/kv', 1),
      (r'assign\.proj', 'assign/out', None),
      (r'norm_new_x', 'norm_out', None),
      (r'mlp_channels\.(?P<fc>fc[12])', 'mlp/{fc}', None),
    )
  ),
  *(
    (f'{theirs}_projection' + k, f'{ours}_projector/{path}', None)
    for theirs, ours in (('visual', 'image'), ('text', 'text'))
    for k, path in ((r'\.0', 'fc1'), (r'\.1', 'norm'), (r'\.3', 'fc2'))
  ),
)
# Names that are an array of their own.
_ARRAYS = (
  ('logit_scale', 'logit_scale'),
  (r'text_model\.embeddings\.token_embedding\.weight', 'text/tokens'),
  (r'text_model\.embeddings\.position_embedding\.weight', 'text/positions'),
  (r'vision_model\.embeddings\.position_embeddings', 'image/embed/positions'),
  (_STAGE + 'group_token', 'image/stage_{stage}/group_tokens'),
)
_STATS = {'running_mean': 'mean', 'running_var': 'var'}


def to_flax(state: dict[str, np.ndarray]) -> dict[str, dict]:
  """Maps a state dict, or gradients by the same names.

  Args:
    state: arrays by their Hugging Face names.

  Returns:
    Nested 'params' and 'batch_stats' of a `DualEncoder` without a separate
    multi-label scale.

  Raises:
    KeyError: for a name that no pattern matches, or that comes twice.
  """
  found: dict[str, dict] = {}
  for key, value in state.items():
    if key.endswith('num_batches_tracked'):
      continue
    path, part = _place(key)
    parts = found.setdefault(path, {})
    if part in parts:
      raise KeyError(f'{key} maps to {path}, which is already filled')
    parts[part] = _convert(path, value)
  tree: dict[str, dict] = {'params': {}, 'batch_stats': {}}
  for path, parts in found.items():
    *folders, leaf = path.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    arrays = [parts[i] for i in sorted(parts, key=lambda i: i or 0)]
    node[leaf] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, -1)
  return tree


def _place(key: str) -> tuple[str, int | None]:
  """Flax path of a name, and its place in a fused array or None."""
  for pattern, path in _ARRAYS:
    if m := re.fullmatch(pattern, key):
      return 'params/' + path.format(**m.groupdict()), None
  module, _, leaf = key.rpartition('.')
  for pattern, path, part in _MODULES:
    if m := re.fullmatch(pattern, module):
      path = path.format(**m.groupdict())
      if leaf in _STATS:
        return f'batch_stats/{path}/{_STATS[leaf]}', part
      if leaf == 'weight':
        leaf = 'scale' if 'norm' in path.split('/')[-1] else 'kernel'
      return f'params/{path}/{leaf}', part
  raise KeyError(f'no pattern maps {key}')


def _convert(path: str, value: np.ndarray) -> np.ndarray:
  """PyTorch's (out, in, ...) kernels as flax's (..., in, out)."""
  if not path.endswith('kernel'):
    return value
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def build(config: dict, remat: bool = False) -> dual_encoder.DualEncoder:
  """The model of a Hugging Face configuration (as a dict).

  Args:
    config: with text_config, vision_config and projection sizes.
    remat: of both encoders.

  Returns:
    A `DualEncoder` without drop-path, which their port lacks.
  """
  v, t = config['vision_config'], config['text_config']
  image = groupvit.GroupViT(
    image_size=v['image_size'],
    patch_size=v['patch_size'],
    width=v['hidden_size'],
    depths=tuple(v['depths']),
    num_heads=v['num_attention_heads'],
    num_group_tokens=tuple(v['num_group_tokens']),
    num_output_groups=tuple(v['num_output_groups']),
    mlp_ratio=v['intermediate_size'] / v['hidden_size'],
    drop_path_rate=0.0,
    remat=remat,
  )
  encoder = text.TextTransformer(
    vocab_size=t['vocab_size'],
    context_length=t['max_position_embeddings'],
    width=t['hidden_size'],
    depth=t['num_hidden_layers'],
    num_heads=t['num_attention_heads'],
    mlp_ratio=t['intermediate_size'] / t['hidden_size'],
    remat=remat,
  )
  return dual_encoder.DualEncoder(
    image,
    encoder,
    embed_dim=config['projection_dim'],
    projector_width=config['projection_intermediate_dim'],
    separate_multi_label_scale=False,
  )
