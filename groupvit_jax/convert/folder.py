"""The model folder: weights, config, tokenizer and card, and nothing else.

It is whole or not there: written under a scratch name, then renamed. What it
holds is plain (JSON, safetensors), so reading it can run no foreign code.
"""

import collections
import dataclasses
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import safetensors

from groupvit_jax import files
from groupvit_jax.convert import architecture, fields, tensors
from groupvit_jax.errors import ModelError
from groupvit_jax.evaluation.config import OWN_STEPS
from groupvit_jax.text import clip, make_tokenizer


@dataclasses.dataclass(frozen=True)
class Converted:
  """A model and all that inference needs beside it.

  Attributes:
    architecture: what `models.build.build` takes.
    variables: nested 'params' and 'batch_stats', numpy float32.
    tokenizer: 'clip', the path of a sentencepiece model, or None where the
      source brings none for its vocabulary.
    preprocessing: mean and std (of pixels in 0..1), short_side (pixels), and
      fields of `SegmentConfig` that a run of one's own was evaluated with.
    metadata: source (what it was read from), file (its name), license, and
      where known data (that it was trained on), classes (of the data), words
      (all that its captions name), metrics (name to number) on a benchmark,
      step or epoch, notes (sentences).
  """

  architecture: dict[str, Any]
  variables: dict[str, Any]
  tokenizer: str | None
  preprocessing: dict[str, Any]
  metadata: dict[str, Any]


_ENCODERS = {'groupvit': 'GroupViT', 'vit': 'ViT', 'clip_vit': "CLIP's ViT"}
_TOKENIZERS = {
  None: 'none: the source brings none for its vocabulary',
  'clip': "CLIP's byte pairs",
}
_PARTS = (
  ('image encoder', ('image',)),
  ('text encoder', ('text',)),
  ('projectors', ('image_projector', 'text_projector')),
  (
    'temperatures',
    ('logit_scale', 'multi_label_logit_scale', 'logit_bias'),
  ),
)


def describe(converted: Converted) -> str:
  """Lines on a model: source, architecture, parameters, metrics, notes."""
  a, p, metadata = (
    converted.architecture,
    converted.preprocessing,
    converted.metadata,
  )
  hidden = a['projector_width']
  joint = (
    f'through {hidden:,} hidden units' if hidden else 'by one linear layer'
  )
  mean, std = (
    ' '.join(f'{x:.3f}' for x in p[name]) for name in ('mean', 'std')
  )
  own = ''.join(f', {name} {p[name]}' for name in OWN_STEPS if name in p)
  lines = [
    ('source', f'{metadata["source"]} ({metadata["file"]})'),
    ('image encoder', _image_encoder(a['image_encoder'], a['image'])),
    (
      'text encoder',
      'transformer, {context_length} tokens of {vocab_size:,}, width {width}, '
      '{num_heads} heads, depth {depth}'.format(**a['text']),
    ),
    ('joint space', f'{a["embed_dim"]} wide, {joint}'),
    ('tokenizer', _TOKENIZERS.get(converted.tokenizer, 'sentencepiece')),
    (
      'preprocessing',
      f'short side {p["short_side"]} px, mean {mean}, std {std}{own}',
    ),
    ('parameters', _parameters(converted.variables)),
  ]
  reached = [f'{k} {metadata[k]:,}' for k in ('step', 'epoch') if k in metadata]
  figures = [f'{k} {x:.4g}' for k, x in (metadata.get('metrics') or {}).items()]
  if figures and 'benchmark' in metadata:
    figures[-1] += f' (on {metadata["benchmark"]})'
  data = [metadata['data']] if 'data' in metadata else []
  for name, texts in (
    ('trained on', data),
    ('its classes', metadata.get('classes', ())),
    ('trained until', reached),
    ('metrics', figures),
  ):
    lines += [(name, ', '.join(texts))] if texts else []
  lines += [('note', note) for note in metadata.get('notes', ())]
  # Others wrote some of it: nothing that a terminal would obey.
  shown = [
    (name, ''.join(x if x.isprintable() else ' ' for x in text))
    for name, text in lines
  ]
  return '\n'.join(f'{name + ":":<15}{text}' for name, text in shown)


def _image_encoder(kind: str, image: Mapping[str, Any]) -> str:
  h, w = np.broadcast_to(image['image_size'], 2)
  if kind == 'clip_resnet':
    depths = ', '.join(map(str, image['depths']))
    return (
      f"CLIP's ResNet, {h}x{w} px, width {image['width']}, blocks {depths}, "
      f'pooled by {image["num_heads"]} heads'
    )
  parts = (
    f'{_ENCODERS[kind]}, {h}x{w} px in patches of {image["patch_size"]}, width '
    f'{image["width"]}, {image["num_heads"]} heads'
  )
  if 'depths' not in image:
    return f'{parts}, depth {image["depth"]}'
  tokens, groups = image['num_group_tokens'], image['num_output_groups']
  stages = [
    f'{depth} blocks' + (f', {t} group tokens to {g} groups' if t else '')
    for depth, t, g in zip(image['depths'], tokens, groups, strict=True)
  ]
  return f'{parts}; stages: {"; ".join(stages)}'


def _parameters(variables: Mapping[str, Any]) -> str:
  """Their number, in total and by part (without batch-norm statistics)."""
  sizes: collections.Counter[str] = collections.Counter()
  for path, x in tensors.flatten(variables['params']).items():
    sizes[path.partition('/')[0]] += x.size
  parts = ', '.join(
    f'{part} {sum(sizes[name] for name in names):,}' for part, names in _PARTS
  )
  return f'{sizes.total():,} ({parts})'


_CARD = """\
# {file}

A model that matches images, and regions of them, with words.

| | |
|---|---|
{rows}

```python
import groupvit_jax as gv

model = gv.load('path/of/this/folder')
segmentation = model.segment('photo.jpg', {words})
```

## License

{license}
"""


FORMAT = 1
CONFIG, WEIGHTS = 'config.json', 'model.safetensors'


class _Preprocessing(msgspec.Struct):
  mean: fields.COLOUR
  std: fields.DEVIATIONS
  short_side: fields.SIDE
  top_k: fields.COUNT | None = None
  regroup: Literal['none', 'kmeans'] = 'none'
  regroup_number: fields.COUNT | None = None
  one_hot: bool = True
  mix_logits: bool = False


class _Metadata(msgspec.Struct):
  source: str
  file: str
  license: str
  # May be absent, but not null.
  metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET  # or infinite
  notes: list[str] | msgspec.UnsetType = msgspec.UNSET
  step: fields.NUMBER | msgspec.UnsetType = msgspec.UNSET
  epoch: fields.NUMBER | msgspec.UnsetType = msgspec.UNSET
  data: str | msgspec.UnsetType = msgspec.UNSET
  benchmark: str | msgspec.UnsetType = msgspec.UNSET
  classes: list[str] | msgspec.UnsetType = msgspec.UNSET
  words: list[str] | msgspec.UnsetType = msgspec.UNSET


class _Config(msgspec.Struct):
  """The config.json of a model folder; `architecture` has its own check."""

  architecture: dict[str, Any]
  preprocessing: _Preprocessing
  tokenizer: str | None
  metadata: _Metadata
  sha256: str


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  if not folder.is_dir():
    raise ModelError(f'there is no model folder {folder}')
  half = f'{folder} is a half-written model folder'
  again = 'convert or copy the model again (--overwrite replaces the folder)'
  for name in (CONFIG, WEIGHTS):
    if not (folder / name).is_file():
      raise ModelError(f'{half}, it lacks {name}; {again}')
  try:
    config = fields.read_json(folder / CONFIG)
  except ModelError as error:
    raise ModelError(f'{half}: {error}; {again}') from error
  if config.get('format') != FORMAT:
    raise ModelError(
      f'{folder / CONFIG} has format {config.get("format")!r:.80}, this '
      f'version reads {FORMAT}; update groupvit_jax, or convert the model with '
      'this version'
    )
  fields.parse(config, _Config, str(folder / CONFIG))
  return config


CARD, TOKENIZER = 'README.md', 'tokenizer.model'
PROGRAMS = 'programs.json'  # beside exported programs
# All that our folders, and those we write for others, consist of.
_FILES = {
  WEIGHTS,
  CONFIG,
  CARD,
  TOKENIZER,
  'merges.txt',
  'open_clip_config.json',
  'open_clip_model.safetensors',
  'preprocessor_config.json',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  PROGRAMS,
  *(
    f'{name}.{ending}'
    for name in ('image', 'text', 'segment')
    for ending in ('stablehlo', 'onnx', 'onnx.data')
  ),
  # A SavedModel.
  'saved_model.pb',
  'fingerprint.pb',
  'variables/variables.index',
  'variables/variables.data-00000-of-00001',
}
# In the header of the weights: tells them from Hugging Face's of that name.
MARK = {'format': 'groupvit_jax'}


def write(
  folder: str | os.PathLike, converted: Converted, *, overwrite: bool = False
) -> pathlib.Path:
  """Writes a model folder.

  Args:
    folder: where; its parents are created.
    converted: the model.
    overwrite: replace a model folder that is there.

  Returns:
    The absolute path of the folder.

  Raises:
    ModelError: the folder exists, or cannot be written.
  """

  def fill(scratch: pathlib.Path) -> None:
    arrays = tensors.flatten(converted.variables)
    tensors.write(scratch / WEIGHTS, arrays, MARK)
    tokenizer = converted.tokenizer
    if tokenizer not in ('clip', None):
      shutil.copyfile(tokenizer, scratch / TOKENIZER)
      tokenizer = TOKENIZER
    lines = [line.split(':', 1) for line in describe(converted).splitlines()]
    card = _CARD.format(
      rows='\n'.join(f'| {a.strip()} | {b.strip()} |' for a, b in lines),
      words=converted.metadata.get('classes', ['sky', 'grass', 'dog'])[-3:],
      **{name: converted.metadata[name] for name in ('file', 'license')},
    )
    # File names may hold bytes that are not valid in any encoding.
    (scratch / CARD).write_bytes(card.encode(errors='backslashreplace'))
    config = {
      'format': FORMAT,
      'architecture': converted.architecture,
      'preprocessing': converted.preprocessing,
      'tokenizer': tokenizer,
      'metadata': converted.metadata,
    }
    config['sha256'] = _digest(config, arrays)
    text = json.dumps(config, indent=2) + '\n'
    (scratch / CONFIG).write_text(text)

  return write_folder(folder, fill, overwrite=overwrite)


def is_model_folder(folder: str | os.PathLike) -> bool:
  """Whether a folder is one of ours, be it half-written."""
  folder = pathlib.Path(folder)
  if _has_field(folder, 'format'):
    return True
  if not (folder / WEIGHTS).is_file():
    return False
  try:
    with safetensors.safe_open(folder / WEIGHTS, 'numpy') as file:
      return (file.metadata() or {}).get('format') == MARK['format']
  except (OSError, safetensors.SafetensorError):
    return False


def read(folder: str | os.PathLike) -> Converted:
  """Reads a model folder.

  Raises:
    ModelError: it is missing, half-written, damaged, or of a later version.
  """
  folder = files.expanded(folder).absolute()
  config = _read_config(folder)
  arrays, _ = tensors.read(folder / WEIGHTS)
  if _digest(config, arrays) != config['sha256']:
    raise ModelError(
      f'{folder} is not what was written: the checksum of {WEIGHTS} and of the '
      f'architecture in {CONFIG} differs from the stored one; copy or convert '
      'the model again'
    )
  described = config['architecture']
  architecture.check(described, arrays)
  tokenizer = config['tokenizer']
  if tokenizer not in ('clip', None):
    tokenizer = own_tokenizer(folder)
    if tokenizer is None:
      raise ModelError(f'{folder} lacks {TOKENIZER}; copy the model again')
  check_vocabulary(tokenizer, described['text']['vocab_size'])
  return Converted(
    described,
    tensors.nest(arrays),
    tokenizer,
    config['preprocessing'],
    config['metadata'],
  )


def own_tokenizer(folder: pathlib.Path) -> str | None:
  """The path of a folder's sentencepiece model; None if there is none.

  Raises:
    ModelError: it is a link. A link could make a copy of the folder hold any
      file of this machine.
  """
  path = folder / TOKENIZER
  # The hub's cache keeps all files in one folder, and links to them.
  blobs = folder.parent.parent / 'blobs'
  if path.is_symlink() and path.resolve().parent != blobs.resolve():
    raise ModelError(f'{path} is a link; put the file itself there')
  return str(path) if path.is_file() else None


def check_vocabulary(tokenizer: str | None, vocab_size: int) -> None:
  """ModelError for a tokenizer that cannot be read or is of other weights."""
  if tokenizer is None:
    return
  count = clip.VOCAB_SIZE
  if tokenizer != 'clip':
    try:
      count = make_tokenizer(tokenizer).vocab_size
    except (OSError, ValueError) as error:
      raise ModelError(f'the tokenizer cannot be read: {error}') from error
  if count != vocab_size:
    raise ModelError(
      f'the tokenizer {tokenizer} has {count} ids, the weights have '
      f'{vocab_size}'
    )


def _digest(config: dict[str, Any], arrays: dict[str, Any]) -> str:
  """Of all that decides what the model computes: its card may be edited."""
  decides = {k: config[k] for k in ('architecture', 'preprocessing')}
  return files.digest(arrays, decides)


def write_folder(
  folder: str | os.PathLike,
  fill: Callable[[pathlib.Path], None],
  *,
  overwrite: bool,
) -> pathlib.Path:
  """Makes a folder that appears only when `fill` has written all of it.

  Args:
    folder: where; an empty folder counts as none.
    fill: writes into the scratch folder that it is given.
    overwrite: replace a folder of a model that is there.

  Returns:
    The absolute path of the folder.
  """
  try:
    folder = files.expanded(folder).resolve()  # not a link to it
    occupied = folder.exists() and not (
      folder.is_dir() and not any(folder.iterdir())
    )
  except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
    raise ModelError(f'cannot write {folder}: {error}') from error
  if occupied and not overwrite:
    raise ModelError(
      f'{folder} exists; choose another place, or replace it with --overwrite'
    )
  if occupied and not _is_replaceable(folder):
    raise ModelError(
      f'{folder} holds other things than a model, and is left as it is; choose '
      'another place'
    )
  scratch = folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}')
  try:
    scratch.mkdir(parents=True)
    fill(scratch)
    for path in filter(pathlib.Path.is_file, scratch.rglob('*')):
      # Else a power cut could keep the new name without its content.
      with path.open('rb') as file:
        os.fsync(file.fileno())
    old = folder.with_name(f'{scratch.name}.old')
    if folder.exists():
      folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
  except (OSError, safetensors.SafetensorError) as error:
    raise ModelError(f'cannot write {folder}: {error}') from error
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
  return folder


def _is_replaceable(folder: pathlib.Path) -> bool:
  """Only what a model folder, ours or one exported, consists of."""
  inside = [path for path in folder.rglob('*') if not path.is_dir()]
  return (
    folder.is_dir()
    and all(str(path.relative_to(folder)) in _FILES for path in inside)
    and (
      is_model_folder(folder)
      or _has_field(folder, 'model_type')
      or (folder / 'open_clip_config.json').is_file()
      or (folder / PROGRAMS).is_file()
    )
  )


def _has_field(folder: pathlib.Path, name: str) -> bool:
  try:
    return name in fields.read_json(folder / CONFIG)
  except ModelError:
    return False
