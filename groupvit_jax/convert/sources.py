"""Every foreign source of weights: whose they are, and what they imply.

Heads, activations and the like do not show in the weights. Each source says
them its own way, and what we do not compute is refused by name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from groupvit_jax import fields
from groupvit_jax.convert import keymaps_clip
from groupvit_jax.convert.architecture import Hints
from groupvit_jax.convert.keymaps import KeyMap
from groupvit_jax.convert.keymaps_hf_groupvit import HF_GROUPVIT
from groupvit_jax.convert.keymaps_nvlabs import NVLABS
from groupvit_jax.convert.state_dict import StateDict
from groupvit_jax.errors import ModelError

IMAGENET = {'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
CLIP = {
  'mean': [0.48145466, 0.4578275, 0.40821073],
  'std': [0.26862954, 0.26130258, 0.27577711],
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
    name: as told to the user.
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
  """The source that a state dict's names tell.

  Raises:
    ModelError: it is none of `SOURCES`.
  """
  for source in SOURCES:
    if source.keymap.marker in state.arrays:
      return source
  if 'visual.layer1.0.conv1.weight' in state.arrays:
    raise ModelError(
      f'{state.path} is a CLIP with a ResNet; only its ViTs can be converted'
    )
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
  _require('vision', vision, hidden_act='quick_gelu')
  _require_text(text)
  return _hf_hints(vision, text)


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


def _require_text(config: Mapping[str, Any]) -> None:
  """Refuses a text encoder that is not read at its highest id."""
  _require('text', config, hidden_act='quick_gelu')
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
  Source(
    "OpenAI's CLIP",
    keymaps_clip.OPENAI_CLIP,
    lambda state: Hints(),
    lambda state: CLIP,
    _OPENAI,
  ),
  Source(
    "Hugging Face's CLIP",
    keymaps_clip.HF_CLIP,
    _hf_clip_hints,
    lambda state: _of_file(state, CLIP),
    _OPENAI,
  ),
)
