"""Any source to one model: foreign weights, a training run, a model folder."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from groupvit_jax import files, scenes
from groupvit_jax.convert import (
  architecture,
  fields,
  hub,
  tensors,
  torch_files,
)
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert.architecture import Hints
from groupvit_jax.convert.export import OURS
from groupvit_jax.convert.folder import Converted
from groupvit_jax.convert.keymaps import (
  HF_CLIP,
  HF_GROUPVIT,
  NVLABS,
  OPENAI_CLIP,
  OPENAI_RESNET,
  KeyMap,
)
from groupvit_jax.convert.torch_files import OPEN_CLIP_CONFIG, StateDict
from groupvit_jax.data import on_device
from groupvit_jax.errors import ModelError, WorkdirError
from groupvit_jax.models import resnet
from groupvit_jax.text import clip, make_tokenizer
from groupvit_jax.text.sentencepiece import SentencePieceTokenizer
from groupvit_jax.training import clip as clip_training
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import task


def load_source(path: str | os.PathLike) -> Converted:
  """Reads a model from wherever it is.

  Args:
    path: a model folder, the workdir of a training run (its newest checkpoint),
      a Hugging Face folder of GroupViT or CLIP, or a file of weights (.pth,
      .pt, .bin, .safetensors) of the original GroupViT, of either of those, or
      of OpenAI's CLIP (its archives, open_clip's checkpoints). A file's
      config.json or open_clip_config.json is looked for beside it. Or the name
      of a model on the hub, see `find`.

  Returns:
    The model, with what inference needs.

  Raises:
    ModelError: there is none, or it cannot be read as one; says why.
  """
  path = find(path)
  if path.name == model_folder.WEIGHTS and model_folder.is_model_folder(
    path.parent
  ):
    return model_folder.read(path.parent)
  if path.is_dir():
    if (path / 'checkpoints').is_dir() and (path / 'config.json').is_file():
      return _read_workdir(path)
    if model_folder.is_model_folder(path):
      return model_folder.read(path)
  return from_state(torch_files.read_state_dict(path))


def find(path: str | os.PathLike) -> pathlib.Path:
  """The local path of a model, after a download if it is a name on the hub.

  Args:
    path: a file or folder; else, if there is none, 'owner/name' of a model on
      the hub, with '@revision' (a branch, tag or commit) or its main branch.
      That is converted once, and kept in ~/.cache/groupvit_jax/models.

  Raises:
    ModelError: it is neither; or the hub refuses it or cannot be reached.
  """
  local = files.expanded(path).absolute()
  if local.is_dir() or local.is_file():
    return local
  if local.exists():  # reading a pipe would never end
    raise ModelError(f'{local} is neither a file nor a folder')
  if not hub.is_name(str(path)):
    raise ModelError(
      f'there is no {local}; give a folder or file on this machine, or a name '
      'on the Hugging Face hub, such as nvidia/groupvit-gcc-yfcc'
    )
  snapshot = hub.resolve(str(path))
  if snapshot.kept.is_dir():
    return snapshot.kept
  folder = hub.download(snapshot)
  if model_folder.is_model_folder(folder) or not snapshot.online:
    return folder  # offline, a file that the conversion reads may be absent
  converted = from_state(torch_files.read_state_dict(folder))
  converted.metadata['file'] = f'{snapshot.name}@{snapshot.commit}'
  try:
    return model_folder.write(snapshot.kept, converted, overwrite=True)
  except ModelError:
    return folder  # a home that is full or read-only is no reason to fail


# The workdir of a training run: its config and its newest good checkpoint.
#
# Only parameters and batch statistics are read, not the optimizer's state.

_COLLECTIONS = ('params/', 'batch_stats/')


def _read_workdir(workdir: pathlib.Path) -> Converted:
  """Reads the newest checkpoint of a run that is whole.

  Raises:
    ModelError: there is none, or the config is not this version's.
  """
  from groupvit_jax.training import checkpoint  # Orbax takes a second

  config = fields.read_json(workdir / 'config.json')
  try:
    step, arrays = checkpoint.read_newest(workdir)
  except WorkdirError as error:
    raise ModelError(str(error)) from error
  flat = {
    path: x for path, x in arrays.items() if path.startswith(_COLLECTIONS)
  }
  try:
    vocab_size = len(flat['params/text/tokens'])
    described = task.architecture(config, vocab_size)
    tokenizer = _run_tokenizer(config, vocab_size)
    short_side = config['image_size']
    mean, std = on_device.NORMALIZATIONS[clip_training.normalization(config)]
    steps = config_lib.own_steps(config['eval'])
    trained_on = _trained_on(config)
  except (KeyError, TypeError) as error:
    raise ModelError(
      f'{workdir}/config.json lacks {error}; it is of another version'
    ) from error
  architecture.check(described, flat)
  return Converted(
    architecture=described,
    variables=tensors.nest(flat),
    tokenizer=tokenizer,
    preprocessing={
      'mean': list(mean),
      'std': list(std),
      'short_side': short_side,
      **steps,  # as the run was evaluated
    },
    metadata={
      'source': 'trained by groupvit_jax',
      'file': workdir.name,
      'license': _OWN,
      'step': step,
      'metrics': _metrics(workdir / 'summary.json', step),
      **trained_on,
    },
  )


def _trained_on(config: Mapping[str, Any]) -> dict[str, Any]:
  """The data of a run, the words of its captions if few, its benchmark."""
  data, evaluation, found = config['data'], config['eval'], {}
  source = data['source']
  if evaluation['source']:
    count = evaluation['examples'] or 'all'
    found['benchmark'] = f'{evaluation["source"]}, {count} images'
  if source != 'scenes':
    names = ' '.join(data.get('shards') or data.get('tfds') or ())
    return found | {'data': f'{source}: {names}'}
  found['data'] = f'scenes, {data["train_examples"]:,} synthetic images'
  if not config.get('init_from'):
    found |= {'classes': [*scenes.CLASS_NAMES], 'words': scenes.vocabulary()}
  return found


def _run_tokenizer(config: dict[str, Any], vocab_size: int) -> str:
  """Tokenizer of the run; it must still be where the config says."""
  name = config['data']['tokenizer']
  try:
    tokenizer = make_tokenizer(name)
  except (OSError, ValueError) as error:
    raise ModelError(f'the tokenizer of the run is gone: {error}') from error
  if tokenizer.vocab_size != vocab_size:
    raise ModelError(
      f'the tokenizer {name} has {tokenizer.vocab_size} ids now, the run was '
      f'trained with {vocab_size}; put the old file back'
    )
  if isinstance(tokenizer, SentencePieceTokenizer):
    return str(tokenizer.path)
  return name


def _metrics(path: pathlib.Path, step: int) -> dict[str, float]:
  """Figures of the run's summary, if it is of this step."""
  try:
    summary = fields.read_json(path)
  except ModelError:
    return {}
  if summary.get('steps') != step:
    return {}
  shown = ('miou', 'oracle_miou', 'pixel_accuracy')
  return {
    name: summary[name] for name in shown if summary.get(name) is not None
  }


IMAGENET = {'mean': list(on_device.MEAN), 'std': list(on_device.STD)}
CLIP = {'mean': list(on_device.CLIP_MEAN), 'std': list(on_device.CLIP_STD)}
_NVIDIA = (
  "The weights released by NVIDIA are under NVIDIA's Source Code License: they "
  'and what is converted from them may be used for research or evaluation '
  'only, not commercially. Weights trained by others are under the license '
  'that these chose.'
)
_OPENAI = 'The weights released by OpenAI are under the MIT License.'
_OWN = 'Trained by whoever made this folder; the license is theirs to choose.'
# The released evaluation: short side 448 of a model for 224 pixels.
SEGMENTATION_SCALE = 2


# Configs of foreign weights. Heads, activations and the like do not show in the
# weights. A default is the only value that our modules compute; another one is
# refused with its name.

_Epsilon = Annotated[float, Meta(ge=1e-5, le=1e-5)]


class _Vision(msgspec.Struct, frozen=True):
  image_size: fields.SIDES | None = None
  num_attention_heads: fields.COUNT | None = None
  layer_norm_eps: _Epsilon = 1e-5


class _GroupViTVision(_Vision, frozen=True):
  depths: fields.COUNTS | None = None
  hidden_act: Literal['gelu'] = 'gelu'
  assign_eps: Annotated[float, Meta(ge=1, le=1)] = 1.0


class _ClipVision(_Vision, frozen=True):
  hidden_act: fields.ACTIVATION = 'quick_gelu'


class _Text(msgspec.Struct, frozen=True):
  num_attention_heads: fields.COUNT | None = None
  eos_token_id: fields.COUNT | None = None
  vocab_size: fields.COUNT | None = None
  layer_norm_eps: _Epsilon = 1e-5

  def __post_init__(self):
    end, size = self.eos_token_id, self.vocab_size
    # A text is read at its highest id. 2 is an old mistake in published
    # configs, by which the highest is meant.
    if end and size and end not in (2, size - 1):
      raise ValueError(
        f'eos_token_id is {end}; only the last of the {size} ids is supported'
      )


class _GroupViTText(_Text, frozen=True):
  hidden_act: Literal['quick_gelu'] = 'quick_gelu'


class _ClipText(_Text, frozen=True):
  hidden_act: fields.ACTIVATION = 'quick_gelu'


class _Ours(msgspec.Struct, frozen=True):
  """Fields that `export` adds to those of Hugging Face."""

  short_side: fields.COUNT | None = None
  license: str | None = None


class _GroupViTConfig(msgspec.Struct, frozen=True):
  vision_config: _GroupViTVision = _GroupViTVision()
  text_config: _GroupViTText = _GroupViTText()


class _ClipConfig(msgspec.Struct, frozen=True):
  vision_config: _ClipVision = _ClipVision()
  text_config: _ClipText = _ClipText()


class _OpenClipVision(msgspec.Struct, frozen=True):
  image_size: fields.SIDES | None = None
  width: fields.COUNT | None = None
  head_width: fields.COUNT = 64
  layers: fields.COUNT_FROM_0 | fields.COUNTS | None = None  # of a ResNet many


class _OpenClipText(msgspec.Struct, frozen=True):
  heads: fields.COUNT | None = None


class _OpenClipModel(msgspec.Struct, frozen=True):
  vision_cfg: _OpenClipVision = _OpenClipVision()
  text_cfg: _OpenClipText = _OpenClipText()
  quick_gelu: bool = False


class _OpenClipPixels(msgspec.Struct, frozen=True):
  mean: fields.COLOUR | None = None
  std: fields.COLOUR | None = None


class _OpenClipConfig(msgspec.Struct, frozen=True):
  model_cfg: _OpenClipModel | None = None
  preprocess_cfg: _OpenClipPixels = _OpenClipPixels()


class _Preprocessor(msgspec.Struct, frozen=True):
  image_mean: fields.COLOUR | None = None
  image_std: fields.COLOUR | None = None


class _NvlabsEncoder(msgspec.Struct, frozen=True):
  num_heads: fields.COUNTS = []
  depths: fields.COUNTS | None = None
  img_size: fields.SIDES | None = None
  drop_path_rate: fields.NUMBER = 0.1
  hard_assignment: bool = True


class _NvlabsModel(msgspec.Struct, frozen=True):
  img_encoder: _NvlabsEncoder = _NvlabsEncoder()


class _NvlabsConfig(msgspec.Struct, frozen=True):
  model: _NvlabsModel = _NvlabsModel()


class _NvlabsExtras(msgspec.Struct, frozen=True):
  config: _NvlabsConfig = _NvlabsConfig()


def _nvlabs_hints(state: StateDict) -> Hints:
  """From the training config, where the checkpoint has kept it.

  The text encoder's heads are width // 64 in the original's code.
  """
  extras = fields.parse(state.extras, _NvlabsExtras, 'the checkpoint')
  encoder = extras.config.model.img_encoder
  heads = encoder.num_heads
  if len(set(heads)) > 1:
    raise ModelError(
      f'{state.path} has other numbers of heads in other stages ({heads}); '
      'only one for all of them is supported'
    )
  return Hints(
    image_size=encoder.img_size,
    image_heads=heads[0] if heads else None,
    depths=encoder.depths or None,
    drop_path_rate=encoder.drop_path_rate,
    assignment='hard' if encoder.hard_assignment else 'soft',
  )


def _hf_groupvit_hints(state: StateDict) -> Hints:
  config = fields.parse(state.config, _GroupViTConfig, 'config.json')
  vision = config.vision_config
  return Hints(
    image_size=vision.image_size,
    image_heads=vision.num_attention_heads,
    text_heads=config.text_config.num_attention_heads,
    depths=vision.depths or None,
  )


def _hf_clip_hints(state: StateDict) -> Hints:
  config = fields.parse(state.config, _ClipConfig, 'config.json')
  vision, text = config.vision_config, config.text_config
  return Hints(
    image_size=vision.image_size,
    image_heads=vision.num_attention_heads,
    text_heads=text.num_attention_heads,
    image_activation=vision.hidden_act,
    text_activation=text.hidden_act,
  )


def _open_clip(state: StateDict) -> _OpenClipConfig:
  return fields.parse(state.open_clip, _OpenClipConfig, OPEN_CLIP_CONFIG)


def _openai_hints(state: StateDict) -> Hints:
  """From the open_clip_config.json beside the weights, where there is one."""
  model = _open_clip(state).model_cfg
  if model is None:
    return Hints()
  vision, activation = model.vision_cfg, 'gelu'
  if model.quick_gelu:
    activation = 'quick_gelu'
  width = vision.width
  if width and isinstance(vision.layers, list):  # see `build.clip_resnet`
    width *= resnet.ClipResNet.patch_size
  return Hints(
    image_size=vision.image_size,
    image_heads=width // vision.head_width if width else None,
    text_heads=model.text_cfg.heads,
    image_activation=activation,
    text_activation=activation,
  )


def _normalization(
  default: dict[str, list[float]], state: StateDict
) -> dict[str, list[float]]:
  """Mean and deviation that files beside the weights give, or the default.

  The published folders of GroupViT were saved beside CLIP-B/32's processor,
  though the weights were trained with ImageNet's mean and deviation.
  """
  own = _open_clip(state).preprocess_cfg
  file = fields.parse(
    state.preprocessor, _Preprocessor, 'preprocessor_config.json'
  )
  found = {
    'mean': own.mean or file.image_mean or default['mean'],
    'std': own.std or file.image_std or default['std'],
  }
  return default if found == CLIP else found


@dataclasses.dataclass(frozen=True)
class Source:
  """A kind of foreign weights.

  Attributes:
    name: in messages.
    keymap: its names.
    hints: from the file and what came with it.
    normalization: mean and std of its pixels, unless its files have others.
    license: a sentence on it.
  """

  name: str
  keymap: KeyMap
  hints: Callable[[StateDict], Hints]
  normalization: dict[str, list[float]]
  license: str


SOURCES = (
  Source('the original GroupViT', NVLABS, _nvlabs_hints, IMAGENET, _NVIDIA),
  Source(
    "Hugging Face's GroupViT",
    HF_GROUPVIT,
    _hf_groupvit_hints,
    IMAGENET,
    _NVIDIA,
  ),
  Source("OpenAI's CLIP", OPENAI_CLIP, _openai_hints, CLIP, _OPENAI),
  Source("OpenAI's CLIP", OPENAI_RESNET, _openai_hints, CLIP, _OPENAI),
  Source("Hugging Face's CLIP", HF_CLIP, _hf_clip_hints, CLIP, _OPENAI),
)


def identify(state: StateDict) -> Source:
  """The source whose marker a state dict has.

  Raises:
    ModelError: it is none of `SOURCES`.
  """
  for source in SOURCES:
    if source.keymap.marker in state.arrays:
      return source
  known = '; '.join(f'{s.name} ({s.keymap.marker})' for s in SOURCES)
  first = ', '.join(list(state.arrays)[:3])
  raise ModelError(
    f'{state.path} holds weights of an unknown model ({first}, ...); known '
    f'are, by a name that they hold: {known}'
  )


def from_state(state: StateDict) -> Converted:
  """The model of a foreign state dict; ModelError as `load_source`."""
  source = identify(state)
  flat = source.keymap.to_flax(state.arrays)
  hints = source.hints(state)
  described = architecture.read(flat, source.keymap, hints)
  architecture.check(described, flat, source.keymap)
  vocab_size = described['text']['vocab_size']
  tokenizer = model_folder.own_tokenizer(state.path)
  model_folder.check_vocabulary(tokenizer, vocab_size)
  if tokenizer is None and vocab_size == clip.VOCAB_SIZE:
    tokenizer = 'clip'
  ours = fields.parse(state.config.get(OURS, {}), _Ours, f'config.json, {OURS}')
  # Twice what GroupViT was trained at, as released; CLIP's own size.
  side = min(np.broadcast_to(described['image']['image_size'], 2).tolist())
  if described['image_encoder'] == 'groupvit':
    side *= SEGMENTATION_SCALE
  return Converted(
    architecture=described,
    variables=tensors.nest(flat),
    tokenizer=tokenizer,
    preprocessing={
      **_normalization(source.normalization, state),
      'short_side': ours.short_side or side,
    },
    metadata={
      'source': source.name,
      'file': state.path.name,
      **_training_figures(state.extras),
      'license': ours.license or source.license,
      'notes': architecture.assumptions(described, hints),
    },
  )


def _training_figures(extras: Mapping[str, Any]) -> dict[str, Any]:
  """Metrics and epoch that a training checkpoint holds."""
  found = {k: v for k, v in extras.items() if k.startswith('max_')}
  if isinstance(metrics := extras.get('metrics'), Mapping):
    found |= metrics
  epoch = extras.get('epoch')
  return {
    'metrics': {
      k: float(v) for k, v in found.items() if isinstance(v, int | float)
    },
    **({'epoch': epoch} if isinstance(epoch, int) else {}),
  }
