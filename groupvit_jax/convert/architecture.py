"""The architecture of foreign weights, read from their shapes.

Shapes tell all but the number of heads (and the sides of pictures that are not
square): config.json says these, or a head is assumed to be 64 wide, as in every
released GroupViT and CLIP, and that is told.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax.convert.keymaps import KeyMap
from groupvit_jax.errors import ModelError

HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Hints:
  """What shapes do not tell; None where the source does not either.

  Attributes:
    image_size: pixels, one side or [h, w].
    image_heads, text_heads: attention heads.
    depths: blocks per stage; a stage without any weights leaves no trace.
    drop_path_rate: of training.
    assignment: 'hard' or 'soft'.
  """

  image_size: Any = None
  image_heads: int | None = None
  text_heads: int | None = None
  depths: tuple[int, ...] | None = None
  drop_path_rate: float = 0.0
  assignment: str = 'hard'


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
    """One more than the highest number that follows a prefix."""
    pattern = re.compile(re.escape(f'params/{prefix}') + r'(\d+)/')
    found = {int(m[1]) for m in map(pattern.match, self._shapes) if m}
    count = max(found, default=-1) + 1
    if count > len(found):
      absent = next(i for i in range(count) if i not in found)
      raise ModelError(
        f'the weights have {prefix}{count - 1} but no {prefix}{absent}'
      )
    return count


def read(
  flat: Mapping[str, np.ndarray], keymap: KeyMap, hints: Hints
) -> dict[str, Any]:
  """The architecture of variables.

  Args:
    flat: arrays by our path ('params/image/norm/scale').
    keymap: whose names to tell if one is missing.
    hints: what shapes do not tell.

  Returns:
    What `models.build.build` takes.

  Raises:
    ModelError: an array is missing that sizes are read from, or the number of
      heads is not known.
  """
  shapes = _Shapes(flat, keymap)
  clip = 'image/embed/class_token' in shapes
  projector = 'image_projector/fc1/kernel' in shapes
  embed = shapes.of('image_projector/fc2/kernel', 2)[-1]
  width = shapes.of('image_projector/fc1/kernel', 2)[-1] if projector else 0
  return {
    'image_encoder': 'clip_vit' if clip else 'groupvit',
    'image': _clip_vit(shapes, hints) if clip else _groupvit(shapes, hints),
    'text': _text(shapes, hints),
    'embed_dim': embed,
    'projector_width': width,
    'projector_bias': 'image_projector/fc2/bias' in shapes,
    'separate_multi_label_scale': 'multi_label_logit_scale' in shapes,
  }


def assumptions(described: Mapping[str, Any], hints: Hints) -> list[str]:
  """Sentences on what `read` took for granted, as nothing tells it."""
  heads = [
    f'{described[part]["num_heads"]} of the {part} encoder'
    for part, known in (
      ('image', hints.image_heads),
      ('text', hints.text_heads),
    )
    if known is None
  ]
  if not heads:
    return []
  return [
    f'assumed: {" and ".join(heads)} are its attention heads, {HEAD_WIDTH} '
    'wide each as in every released GroupViT and CLIP; weights do not tell, a '
    'config.json beside them would'
  ]


def _groupvit(shapes: _Shapes, hints: Hints) -> dict[str, Any]:
  stages = range(shapes.count('image/stage_'))
  patch, width = shapes.of('image/embed/kernel', 4)[0], _image_width(shapes)
  positions = shapes.of('image/embed/positions', 3)[1]
  depths = [shapes.count(f'image/stage_{i}/block_') for i in stages]
  tokens = [_group_tokens(shapes, i) for i in stages]
  if hints.depths is not None:
    # The rest of the stages have neither blocks nor groups: they do nothing.
    depths += hints.depths[len(depths) :]
    tokens += [(0, 0)] * (len(depths) - len(tokens))
    if tuple(depths) != tuple(hints.depths):
      raise ModelError(
        f'the config says depths {list(hints.depths)}, the weights have '
        f'{depths}'
      )
  grouping = [i for i, (t, _) in enumerate(tokens) if t]
  blocks = [f'image/stage_{i}/block_0' for i in stages if depths[i]]
  inner = [f'image/stage_{i}/grouping/pre_assign' for i in grouping]
  assign = [f'image/stage_{i}/grouping' for i in grouping]
  return {
    'image_size': _image_size(positions, patch, hints),
    'patch_size': patch,
    'width': width,
    'depths': depths,
    'num_heads': _heads('image', width, hints.image_heads),
    'num_group_tokens': [t for t, _ in tokens],
    'num_output_groups': [g for _, g in tokens],
    'mlp_ratio': _mlp_ratio(shapes, [*blocks, *inner], width),
    'assign_mlp_ratio': _mlp_ratio(shapes, assign, width),
    'drop_path_rate': hints.drop_path_rate,
    'assignment': hints.assignment,
  }


def _clip_vit(shapes: _Shapes, hints: Hints) -> dict[str, Any]:
  patch, width = shapes.of('image/embed/kernel', 4)[0], _image_width(shapes)
  positions = shapes.of('image/embed/positions', 2)[0] - 1  # the class token
  return {
    'image_size': _image_size(positions, patch, hints),
    'patch_size': patch,
    'width': width,
    'depth': shapes.count('image/block_'),
    'num_heads': _heads('image', width, hints.image_heads),
    'mlp_ratio': _mlp_ratio(shapes, ['image/block_0'], width),
  }


def _text(shapes: _Shapes, hints: Hints) -> dict[str, Any]:
  vocab_size, width = shapes.of('text/tokens', 2)
  return {
    'vocab_size': vocab_size,
    'context_length': shapes.of('text/positions', 2)[0],
    'width': width,
    'depth': shapes.count('text/block_'),
    'num_heads': _heads('text', width, hints.text_heads),
    'mlp_ratio': _mlp_ratio(shapes, ['text/block_0'], width),
  }


def _image_width(shapes: _Shapes) -> int:
  return shapes.of('image/norm/scale', 1)[0]


def _group_tokens(shapes: _Shapes, stage: int) -> tuple[int, int]:
  """Group tokens of a stage and groups that leave it; (0, 0) if it has none."""
  path = f'image/stage_{stage}'
  if f'{path}/group_tokens' not in shapes:
    return 0, 0
  groups = shapes.of(f'{path}/grouping/mixer/mlp/fc2/kernel', 2)[-1]
  return shapes.of(f'{path}/group_tokens', 3)[1], groups


def _mlp_ratio(shapes: _Shapes, modules: list[str], width: int) -> float:
  """Hidden over outer width of the first module that is there; 4 if none."""
  if not modules:
    return 4.0
  hidden = shapes.of(f'{modules[0]}/mlp/fc1/kernel', 2)[-1]
  ratio = hidden / width
  # The module computes int(width * ratio), which rounding must not lower.
  return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _heads(part: str, width: int, known: int | None) -> int:
  heads = width // HEAD_WIDTH if known is None else known
  if known is None and width % HEAD_WIDTH:
    raise ModelError(
      f'the number of heads of the {part} encoder cannot be read from weights '
      f'of width {width}; put the config.json of the model beside them'
    )
  if not heads or width % heads:
    raise ModelError(
      f'the config says {heads} heads of the {part} encoder, which do not '
      f'divide the width {width} of its weights'
    )
  return heads


def _image_size(positions: int, patch: int, hints: Hints) -> Any:
  """Pixels that the positions are for; the source's word, or a square."""
  if hints.image_size is not None:
    size = hints.image_size
    return list(size) if isinstance(size, list | tuple) else size
  side = math.isqrt(positions)
  if side * side != positions:
    raise ModelError(
      f'{positions} positions are no square of patches; put the config.json of '
      'the model beside its weights'
    )
  return side * patch
