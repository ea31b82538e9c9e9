"""Tables of names: the parameters of a PyTorch state dict, and ours.

A table reads both ways. A name that no row maps, or that is missing, is an
error that names it: weights are never guessed.
"""

import collections
import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from groupvit_jax.errors import ModelError

# Our modules, and theirs. `{layer}` stands for a number, `[qkv]` for layers of
# theirs that are one fused layer here, a last `_` for names joined without dot.
Table = Mapping[str, str]

SHOWN = 10
# Single arrays, stored alike; other entries are modules of several.
_ARRAYS = (
  *('tokens', 'positions', 'class_token', 'group_tokens', 'kernel'),
  *('logit_scale', 'multi_label_logit_scale', 'logit_bias'),
)
_NORM = {  # layer norms lack the last two
  'params/{}/scale': 'weight',
  'params/{}/bias': 'bias',
  'batch_stats/{}/mean': 'running_mean',
  'batch_stats/{}/var': 'running_var',
}
_LINEAR = {'params/{}/kernel': 'weight', 'params/{}/bias': 'bias'}


class Row(NamedTuple):
  """One array of theirs, or one in each of many blocks.

  Attributes:
    theirs: its name.
    path: of ours, with the same numbers.
    transposed: whether axes are stored in PyTorch's order.
    part, parts: along the last axis of a fused array of ours.
  """

  theirs: str
  path: str
  transposed: bool = False
  part: int = 0
  parts: int = 1


def _rows(ours: str, theirs: str) -> list[Row]:
  """The rows of a table's entry."""
  kind = ours.rpartition('/')[2]
  if kind in _ARRAYS:
    return [Row(theirs, f'params/{ours}')]
  fused = re.search(r'\[(\w+)\]', theirs)
  modules = (
    [theirs.replace(fused[0], x) for x in fused[1]] if fused else [theirs]
  )
  leaves = _NORM if kind.startswith('norm') else _LINEAR
  return [
    Row(
      f'{module}{"" if module.endswith("_") else "."}{leaf}',
      path.replace('{}', ours),
      path.endswith('kernel'),
      part,
      len(modules),
    )
    for part, module in enumerate(modules)
    for path, leaf in leaves.items()
  ]


class KeyMap:
  """A table of names, usable both ways.

  Attributes:
    title: what the names belong to, for messages.
    marker: a name that only such a state dict holds.
  """

  def __init__(
    self, title: str, marker: str, table: Table, ignored: str = '(?!)'
  ):
    """Takes a table, and a pattern of names that carry no weight."""
    self.title = title
    self.marker = marker
    self._rows = [row for entry in table.items() for row in _rows(*entry)]
    self._by_path = collections.defaultdict(list)
    for row in self._rows:
      self._by_path[row.path].append(row)
    self._ignored = re.compile(ignored)

  def to_flax(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our variables of a state dict, or of gradients by the same names.

    Returns:
      Arrays by path ('params/image/norm/scale').

    Raises:
      ModelError: for names that no row maps, for parts of a fused array that
        are not there, and for arrays without the axes that they should have.
    """
    found = collections.defaultdict(dict)
    unmapped, misshapen = [], []
    for name, value in state.items():
      if self._ignored.fullmatch(name):
        continue
      path, row = self._find(name)
      if row is None:
        unmapped.append(name)
        continue
      try:
        found[path][row.part] = _transposed(value) if row.transposed else value
      except ValueError:  # it has other axes
        misshapen.append(f'{name}: {value.shape}')
    flat, missing = {}, []
    for path, parts in found.items():
      names = self.names(path)
      missing += [name for i, name in enumerate(names) if i not in parts]
      shapes = [x.shape for x in parts.values()]
      if len(parts) == 1:
        flat[path] = parts[min(parts)]
      elif shapes[0] and len(set(shapes)) == 1:
        flat[path] = np.concatenate([parts[i] for i in sorted(parts)], axis=-1)
      else:
        misshapen += [f'{names[i]}: {x.shape}' for i, x in parts.items()]
    self.refuse(misshapen=misshapen, unmapped=unmapped, missing=missing)
    return flat

  def to_torch(self, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of our variables (by path), with counters of batches.

    Raises:
      ModelError: for paths that no row maps.
    """
    state, unmapped = {}, []
    for path, value in flat.items():
      rows, names = self._match(path)
      if not names:
        unmapped.append(path)
        continue
      parts = np.split(value, len(rows), axis=-1) if rows[1:] else [value]
      for name, row, part in zip(names, rows, parts, strict=True):
        back = np.moveaxis(part, (-1, -2), (0, 1)) if row.transposed else part
        state[name] = back
        module, _, leaf = name.rpartition('.')
        if leaf == 'running_mean':  # nothing reads it at a fixed momentum
          state[f'{module}.num_batches_tracked'] = np.array(0, np.int64)
    self.refuse(unmapped=unmapped)
    return state

  def names(self, path: str) -> list[str]:
    """Their names of the parts of one of our arrays; [] if it has none."""
    return self._match(path)[1]

  def refuse(self, **problems: Sequence[str]) -> None:
    """ModelError that lists names by what is wrong with them, if any are."""
    lists = []
    for kind, names in problems.items():
      if names:
        more = len(names) - SHOWN
        shown = ', '.join(names[:SHOWN])
        shown += f', and {more} more' if more > 0 else ''
        lists.append(f'{len(names)} {kind} ({shown})')
    if lists:
      raise ModelError(f'not the weights of {self.title}: {"; ".join(lists)}')

  def _match(self, path: str) -> tuple[list[Row], list[str]]:
    """The rows of one of our arrays, and their names."""
    for template, rows in self._by_path.items():
      if match := _pattern(template).fullmatch(path):
        return rows, [row.theirs.format(**match.groupdict()) for row in rows]
    return [], []

  def _find(self, name: str) -> tuple[str, Row | None]:
    """Our path of one of their names, and its row."""
    for row in self._rows:
      if match := _pattern(row.theirs).fullmatch(name):
        return row.path.format(**match.groupdict()), row
    return '', None


def _transposed(kernel: np.ndarray) -> np.ndarray:
  """PyTorch's (out, in, h, w) as (h, w, in, out).

  A linear layer may be a convolution of width 1: (out, in, 1).
  """
  if kernel.ndim == 3:
    kernel = kernel.squeeze(-1)
  return np.moveaxis(kernel, (0, 1), (-1, -2))


@functools.cache
def _pattern(template: str) -> re.Pattern:
  """Matches a template; every `{name}` is a number, and equal ones agree."""
  escaped = re.escape(template)
  return re.compile(re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>\\d+)', escaped))


def _under(ours: str, theirs: str, table: Table) -> dict[str, str]:
  """The table of a module, below the module that holds it."""
  dot = f'{theirs}.' if theirs else ''
  return {f'{ours}/{a}': f'{dot}{b}' for a, b in table.items()}


# Hugging Face's GroupViT (transformers 4.20 to 5.23) and CLIP.

_HF_BLOCK = {
  'norm1': 'layer_norm1',
  'norm2': 'layer_norm2',
  'attn/qkv': 'self_attn.[qkv]_proj',
  'attn/out': 'self_attn.out_proj',
  'mlp/fc1': 'mlp.fc1',
  'mlp/fc2': 'mlp.fc2',
}
_HF_TEXT = {
  'tokens': 'embeddings.token_embedding.weight',
  'positions': 'embeddings.position_embedding.weight',
  **_under('block_{layer}', 'encoder.layers.{layer}', _HF_BLOCK),
  'norm': 'final_layer_norm',
}
_HF_CLIP_IMAGE = {
  'embed/class_token': 'embeddings.class_embedding',
  'embed/positions': 'embeddings.position_embedding.weight',
  'embed': 'embeddings.patch_embedding',
  'norm_pre': 'pre_layrnorm',  # spelled so in every version of transformers
  **_under('block_{layer}', 'encoder.layers.{layer}', _HF_BLOCK),
  'norm': 'post_layernorm',
}
HF_CLIP = KeyMap(
  "Hugging Face's CLIPModel",
  'vision_model.embeddings.class_embedding',
  {
    **_under('image', 'vision_model', _HF_CLIP_IMAGE),
    **_under('text', 'text_model', _HF_TEXT),
    'image_projector/fc2': 'visual_projection',
    'text_projector/fc2': 'text_projection',
    'logit_scale': 'logit_scale',
  },
  r'.*\.position_ids',
)


# OpenAI's CLIP, whose text encoder the original GroupViT keeps.

_OPENAI_BLOCK = {
  'norm1': 'ln_1',
  'norm2': 'ln_2',
  'attn/qkv': 'attn.in_proj_',
  'attn/out': 'attn.out_proj',
  'mlp/fc1': 'mlp.c_fc',
  'mlp/fc2': 'mlp.c_proj',
}
_OPENAI_BLOCKS = _under(
  'block_{layer}', 'transformer.resblocks.{layer}', _OPENAI_BLOCK
)
_OPENAI_TEXT = {
  'tokens': 'token_embedding.weight',
  'positions': 'positional_embedding',
  **_OPENAI_BLOCKS,
  'norm': 'ln_final',
}
_OPENAI_IMAGE = {
  'embed/class_token': 'class_embedding',
  'embed/positions': 'positional_embedding',
  'embed': 'conv1',
  'norm_pre': 'ln_pre',
  **_OPENAI_BLOCKS,
  'norm': 'ln_post',
}
_OPENAI_JOINT = {
  **_under('text', '', _OPENAI_TEXT),
  'text_projector/fc2/kernel': 'text_projection',  # stored as (in, out)
  'logit_scale': 'logit_scale',
  # Of open_clip's models that were trained with the sigmoid loss.
  'logit_bias': 'logit_bias',
}
# Sizes, which OpenAI's archives hold as if they were weights; open_clip's
# buffer; counters of batch norms.
_OPENAI_IGNORED = (
  'input_resolution|context_length|vocab_size|attn_mask|'
  r'.*\.num_batches_tracked'
)
OPENAI_CLIP = KeyMap(
  "OpenAI's CLIP (a ViT)",
  'visual.class_embedding',
  {
    **_under('image', 'visual', _OPENAI_IMAGE),
    'image_projector/fc2/kernel': 'visual.proj',
    **_OPENAI_JOINT,
  },
  _OPENAI_IGNORED,
)

_STEM = {
  **{f'conv{i}': f'conv{i}' for i in (1, 2, 3)},
  **{f'norm{i}': f'bn{i}' for i in (1, 2, 3)},
}
_BOTTLENECK = {
  **_STEM,
  'conv_skip': 'downsample.0',
  'norm_skip': 'downsample.1',
}
_RESNET = {
  **_STEM,
  **_under('stage_0_block_{block}', 'layer1.{block}', _BOTTLENECK),
  **_under('stage_1_block_{block}', 'layer2.{block}', _BOTTLENECK),
  **_under('stage_2_block_{block}', 'layer3.{block}', _BOTTLENECK),
  **_under('stage_3_block_{block}', 'layer4.{block}', _BOTTLENECK),
  'pool/positions': 'attnpool.positional_embedding',
  **{f'pool/{x}': f'attnpool.{x}_proj' for x in 'qkv'},
}
OPENAI_RESNET = KeyMap(
  "OpenAI's CLIP (a ResNet)",
  'visual.attnpool.positional_embedding',
  {
    **_under('image', 'visual', _RESNET),
    'image_projector/fc2': 'visual.attnpool.c_proj',
    **_OPENAI_JOINT,
  },
  _OPENAI_IGNORED,
)


# The original GroupViT (NVlabs/GroupViT, models/group_vit.py), and Hugging
# Face's port of it.


def _stage(blocks: str, block: Table, cross_attention_out: str) -> Table:
  """A stage: group tokens, transformer blocks, Grouping Block."""
  grouping = {
    'norm_tokens': 'norm_tokens',
    'norm_x': 'norm_x',
    'mixer/mlp/fc1': 'mlp_inter.fc1',
    'mixer/mlp/fc2': 'mlp_inter.fc2',
    'norm_mixed': 'norm_post_tokens',
    'pre_assign/attn/q': 'pre_assign_attn.attn.q_proj',
    'pre_assign/attn/kv': 'pre_assign_attn.attn.[kv]_proj',
    'pre_assign/attn/out': f'pre_assign_attn.attn.{cross_attention_out}',
    'pre_assign/norm2': 'pre_assign_attn.norm2',
    'pre_assign/norm_post': 'pre_assign_attn.norm_post',
    'pre_assign/mlp/fc1': 'pre_assign_attn.mlp.fc1',
    'pre_assign/mlp/fc2': 'pre_assign_attn.mlp.fc2',
    'assign/q': 'assign.q_proj',
    'assign/kv': 'assign.[kv]_proj',
    'assign/out': 'assign.proj',
    'norm_out': 'norm_new_x',
    'mlp/fc1': 'mlp_channels.fc1',
    'mlp/fc2': 'mlp_channels.fc2',
  }
  return {
    'group_tokens': 'group_token',
    'norm_previous': 'group_projector.0',
    'project_previous/mlp/fc1': 'group_projector.1.fc1',
    'project_previous/mlp/fc2': 'group_projector.1.fc2',
    **_under('block_{layer}', f'{blocks}.{{layer}}', block),
    **_under('grouping', 'downsample', grouping),
  }


_HF_IMAGE = {
  'embed/positions': 'embeddings.position_embeddings',
  'embed': 'embeddings.patch_embeddings.projection',
  'embed/norm': 'embeddings.layernorm',
  **_under(
    'stage_{stage}',
    'encoder.stages.{stage}',
    _stage('layers', _HF_BLOCK, 'out_proj'),
  ),
  'norm': 'layernorm',
}
_HF_PROJECTOR = {'fc1': '0', 'norm': '1', 'fc2': '3'}
HF_GROUPVIT = KeyMap(
  "Hugging Face's GroupViTModel",
  'vision_model.embeddings.patch_embeddings.projection.weight',
  {
    **_under('image', 'vision_model', _HF_IMAGE),
    **_under('text', 'text_model', _HF_TEXT),
    **_under('image_projector', 'visual_projection', _HF_PROJECTOR),
    **_under('text_projector', 'text_projection', _HF_PROJECTOR),
    'logit_scale': 'logit_scale',
  },
  # Buffers: a counter that nothing reads, and 0, 1, 2, ... of old versions.
  r'.*\.num_batches_tracked|.*\.position_ids',
)

_NVLABS_BLOCK = {
  'norm1': 'norm1',
  'norm2': 'norm2',
  'attn/qkv': 'attn.qkv',
  'attn/out': 'attn.proj',
  'mlp/fc1': 'mlp.fc1',
  'mlp/fc2': 'mlp.fc2',
}
_NVLABS_IMAGE = {
  'embed/positions': 'pos_embed',
  'embed': 'patch_embed.proj',
  'embed/norm': 'patch_embed.norm',
  **_under(
    'stage_{stage}', 'layers.{stage}', _stage('blocks', _NVLABS_BLOCK, 'proj')
  ),
  'norm': 'norm',
}
# The hidden layers are convolutions of width 1.
_NVLABS_PROJECTOR = {
  'fc1': 'linear_hidden.0',
  'norm': 'linear_hidden.1',
  'fc2': 'linear_out',
}
NVLABS = KeyMap(
  'the original GroupViT',
  'img_encoder.patch_embed.proj.weight',
  {
    **_under('image', 'img_encoder', _NVLABS_IMAGE),
    **_under('text', 'text_encoder', _OPENAI_TEXT),
    **_under('image_projector', 'img_projector', _NVLABS_PROJECTOR),
    **_under('text_projector', 'text_projector', _NVLABS_PROJECTOR),
    'logit_scale': 'logit_scale',
    'multi_label_logit_scale': 'multi_label_logit_scale',
  },
  r'.*\.num_batches_tracked',
)
