"""Any source to one model: foreign weights, a training run, a model folder."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from groupvit_jax import files
from groupvit_jax.convert import (
  architecture,
  fields,
  keymaps,
  tensors,
  torch_files,
)
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert.architecture import Hints
from groupvit_jax.convert.export import OURS
from groupvit_jax.convert.folder import Converted
from groupvit_jax.convert.keymaps import HF_GROUPVIT, NVLABS, KeyMap
from groupvit_jax.convert.torch_files import StateDict
from groupvit_jax.data import on_device
from groupvit_jax.errors import ModelError, WorkdirError
from groupvit_jax.text import clip, make_tokenizer
from groupvit_jax.text.sentencepiece import SentencePieceTokenizer
from groupvit_jax.training import clip as clip_training
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import task

# Every foreign source of weights: whose they are, and what they imply.
#
# Heads, activations and the like do not show in the weights. Each source says
# them its own way, and what we do not compute is refused by name.

IMAGENET = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
CLIP = {
  'mean': list(on_device.CLIP_MEAN),
  'std': list(on_device.CLIP_STD),
}
_NVIDIA = (
  "The weights released by NVIDIA are under NVIDIA's Source Code License: they "
  'and what is converted from them may be used for research or evaluation '
  'only, not commercially. Weights trained by others are under the license '
  'that these chose.'
)
_OPENAI = 'The weights released by OpenAI are under the MIT License.'
# What messages call the parts of Hugging Face's config.
_VISION, _TEXT = 'config.json, vision_config', 'config.json, text_config'


@dataclasses.dataclass(frozen=True)
class Source:
  """A kind of foreign weights.

  Attributes:
    name: in messages.
    keymap: its names.
    hints: from the file and what came with it.
    normalization: mean and std of its pixels, likewise.
    license: a sentence on it.
  """

  name: str
  keymap: KeyMap
  hints: Callable[[StateDict], Hints]
  normalization: Callable[[StateDict], dict[str, list[float]]]
  license: str


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


def _nvlabs_hints(state: StateDict) -> Hints:
  """From the training config, where the checkpoint has kept it.

  The text encoder's heads are width // 64 in the original's code.
  """
  where, encoder = 'the config in the checkpoint', state.extras
  for part in ('config', 'model', 'img_encoder'):
    encoder = fields.get(encoder, part, fields.MAPPING, where, {})
  heads = fields.get(encoder, 'num_heads', fields.COUNTS, where, [])
  if len(set(heads)) > 1:
    raise ModelError(
      f'{state.path} has other numbers of heads in other stages ({heads}); '
      'only one for all of them is supported'
    )
  hard = encoder.get('hard_assignment', True)
  depths = fields.get(encoder, 'depths', fields.COUNTS, where)
  rate = fields.get(encoder, 'drop_path_rate', fields.NUMBER, where, 0.1)
  return Hints(
    image_size=fields.get(encoder, 'img_size', fields.SIDES, where),
    image_heads=heads[0] if heads else None,
    depths=tuple(depths) if depths else None,
    drop_path_rate=rate,
    assignment='hard' if hard else 'soft',
  )


def _hf_groupvit_hints(state: StateDict) -> Hints:
  vision, text = _parts(state.config)
  _require('vision', vision, hidden_act='gelu', assign_eps=1.0)
  _require_text(text)
  depths = fields.get(vision, 'depths', fields.COUNTS, _VISION)
  return dataclasses.replace(
    _hf_hints(vision, text), depths=tuple(depths) if depths else None
  )


def _hf_clip_hints(state: StateDict) -> Hints:
  vision, text = _parts(state.config)
  _require('vision', vision)
  _require_text(text, hidden_act=None)
  act = 'hidden_act'
  return dataclasses.replace(
    _hf_hints(vision, text),
    image_activation=fields.get(
      vision, act, fields.ACTIVATION, _VISION, 'quick_gelu'
    ),
    text_activation=fields.get(
      text, act, fields.ACTIVATION, _TEXT, 'quick_gelu'
    ),
  )


def _openai_hints(state: StateDict) -> Hints:
  """From the open_clip_config.json beside the weights, where there is one."""
  where = f'{torch_files.OPEN_CLIP_CONFIG}, model_cfg'
  config = fields.get(state.open_clip, 'model_cfg', fields.MAPPING, where, {})
  if not config:
    return Hints()
  vision, text = (
    fields.get(config, f'{part}_cfg', fields.MAPPING, where, {})
    for part in ('vision', 'text')
  )
  quick = fields.get(config, 'quick_gelu', fields.FLAG, where, False)
  activation = 'quick_gelu' if quick else 'gelu'
  width = fields.get(vision, 'width', fields.COUNT, where)
  head = fields.get(vision, 'head_width', fields.COUNT, where, 64)
  layers = vision.get('layers')
  if width and isinstance(layers, list):  # a ResNet; see `build.clip_resnet`
    width *= 32
  return Hints(
    image_size=fields.get(vision, 'image_size', fields.SIDES, where),
    image_heads=width // head if width else None,
    text_heads=fields.get(text, 'heads', fields.COUNT, where),
    image_activation=activation,
    text_activation=activation,
  )


def _hf_hints(vision: Mapping[str, Any], text: Mapping[str, Any]) -> Hints:
  heads = 'num_attention_heads'
  return Hints(
    image_size=fields.get(vision, 'image_size', fields.SIDES, _VISION),
    image_heads=fields.get(vision, heads, fields.COUNT, _VISION),
    text_heads=fields.get(text, heads, fields.COUNT, _TEXT),
  )


def _parts(
  config: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
  return tuple(
    fields.get(config, f'{part}_config', fields.MAPPING, 'config.json', {})
    for part in ('vision', 'text')
  )


def _require(part: str, config: Mapping[str, Any], **wanted: Any) -> None:
  """Refuses a config that asks for what our modules do not compute."""
  for name, value in (wanted | {'layer_norm_eps': 1e-5}).items():
    found = config.get(name, value)
    if found != value:
      raise ModelError(
        f'config.json: {part}_config.{name} is {found!r}; only {value!r} is '
        'supported'
      )


def _require_text(
  config: Mapping[str, Any], hidden_act: str | None = 'quick_gelu'
) -> None:
  """Refuses a text encoder that is not read at its highest id."""
  _require('text', config, **{'hidden_act': hidden_act} if hidden_act else {})
  end, size = (
    fields.get(config, name, fields.COUNT, _TEXT)
    for name in ('eos_token_id', 'vocab_size')
  )
  # 2 is an old mistake in published configs, by which the highest is meant.
  if None not in (end, size) and end not in (2, size - 1):
    raise ModelError(
      f'config.json: text_config.eos_token_id is {end}; only the last of the '
      f'{size} ids is supported'
    )


def _of_file(state: StateDict, default: dict) -> dict[str, list[float]]:
  found = {
    name: fields.get(
      state.preprocessor,
      f'image_{name}',
      fields.COLOUR,
      'preprocessor_config.json',
    )
    for name in ('mean', 'std')
  }
  return found if all(found.values()) else default


def _openai_normalization(state: StateDict) -> dict[str, list[float]]:
  where = f'{torch_files.OPEN_CLIP_CONFIG}, preprocess_cfg'
  config = fields.get(
    state.open_clip, 'preprocess_cfg', fields.MAPPING, where, {}
  )
  return {
    name: fields.get(config, name, fields.COLOUR, where, CLIP[name])
    for name in CLIP
  }


def _hf_groupvit_normalization(state: StateDict) -> dict[str, list[float]]:
  """ImageNet's, unless the folder says other than CLIP's.

  The published folders were saved beside CLIP-B/32's processor, though the
  weights were trained with ImageNet's mean and deviation.
  """
  found = _of_file(state, IMAGENET)
  return IMAGENET if found == CLIP else found


SOURCES = (
  Source(
    'the original GroupViT',
    NVLABS,
    _nvlabs_hints,
    lambda state: IMAGENET,
    _NVIDIA,
  ),
  Source(
    "Hugging Face's GroupViT",
    HF_GROUPVIT,
    _hf_groupvit_hints,
    _hf_groupvit_normalization,
    _NVIDIA,
  ),
  *(
    Source(
      "OpenAI's CLIP",
      keymap,
      _openai_hints,
      _openai_normalization,
      _OPENAI,
    )
    for keymap in (keymaps.OPENAI_CLIP, keymaps.OPENAI_RESNET)
  ),
  Source(
    "Hugging Face's CLIP",
    keymaps.HF_CLIP,
    _hf_clip_hints,
    lambda state: _of_file(state, CLIP),
    _OPENAI,
  ),
)


# The workdir of a training run: its config and its newest good checkpoint.
#
# Only parameters and batch statistics are read, not the optimizer's state.

_COLLECTIONS = ('params/', 'batch_stats/')
_LICENSE = (
  'Trained by whoever made this folder; the license is theirs to choose.'
)


def is_workdir(path: pathlib.Path) -> bool:
  """Whether a training run has claimed this folder and saved something."""
  return (path / 'checkpoints').is_dir() and (path / 'config.json').is_file()


def read(workdir: pathlib.Path) -> Converted:
  """Reads the newest checkpoint of a run that is whole.

  Raises:
    ModelError: there is none, or the config is not this version's.
  """
  from groupvit_jax.training import checkpoint  # Orbax takes a second

  config = _config(workdir / 'config.json')
  try:
    step, arrays = checkpoint.read_newest(workdir)
  except WorkdirError as error:
    raise ModelError(str(error)) from error
  flat = {
    path: x for path, x in arrays.items() if path.startswith(_COLLECTIONS)
  }
  variables = tensors.nest(flat)
  vocab_size = variables['params']['text']['tokens'].shape[0]
  try:
    described = task.architecture(config, vocab_size)
    tokenizer = _run_tokenizer(config, vocab_size)
    short_side = config['image_size']
    mean, std = on_device.NORMALIZATIONS[clip_training.normalization(config)]
    steps = config_lib.own_steps(config['eval'])
  except (KeyError, TypeError) as error:
    raise ModelError(
      f'{workdir}/config.json lacks {error}; it is of another version'
    ) from error
  architecture.check(described, flat)
  architecture.check_arrays(described, flat)
  return Converted(
    architecture=described,
    variables=variables,
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
      'license': _LICENSE,
      'step': step,
      'metrics': _metrics(workdir / 'summary.json', step),
    },
  )


def _config(path: pathlib.Path) -> dict[str, Any]:
  config = fields.read_json(path)
  if not isinstance(config, dict):
    raise ModelError(f'{path} holds a {type(config).__name__}, not an object')
  return config


def _run_tokenizer(config: dict[str, Any], vocab_size: int) -> str:
  """What the run was trained with; it must still be where the config says."""
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
  if not isinstance(summary, dict) or summary.get('steps') != step:
    return {}
  shown = ('miou', 'oracle_miou', 'pixel_accuracy', 'train_loss')
  return {
    name: summary[name] for name in shown if summary.get(name) is not None
  }


# The released evaluation: short side 448 of a model for 224 pixels.
SEGMENTATION_SCALE = 2


def load_source(path: str | os.PathLike) -> Converted:
  """Reads a model from wherever it is.

  Args:
    path: a model folder, the workdir of a training run (its newest checkpoint),
      a Hugging Face folder of GroupViT or CLIP, or a file of weights (.pth,
      .pt, .bin, .safetensors) of the original GroupViT, of either of those, or
      of OpenAI's CLIP (its archives, open_clip's checkpoints). A file's
      config.json or open_clip_config.json is looked for beside it.

  Returns:
    The model, with what inference needs.

  Raises:
    ModelError: there is none, or it cannot be read as one; says why.
  """
  path = files.expanded(path).absolute()
  if not path.exists():
    raise ModelError(
      f'there is no {path}; give a folder or file on this machine (models are '
      'not downloaded)'
    )
  if path.name == model_folder.WEIGHTS and model_folder.is_model_folder(
    path.parent
  ):
    return model_folder.read(path.parent)
  if path.is_dir():
    if is_workdir(path):
      return read(path)
    if model_folder.is_model_folder(path):
      return model_folder.read(path)
  return from_state(torch_files.read_state_dict(path))


def from_state(state: StateDict) -> Converted:
  """The model of a foreign state dict; ModelError as `load_source`."""
  source = identify(state)
  flat = source.keymap.to_flax(state.arrays)
  hints = source.hints(state)
  described = architecture.read(flat, source.keymap, hints)
  architecture.check(described, flat)
  architecture.check_arrays(described, flat, source.keymap)
  tokenizer = _tokenizer(state.path, described['text']['vocab_size'])
  # What we once wrote there ourselves.
  ours = fields.get(state.config, OURS, fields.MAPPING, 'config.json', {})
  where = f'config.json, {OURS}'
  return Converted(
    architecture=described,
    variables=tensors.nest(flat),
    tokenizer=tokenizer,
    preprocessing={
      **source.normalization(state),
      'short_side': fields.get(ours, 'short_side', fields.COUNT, where)
      or _short_side(described),
    },
    metadata={
      **_metadata(source, state),
      'license': fields.get(ours, 'license', fields.TEXT, where)
      or source.license,
      'notes': architecture.assumptions(described, hints),
    },
  )


def _short_side(described: Mapping[str, Any]) -> int:
  """Twice what GroupViT was trained at, as released; CLIP's own size."""
  size = described['image']['image_size']
  side = size if isinstance(size, int) else min(size)
  grouping = described['image_encoder'] == 'groupvit'
  return side * SEGMENTATION_SCALE if grouping else side


def _tokenizer(path: pathlib.Path, vocab_size: int) -> str | None:
  """CLIP's by the size of its vocabulary, or the folder's own."""
  if own := model_folder.own_tokenizer(path):
    model_folder.check_vocabulary(own, vocab_size)
    return own
  return 'clip' if vocab_size == clip.VOCAB_SIZE else None


def _metadata(source: Source, state: StateDict) -> dict[str, Any]:
  """Where the model comes from, and what its checkpoint told of training."""
  told = state.extras.get('metrics')
  told = told if isinstance(told, Mapping) else {}
  told = {k: v for k, v in told.items() if isinstance(v, int | float)}
  top = {
    k: v
    for k, v in state.extras.items()
    if isinstance(v, float) and k.startswith('max_')
  }
  metadata = {
    'source': source.name,
    'file': state.path.name,
    'metrics': {k: float(v) for k, v in (top | told).items()},
  }
  if isinstance(state.extras.get('epoch'), int):
    metadata['epoch'] = state.extras['epoch']
  return metadata
