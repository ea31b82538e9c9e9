"""A model in words: the lines that a command prints, and the model card."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax.model_folder import tensors
from groupvit_jax.model_folder.converted import Converted

_PARTS = (
  ('image encoder', ('image',)),
  ('text encoder', ('text',)),
  ('projectors', ('image_projector', 'text_projector')),
  ('temperatures', ('logit_scale', 'multi_label_logit_scale')),
)


def describe(converted: Converted) -> str:
  """Lines on a model: source, architecture, parameters, metrics, notes."""
  a, metadata = converted.architecture, converted.metadata
  lines = [
    ('source', _source(metadata)),
    ('image encoder', _image_encoder(a)),
    ('text encoder', _text_encoder(a['text'])),
    ('joint space', f'{a["embed_dim"]} wide, {_projector(a)}'),
    ('tokenizer', _tokenizer(converted.tokenizer)),
    ('preprocessing', _preprocessing(converted.preprocessing)),
    ('parameters', _parameters(converted.variables)),
  ]
  progress = [
    f'{k} {metadata[k]:,}' for k in ('step', 'epoch') if k in metadata
  ]
  if progress:
    lines.append(('trained until', ', '.join(progress)))
  if metrics := metadata.get('metrics'):
    figures = [f'{name} {value:.4g}' for name, value in metrics.items()]
    lines.append(('metrics', ', '.join(figures)))
  lines += [('note', note) for note in metadata.get('notes', ())]
  return '\n'.join(f'{name + ":":<15}{value}' for name, value in lines)


def model_card(converted: Converted) -> str:
  """The README.md of a model folder, in Markdown."""
  described = describe(converted)
  rows = '\n'.join(
    '| {} | {} |'.format(*map(str.strip, line.split(':', 1)))
    for line in described.splitlines()
  )
  return f"""\
# {converted.metadata['file']}

A model that matches pictures, and regions of them, with words.

| | |
|---|---|
{rows}

```python
import groupvit_jax as gv

model = gv.load('path/of/this/folder')
segmentation = model.segment('photo.jpg', ['dog', 'grass', 'sky'])
```

## License

{converted.metadata['license']}
"""


def count(variables: Mapping[str, Any]) -> dict[str, int]:
  """Parameters by part, and in total (without batch-norm statistics)."""
  flat = tensors.flatten(variables['params'])
  sizes = {path: int(np.prod(x.shape)) for path, x in flat.items()}
  counts = {
    part: sum(n for path, n in sizes.items() if path.split('/')[0] in names)
    for part, names in _PARTS
  }
  return counts | {'total': sum(sizes.values())}


def _source(metadata: Mapping[str, Any]) -> str:
  return f'{metadata["source"]} ({metadata["file"]})'


def _image_encoder(a: Mapping[str, Any]) -> str:
  image, size = a['image'], a['image']['image_size']
  shape = (
    f'{size}x{size}' if isinstance(size, int) else 'x'.join(map(str, size))
  )
  common = (
    f'{shape} px in patches of {image["patch_size"]}, width {image["width"]}, '
    f'{image["num_heads"]} heads'
  )
  if a['image_encoder'] != 'groupvit':
    name = {'vit': 'ViT', 'clip_vit': "CLIP's ViT"}[a['image_encoder']]
    return f'{name}, {common}, depth {image["depth"]}'
  tokens = zip(
    image['num_group_tokens'], image['num_output_groups'], strict=True
  )
  stages = [
    f'{depth} blocks' + (f', {t} group tokens to {g} groups' if t else '')
    for depth, (t, g) in zip(image['depths'], tokens, strict=True)
  ]
  return f'GroupViT, {common}; stages: {"; ".join(stages)}'


def _text_encoder(text: Mapping[str, Any]) -> str:
  return (
    f'transformer, {text["context_length"]} tokens of {text["vocab_size"]:,}, '
    f'width {text["width"]}, {text["num_heads"]} heads, depth {text["depth"]}'
  )


def _projector(a: Mapping[str, Any]) -> str:
  width = a['projector_width']
  return f'through {width:,} hidden units' if width else 'by one linear layer'


def _tokenizer(tokenizer: str | None) -> str:
  if tokenizer is None:
    return 'none: the source brings none for its vocabulary'
  return "CLIP's byte pairs" if tokenizer == 'clip' else 'sentencepiece'


def _preprocessing(p: Mapping[str, Any]) -> str:
  mean, std = (
    ' '.join(f'{x:.3f}' for x in p[name]) for name in ('mean', 'std')
  )
  told = f'short side {p["short_side"]} px, mean {mean}, std {std}'
  return f'{told}, top_k {p["top_k"]}' if 'top_k' in p else told


def _parameters(variables: Mapping[str, Any]) -> str:
  counts = count(variables)
  total = counts.pop('total')
  parts = ', '.join(f'{part} {n:,}' for part, n in counts.items())
  return f'{total:,} ({parts})'
