"""Tables of names: the parameters of a PyTorch state dict, and ours.

A table reads both ways. A name that no row maps, that comes twice, or that is
missing is an error that names it: weights are never guessed.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from groupvit_jax.errors import ModelError

SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Layout:
  """How PyTorch stores an array that we store otherwise, and back."""

  to_flax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(np.transpose, np.transpose)  # (out, in) to (in, out)
# (out, in, h, w) to (h, w, in, out).
CONV2D = Layout(
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
# (out, in, 1): a linear layer written as a convolution over tokens.
CONV1D = Layout(lambda x: x[..., 0].T, lambda x: x.T[..., None])


@dataclasses.dataclass(frozen=True)
class Row:
  """One array, or one array in each of many blocks.

  Attributes:
    theirs: name in the state dict; `{layer}` stands for a number.
    ours: path in the flax variables below the collection, with the same
      numbers.
    layout: how the two differ.
    part, parts: which part along the last axis of ours, where theirs are apart
      (q, k and v) and ours one array.
    collection: 'params' or 'batch_stats'.
  """

  theirs: str
  ours: str
  layout: Layout = SAME
  part: int = 0
  parts: int = 1
  collection: str = 'params'

  @property
  def path(self) -> str:
    """Path of the array in our variables."""
    return f'{self.collection}/{self.ours}'


def linear(
  theirs: str,
  ours: str,
  part: int = 0,
  parts: int = 1,
  layout: Layout = LINEAR,
  bias: bool = True,
) -> tuple[Row, ...]:
  """Rows of a linear layer, or of one that is part of a fused one of ours."""
  rows = [
    Row(f'{theirs}.weight', f'{ours}/kernel', layout, part, parts),
    Row(f'{theirs}.bias', f'{ours}/bias', SAME, part, parts),
  ]
  return tuple(rows if bias else rows[:1])


def norm(theirs: str, ours: str) -> tuple[Row, ...]:
  """Rows of a layer norm, or of the parameters of a batch norm."""
  return (
    Row(f'{theirs}.weight', f'{ours}/scale'),
    Row(f'{theirs}.bias', f'{ours}/bias'),
  )


def batch_norm(theirs: str, ours: str) -> tuple[Row, ...]:
  """Rows of a batch norm: parameters and running statistics."""
  stats = (('running_mean', 'mean'), ('running_var', 'var'))
  return norm(theirs, ours) + tuple(
    Row(f'{theirs}.{a}', f'{ours}/{b}', collection='batch_stats')
    for a, b in stats
  )


def under(theirs: str, ours: str, rows: Iterable[Row]) -> tuple[Row, ...]:
  """The rows of a module, below the module that holds it."""
  return tuple(
    dataclasses.replace(
      row, theirs=f'{theirs}.{row.theirs}', ours=f'{ours}/{row.ours}'
    )
    for row in rows
  )


def split_qkv(theirs: Sequence[str], ours: str) -> tuple[Row, ...]:
  """Rows of linear layers that are one fused layer here."""
  rows = ()
  for i, name in enumerate(theirs):
    rows += linear(name, ours, i, len(theirs))
  return rows


class KeyMap:
  """A table of rows, usable both ways.

  Attributes:
    title: what the names belong to, for messages.
    marker: a name that only such a state dict holds.
  """

  def __init__(
    self,
    title: str,
    marker: str,
    rows: Iterable[Row],
    ignored: Sequence[str] = (),
  ):
    """Takes rows, and patterns of names that carry no weight."""
    self.title = title
    self.marker = marker
    self._theirs = [(_pattern(row.theirs), row) for row in rows]
    by_path = collections.defaultdict(list)
    for _, row in self._theirs:
      by_path[row.path].append(row)
    self._ours = [(_pattern(path), rows) for path, rows in by_path.items()]
    self._ignored = re.compile('|'.join(ignored) or r'(?!)')

  def to_flax(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our variables of a state dict, or of gradients by the same names.

    Args:
      state: arrays by their PyTorch names.

    Returns:
      Arrays by path ('params/image/norm/scale').

    Raises:
      ModelError: for names that no row maps or that mean the same array, for
        parts of a fused array that are not there, and for arrays without the
        axes that they should have.
    """
    found = collections.defaultdict(dict)
    unmapped, doubled, missing, misshapen = [], [], [], []
    for name, value in state.items():
      if self._ignored.fullmatch(name):
        continue
      place = self._find(name)
      if place is None:
        unmapped.append(name)
        continue
      path, row = place
      if row.part in found[path]:
        doubled.append(name)
      try:
        found[path][row.part] = row.layout.to_flax(value)
      except (ValueError, IndexError):  # it has other axes
        misshapen.append(f'{name}: {value.shape}')
    for path, parts in found.items():
      names = self.names(path)
      missing += [n for i, n in enumerate(names) if i not in parts]
    self.refuse(
      misshapen=misshapen, unmapped=unmapped, doubled=doubled, missing=missing
    )
    return {path: self._join(path, parts) for path, parts in found.items()}

  def to_torch(self, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of our variables (by path); ModelError as `to_flax`."""
    state, unmapped = {}, []
    for path, value in flat.items():
      rows, names = self._rows(path)
      if not names:
        unmapped.append(path)
        continue
      parts = np.split(value, len(rows), axis=-1) if len(rows) > 1 else [value]
      for name, row, part in zip(names, rows, parts, strict=True):
        state[name] = row.layout.to_torch(part)
    self.refuse(unmapped=unmapped)
    return state

  def names(self, path: str) -> list[str]:
    """Their names of the parts of one of our arrays; [] if it has none."""
    return self._rows(path)[1]

  def refuse(self, **problems: Sequence[str]) -> None:
    """ModelError that lists names by what is wrong with them, if any are."""
    lists = [_listed(kind, names) for kind, names in problems.items() if names]
    if lists:
      raise ModelError(f'not the weights of {self.title}: {"; ".join(lists)}')

  def _join(self, path: str, parts: Mapping[int, np.ndarray]) -> np.ndarray:
    arrays = [parts[i] for i in sorted(parts)]
    if len(arrays) == 1:
      return arrays[0]
    shapes = [x.shape for x in arrays]
    if not arrays[0].ndim or len(set(shapes)) > 1:
      named = zip(self.names(path), shapes, strict=True)
      self.refuse(misshapen=[f'{name}: {shape}' for name, shape in named])
    return np.concatenate(arrays, axis=-1)

  def _find(self, name: str) -> tuple[str, Row] | None:
    for pattern, row in self._theirs:
      if match := pattern.fullmatch(name):
        return row.path.format(**match.groupdict()), row
    return None

  def _rows(self, path: str) -> tuple[list[Row], list[str]]:
    """Rows and their names of the parts of one of our arrays."""
    for pattern, rows in self._ours:
      if match := pattern.fullmatch(path):
        rows = sorted(rows, key=lambda row: row.part)
        return rows, [row.theirs.format(**match.groupdict()) for row in rows]
    return [], []


def _pattern(template: str) -> re.Pattern:
  """Matches a template; every `{name}` is a number, and equal ones agree."""
  escaped = re.escape(template)
  return re.compile(re.sub(r'\\\{(\w+)\\\}', r'(?P<\1>\\d+)', escaped))


def _listed(kind: str, names: Sequence[str]) -> str:
  shown = ', '.join(names[:SHOWN])
  more = f', and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
  return f'{len(names)} {kind} ({shown}{more})'


# Names that several sources share: transformer blocks and the text encoder.

# The transformer block in Hugging Face's GroupViT and CLIP.
HF_BLOCK = (
  *norm('layer_norm1', 'norm1'),
  *norm('layer_norm2', 'norm2'),
  *split_qkv([f'self_attn.{x}_proj' for x in 'qkv'], 'attn/qkv'),
  *linear('self_attn.out_proj', 'attn/out'),
  *linear('mlp.fc1', 'mlp/fc1'),
  *linear('mlp.fc2', 'mlp/fc2'),
)
HF_TEXT = (
  Row('embeddings.token_embedding.weight', 'tokens'),
  Row('embeddings.position_embedding.weight', 'positions'),
  *under('encoder.layers.{layer}', 'block_{layer}', HF_BLOCK),
  *norm('final_layer_norm', 'norm'),
)
# The same in OpenAI's CLIP, whose text encoder the original GroupViT keeps.
OPENAI_BLOCK = (
  *norm('ln_1', 'norm1'),
  *norm('ln_2', 'norm2'),
  Row('attn.in_proj_weight', 'attn/qkv/kernel', LINEAR),
  Row('attn.in_proj_bias', 'attn/qkv/bias'),
  *linear('attn.out_proj', 'attn/out'),
  *linear('mlp.c_fc', 'mlp/fc1'),
  *linear('mlp.c_proj', 'mlp/fc2'),
)
OPENAI_TEXT = (
  Row('token_embedding.weight', 'tokens'),
  Row('positional_embedding', 'positions'),
  *under('transformer.resblocks.{layer}', 'block_{layer}', OPENAI_BLOCK),
  *norm('ln_final', 'norm'),
)


# Names in CLIP: OpenAI's (a ViT's state dict) and Hugging Face's `CLIPModel`.
#
# The text encoder and the temperature are those of GroupViT; the projections
# are single matrices.

_HF_VISION = (
  Row('embeddings.class_embedding', 'embed/class_token'),
  Row('embeddings.position_embedding.weight', 'embed/positions'),
  *linear('embeddings.patch_embedding', 'embed', layout=CONV2D, bias=False),
  # Spelled so in every version of transformers.
  *norm('pre_layrnorm', 'norm_pre'),
  *under('encoder.layers.{layer}', 'block_{layer}', HF_BLOCK),
  *norm('post_layernorm', 'norm'),
)
_OPENAI_VISUAL = (
  Row('class_embedding', 'embed/class_token'),
  Row('positional_embedding', 'embed/positions'),
  *linear('conv1', 'embed', layout=CONV2D, bias=False),
  *norm('ln_pre', 'norm_pre'),
  *under('transformer.resblocks.{layer}', 'block_{layer}', OPENAI_BLOCK),
  *norm('ln_post', 'norm'),
)

HF_CLIP = KeyMap(
  "Hugging Face's CLIPModel",
  'vision_model.embeddings.class_embedding',
  (
    *under('vision_model', 'image', _HF_VISION),
    *under('text_model', 'text', HF_TEXT),
    *linear('visual_projection', 'image_projector/fc2', bias=False),
    *linear('text_projection', 'text_projector/fc2', bias=False),
    Row('logit_scale', 'logit_scale'),
  ),
  ignored=(r'.*\.position_ids',),
)
_OPENAI_JOINT = (
  *(replace(row, ours=f'text/{row.ours}') for row in OPENAI_TEXT),
  # Stored as (in, out).
  Row('text_projection', 'text_projector/fc2/kernel'),
  Row('logit_scale', 'logit_scale'),
  # Of open_clip's models that were trained with the sigmoid loss.
  Row('logit_bias', 'logit_bias'),
)
# Sizes, which OpenAI's archives hold as if they were weights, and open_clip's
# buffer.
_OPENAI_IGNORED = (
  'input_resolution',
  'context_length',
  'vocab_size',
  'attn_mask',
)
OPENAI_CLIP = KeyMap(
  "OpenAI's CLIP (a ViT)",
  'visual.class_embedding',
  (
    *under('visual', 'image', _OPENAI_VISUAL),
    Row('visual.proj', 'image_projector/fc2/kernel'),
    *_OPENAI_JOINT,
  ),
  ignored=_OPENAI_IGNORED,
)


def _conv_norm(conv: str, norm_name: str, ours: str) -> tuple[Row, ...]:
  """Rows of a convolution without bias and its batch norm."""
  return (
    *linear(conv, f'conv{ours}', layout=CONV2D, bias=False),
    *batch_norm(norm_name, f'norm{ours}'),
  )


_BOTTLENECK = (
  *_conv_norm('conv1', 'bn1', '1'),
  *_conv_norm('conv2', 'bn2', '2'),
  *_conv_norm('conv3', 'bn3', '3'),
  *_conv_norm('downsample.0', 'downsample.1', '_skip'),
)
_RESNET = (
  *_conv_norm('conv1', 'bn1', '1'),
  *_conv_norm('conv2', 'bn2', '2'),
  *_conv_norm('conv3', 'bn3', '3'),
  *(
    row
    for stage in range(4)
    for row in under(
      f'layer{stage + 1}.{{block}}',
      f'stage_{stage}_block_{{block}}',
      _BOTTLENECK,
    )
  ),
  Row('attnpool.positional_embedding', 'pool/positions'),
  *(
    row
    for name in 'qkv'
    for row in linear(f'attnpool.{name}_proj', f'pool/{name}')
  ),
)
OPENAI_RESNET = KeyMap(
  "OpenAI's CLIP (a ResNet)",
  'visual.attnpool.positional_embedding',
  (
    *under('visual', 'image', _RESNET),
    *linear('visual.attnpool.c_proj', 'image_projector/fc2'),
    *_OPENAI_JOINT,
  ),
  ignored=(*_OPENAI_IGNORED, r'.*\.num_batches_tracked'),
)


# Names that the original GroupViT and Hugging Face's port share: a stage.


def stage(
  blocks: str, block: Sequence[Row], cross_attention_out: str
) -> tuple[Row, ...]:
  """Rows of one stage: group tokens, transformer blocks, Grouping Block.

  Args:
    blocks: name of the list of blocks.
    block: rows of one of them.
    cross_attention_out: name of the output layer of the attention before the
      assignment.

  Returns:
    Rows below the stage.
  """
  cross = 'pre_assign_attn'
  grouping = (
    *norm('norm_tokens', 'norm_tokens'),
    *norm('norm_x', 'norm_x'),
    *linear('mlp_inter.fc1', 'mixer/mlp/fc1'),
    *linear('mlp_inter.fc2', 'mixer/mlp/fc2'),
    *norm('norm_post_tokens', 'norm_mixed'),
    *linear(f'{cross}.attn.q_proj', 'pre_assign/attn/q'),
    *split_qkv([f'{cross}.attn.{x}_proj' for x in 'kv'], 'pre_assign/attn/kv'),
    *linear(f'{cross}.attn.{cross_attention_out}', 'pre_assign/attn/out'),
    *norm(f'{cross}.norm2', 'pre_assign/norm2'),
    *norm(f'{cross}.norm_post', 'pre_assign/norm_post'),
    *linear(f'{cross}.mlp.fc1', 'pre_assign/mlp/fc1'),
    *linear(f'{cross}.mlp.fc2', 'pre_assign/mlp/fc2'),
    *linear('assign.q_proj', 'assign/q'),
    *split_qkv([f'assign.{x}_proj' for x in 'kv'], 'assign/kv'),
    *linear('assign.proj', 'assign/out'),
    *norm('norm_new_x', 'norm_out'),
    *linear('mlp_channels.fc1', 'mlp/fc1'),
    *linear('mlp_channels.fc2', 'mlp/fc2'),
  )
  return (
    Row('group_token', 'group_tokens'),
    *norm('group_projector.0', 'norm_previous'),
    *linear('group_projector.1.fc1', 'project_previous/mlp/fc1'),
    *linear('group_projector.1.fc2', 'project_previous/mlp/fc2'),
    *under(f'{blocks}.{{layer}}', 'block_{layer}', block),
    *under('downsample', 'grouping', grouping),
  )


# Names in Hugging Face's `GroupViTModel` (transformers 4.20 to 5.23).

_VISION = (
  Row('embeddings.position_embeddings', 'embed/positions'),
  *linear('embeddings.patch_embeddings.projection', 'embed', layout=CONV2D),
  *norm('embeddings.layernorm', 'embed/norm'),
  *under(
    'encoder.stages.{stage}',
    'stage_{stage}',
    stage('layers', HF_BLOCK, 'out_proj'),
  ),
  *norm('layernorm', 'norm'),
)
_PROJECTOR = (
  *linear('0', 'fc1'),
  *batch_norm('1', 'norm'),
  *linear('3', 'fc2'),
)

HF_GROUPVIT = KeyMap(
  "Hugging Face's GroupViTModel",
  'vision_model.embeddings.patch_embeddings.projection.weight',
  (
    *under('vision_model', 'image', _VISION),
    *under('text_model', 'text', HF_TEXT),
    *under('visual_projection', 'image_projector', _PROJECTOR),
    *under('text_projection', 'text_projector', _PROJECTOR),
    Row('logit_scale', 'logit_scale'),
  ),
  # Buffers: a counter that nothing reads, and 0, 1, 2, ... of old versions.
  ignored=(r'.*\.num_batches_tracked', r'.*\.position_ids'),
)


# Names in the original GroupViT (NVlabs/GroupViT, models/group_vit.py).
#
# qkv is one layer, and the projectors are convolutions of width 1.

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
_NVLABS_PROJECTOR = (
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
    *under('img_projector', 'image_projector', _NVLABS_PROJECTOR),
    *under('text_projector', 'text_projector', _NVLABS_PROJECTOR),
    Row('logit_scale', 'logit_scale'),
    Row('multi_label_logit_scale', 'multi_label_logit_scale'),
  ),
  ignored=(r'.*\.num_batches_tracked',),
)
