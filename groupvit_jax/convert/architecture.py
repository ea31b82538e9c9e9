"""The architecture of weights: read from their shapes, or checked against them.

Shapes give all but the number of heads (and the sides of images that are not
square). config.json has these; without it a head is assumed to be 64 wide, as
in every released GroupViT and CLIP, and a note says so.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Required, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from groupvit_jax.convert import fields
from groupvit_jax.convert.keymaps import KeyMap
from groupvit_jax.errors import ModelError
from groupvit_jax.models import build, resnet

HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Hints:
  """Sizes that shapes do not give; None where the source does not either.

  Attributes:
    image_size: pixels, one side or [h, w].
    image_heads, text_heads: attention heads.
    depths: blocks per stage; a stage without any weights leaves no trace.
    drop_path_rate: of training.
    assignment: 'hard' or 'soft'.
    image_activation, text_activation: of CLIP's blocks; QuickGELU, as in
      OpenAI's, unless the source says otherwise.
  """

  image_size: int | list[int] | None = None
  image_heads: int | None = None
  text_heads: int | None = None
  depths: list[int] | None = None
  drop_path_rate: float = 0.0
  assignment: str = 'hard'
  image_activation: str = 'quick_gelu'
  text_activation: str = 'quick_gelu'


class _Shapes:
  """Shapes by our path below 'params/'; a missing one is named as theirs."""

  def __init__(self, flat: Mapping[str, np.ndarray], keymap: KeyMap):
    self._shapes = {path: x.shape for path, x in flat.items()}
    self._keymap = keymap

  def of(self, path: str, rank: int) -> tuple[int, ...]:
    """The shape of an array that has to be there, with `rank` axes."""
    path = f'params/{path}'
    names = self._keymap.names(path) or [path]
    if path not in self._shapes:
      self._keymap.refuse(missing=names)
    shape = self._shapes[path]
    if len(shape) != rank or not all(shape):
      self._keymap.refuse(misshapen=[f'{name}: {shape}' for name in names])
    return shape

  def __contains__(self, path: str) -> bool:
    return f'params/{path}' in self._shapes

  def count(self, prefix: str) -> int:
    """How many numbers follow a prefix; if some are left out, `check` fails."""
    pattern = re.compile(re.escape(f'params/{prefix}') + r'(\d+)/')
    return len({m[1] for m in map(pattern.match, self._shapes) if m})


def read(
  flat: Mapping[str, np.ndarray], keymap: KeyMap, hints: Hints
) -> dict[str, Any]:
  """The architecture of variables.

  Args:
    flat: arrays by our path ('params/image/norm/scale').
    keymap: its names stand in messages.
    hints: sizes that shapes do not give.

  Returns:
    What `models.build.build` takes.

  Raises:
    ModelError: an array is missing that sizes are read from, or the number of
      heads is not known.
  """
  shapes = _Shapes(flat, keymap)
  kind, read_image = 'groupvit', _groupvit
  if 'image/embed/class_token' in shapes:
    kind, read_image = 'clip_vit', _clip_vit
  elif 'image/pool/positions' in shapes:
    kind, read_image = 'clip_resnet', _clip_resnet
  hidden = 'image_projector/fc1/kernel'
  image_bias, text_bias = (
    f'{part}_projector/fc2/bias' in shapes for part in ('image', 'text')
  )
  described = {
    'image_encoder': kind,
    'image': read_image(shapes, hints),
    'text': _text(shapes, hints),
    'embed_dim': shapes.of('image_projector/fc2/kernel', 2)[-1],
    'projector_width': shapes.of(hidden, 2)[-1] if hidden in shapes else 0,
    'projector_bias': text_bias,
    'separate_multi_label_scale': 'multi_label_logit_scale' in shapes,
  }
  # Named only where they differ, so that other models' files stay.
  if image_bias != text_bias:
    described['image_projector_bias'] = image_bias
  if 'logit_bias' in shapes:
    described['logit_bias'] = True
  return described


def assumptions(described: Mapping[str, Any], hints: Hints) -> list[str]:
  """Sentences on what `read` assumed where the source does not say."""
  known = {'image': hints.image_heads, 'text': hints.text_heads}
  heads = [
    f'{described[part]["num_heads"]} of the {part} encoder'
    for part, count in known.items()
    if count is None
  ]
  if not heads:
    return []
  return [
    f'assumed: {" and ".join(heads)} are its attention heads, {HEAD_WIDTH} '
    'wide each as in every released GroupViT and CLIP; weights do not say, a '
    'config.json beside them would'
  ]


def _vit(shapes: _Shapes, positions: int, hints: Hints) -> dict[str, Any]:
  """Fields that GroupViT and CLIP's ViT share."""
  patch = shapes.of('image/embed/kernel', 4)[0]
  (width,) = shapes.of('image/norm/scale', 1)
  return {
    'image_size': _image_size(positions, patch, hints),
    'patch_size': patch,
    'width': width,
    'num_heads': _heads('image', width, hints.image_heads),
  }


def _clip_vit(shapes: _Shapes, hints: Hints) -> dict[str, Any]:
  positions = shapes.of('image/embed/positions', 2)[0] - 1  # the class token
  vit = _vit(shapes, positions, hints)
  return vit | {
    'depth': shapes.count('image/block_'),
    'mlp_ratio': _mlp_ratio(shapes, 'image/block_0', vit['width']),
    **_activation(hints.image_activation),
  }


def _clip_resnet(shapes: _Shapes, hints: Hints) -> dict[str, Any]:
  positions, pooled = shapes.of('image/pool/positions', 2)
  patch = resnet.ClipResNet.patch_size
  return {
    'image_size': _image_size(positions - 1, patch, hints),
    'width': shapes.of('image/norm3/scale', 1)[0],
    'depths': [shapes.count(f'image/stage_{i}_block_') for i in range(4)],
    'num_heads': _heads('image', pooled, hints.image_heads),
  }


def _groupvit(shapes: _Shapes, hints: Hints) -> dict[str, Any]:
  vit = _vit(shapes, shapes.of('image/embed/positions', 3)[1], hints)
  stages = [f'image/stage_{i}' for i in range(shapes.count('image/stage_'))]
  depths = [shapes.count(f'{stage}/block_') for stage in stages]
  mlps = [
    f'{stage}/block_0' for stage, n in zip(stages, depths, strict=True) if n
  ]
  tokens = [_group_tokens(shapes, stage) for stage in stages]
  if hints.depths is not None:
    # The rest of the stages have neither blocks nor groups: they do nothing.
    depths += hints.depths[len(depths) :]
    tokens += [(0, 0)] * (len(depths) - len(tokens))
    if depths != hints.depths:
      raise ModelError(
        f'the config has depths {hints.depths}, the weights have {depths}'
      )
  grouping = [
    f'{stage}/grouping' for stage in stages if f'{stage}/group_tokens' in shapes
  ]
  mlps += [f'{block}/pre_assign' for block in grouping]
  return vit | {
    'depths': depths,
    'num_group_tokens': [t for t, _ in tokens],
    'num_output_groups': [g for _, g in tokens],
    'mlp_ratio': _mlp_ratio(shapes, next(iter(mlps), None), vit['width']),
    'assign_mlp_ratio': _mlp_ratio(
      shapes, next(iter(grouping), None), vit['width']
    ),
    'drop_path_rate': hints.drop_path_rate,
    'assignment': hints.assignment,
  }


def _image_size(positions: int, patch: int, hints: Hints) -> int | list[int]:
  """Pixels that the positions are for: as the source says, or a square."""
  if hints.image_size is not None:
    return hints.image_size
  side = math.isqrt(positions)
  if side * side != positions:
    raise ModelError(
      f'{positions} positions are no square of patches; put the config.json of '
      'the model beside its weights'
    )
  return side * patch


def _activation(name: str) -> dict[str, str]:
  """Named only where it differs, so that other models' files stay."""
  return {} if name == 'quick_gelu' else {'activation': name}


def _text(shapes: _Shapes, hints: Hints) -> dict[str, Any]:
  vocab_size, width = shapes.of('text/tokens', 2)
  return {
    'vocab_size': vocab_size,
    'context_length': shapes.of('text/positions', 2)[0],
    'width': width,
    'depth': shapes.count('text/block_'),
    'num_heads': _heads('text', width, hints.text_heads),
    'mlp_ratio': _mlp_ratio(shapes, 'text/block_0', width),
    **_activation(hints.text_activation),
  }


def _group_tokens(shapes: _Shapes, stage: str) -> tuple[int, int]:
  """Group tokens of a stage and groups that leave it; (0, 0) if it has none."""
  if f'{stage}/group_tokens' not in shapes:
    return 0, 0
  groups = shapes.of(f'{stage}/grouping/mixer/mlp/fc2/kernel', 2)[-1]
  return shapes.of(f'{stage}/group_tokens', 3)[1], groups


def _mlp_ratio(shapes: _Shapes, module: str | None, width: int) -> float:
  """Hidden over outer width of a module; 4 if there is none."""
  if module is None:
    return 4.0
  hidden = shapes.of(f'{module}/mlp/fc1/kernel', 2)[-1]
  ratio = hidden / width
  # The module computes int(width * ratio), which rounding must not lower.
  return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _heads(part: str, width: int, known: int | None) -> int:
  if known is None and width % HEAD_WIDTH:
    raise ModelError(
      f'the number of heads of the {part} encoder cannot be read from weights '
      f'of width {width}; put the config.json of the model beside them'
    )
  return width // HEAD_WIDTH if known is None else known


# An architecture against its weights, before anything is built.

_MOST_STAGES = 64


class _Encoder(TypedDict, total=False):
  image_size: fields.SIDES
  patch_size: fields.COUNT
  width: fields.COUNT
  depth: fields.COUNT_FROM_0
  depths: fields.COUNTS
  num_heads: fields.COUNT
  num_group_tokens: fields.COUNTS
  num_output_groups: fields.COUNTS
  vocab_size: fields.COUNT
  # The text encoder's mask takes the square of it; CLIP has 77.
  context_length: Annotated[int, Meta(gt=0, le=4096)]
  mlp_ratio: fields.FACTOR
  assign_mlp_ratio: fields.FACTOR
  drop_path_rate: fields.FACTOR
  gumbel_temperature: fields.FACTOR
  gumbel_noise: fields.FACTOR
  init_std: fields.FACTOR
  assignment: str
  activation: fields.ACTIVATION
  group_residual: bool
  pre_assign_attn: bool
  token_mixer: bool
  center_keys: bool


class _Architecture(TypedDict, total=False):
  image_encoder: str
  image: Required[_Encoder]
  text: Required[_Encoder]
  embed_dim: fields.COUNT
  projector_width: fields.COUNT_FROM_0
  projector_bias: bool
  separate_multi_label_scale: bool
  learned_background: bool
  image_projector_bias: bool
  logit_bias: bool


def check(
  described: Mapping[str, Any],
  flat: Mapping[str, np.ndarray],
  keymap: KeyMap | None = None,
) -> None:
  """Checks an architecture and its weights; nothing is built or allocated.

  Args:
    described: the architecture, from a file that anyone may have written.
    flat: arrays by our path.
    keymap: its names stand in messages; None: ours.

  Raises:
    ModelError: a field is missing or of another kind, sizes do not fit to each
      other or to the weights; or arrays are missing or too many, of another
      shape, no floating numbers, or not finite: names them all.
  """
  fields.parse(described, _Architecture, 'architecture')
  try:
    model = build.build(described)
  except ValueError as error:
    raise ModelError(str(error)) from error
  _check_sizes(described, model, flat)
  wanted = expected_shapes(described)
  keymap = keymap or KeyMap('this architecture', '', {})

  def theirs(path: str) -> str:
    return ', '.join(keymap.names(path)) or path

  keymap.refuse(
    missing=[theirs(path) for path in wanted if path not in flat],
    superfluous=[theirs(path) for path in flat if path not in wanted],
  )
  keymap.refuse(
    misshapen=[
      f'{theirs(path)}: here as {flat[path].shape}, needed as {shape}'
      for path, shape in wanted.items()
      if flat[path].shape != shape
    ]
  )
  kinds = {theirs(p): x.dtype for p, x in flat.items() if x.dtype.kind != 'f'}
  keymap.refuse(not_floating=[f'{name}: {x}' for name, x in kinds.items()])
  keymap.refuse(
    not_finite=[theirs(p) for p, x in flat.items() if not np.isfinite(x).all()]
  )


def _check_sizes(
  described: Mapping[str, Any], model: Any, flat: Mapping[str, np.ndarray]
) -> None:
  """Refuses sizes that would make `expected_shapes` itself expensive."""
  image = model.image
  depths = described['image'].get('depths', [described['image'].get('depth')])
  if sum(depths) + model.text.depth > len(flat) or len(depths) > _MOST_STAGES:
    raise ModelError(
      f'architecture: depths {str(depths):.80} and {model.text.depth} are more '
      f'than the {len(flat)} arrays of the weights are enough for'
    )
  for part, encoder in (('image', image), ('text', model.text)):
    convolves = isinstance(encoder, resnet.ClipResNet)
    width = encoder.width * (encoder.patch_size if convolves else 1)
    if width % encoder.num_heads:
      raise ModelError(
        f'architecture: {encoder.num_heads} heads of the {part} encoder do not '
        f'divide its width {width}'
      )
  h, w = np.broadcast_to(image.image_size, 2)
  patches = (h // image.patch_size) * (w // image.patch_size)
  positions = flat.get('params/image/embed/positions')
  if positions is not None and positions.ndim > 1:
    here = positions.shape[-2] - (described['image_encoder'] == 'clip_vit')
    if here != patches:
      raise ModelError(
        f'architecture: images of {h} x {w} pixels have {patches} patches of '
        f'{image.patch_size}, the weights have {here} positions'
      )


def expected_shapes(described: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """Shapes by path of all variables of an architecture; nothing is computed.

  The blocks of a stage are alike, so one of each is traced; of a ResNet two,
  as only the first has a shortcut.

  Raises:
    ModelError: no such model can be built.
  """
  image, text = dict(described['image']), dict(described['text'])
  # Blocks by the path before their number, and how many of them are traced.
  depths, most = {'text/block_': text['depth']}, 1
  if described['image_encoder'] == 'clip_resnet':
    most = 2
    stages = {
      f'image/stage_{i}_block_': n for i, n in enumerate(image['depths'])
    }
  elif 'depths' in image:
    stages = {
      f'image/stage_{i}/block_': n for i, n in enumerate(image['depths'])
    }
  else:
    stages = {'image/block_': image['depth']}
  depths |= stages
  text['depth'] = min(1, text['depth'])
  if 'depths' in image:
    image['depths'] = [min(most, n) for n in image['depths']]
  else:
    image['depth'] = min(1, image['depth'])
  size = image['image_size']
  h, w = (size, size) if isinstance(size, int) else size
  images = jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, 1, 2), jnp.int32)
  rngs = {'params': jax.random.key(0)}
  try:
    model = build.build({**described, 'image': image, 'text': text})
    variables = jax.eval_shape(model.init, rngs, images, tokens)
  except Exception as error:  # of many kinds: sizes that do not fit
    message = ' '.join(str(error).split())
    raise ModelError(
      'the architecture makes no model '
      f'({type(error).__name__}: {message:.200})'
    ) from error
  leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
  shapes = {}
  for keys, x in leaves:
    path = '/'.join(str(key.key) for key in keys)
    block = re.fullmatch(r'(\w+)/(.*block_)(\d+)(/.*)', path)
    if not block:
      shapes[path] = x.shape
      continue
    collection, before, number, after = block.groups()
    first, count = int(number), depths[before]
    # The last block that is traced stands for those behind it.
    traced = min(most if before in stages else 1, count)
    end = count if first == traced - 1 else first + 1
    for i in range(first, end):
      shapes[f'{collection}/{before}{i}{after}'] = x.shape
  return shapes
