"""Names in CLIP: OpenAI's (a ViT's state dict) and Hugging Face's `CLIPModel`.

The text encoder and the temperature are those of GroupViT; the projections are
single matrices.
"""

from dataclasses import replace

from groupvit_jax.convert.keymaps import (
  CONV2D,
  KeyMap,
  Row,
  linear,
  norm,
  under,
)
from groupvit_jax.convert.keymaps_shared import (
  HF_BLOCK,
  HF_TEXT,
  OPENAI_BLOCK,
  OPENAI_TEXT,
)

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
OPENAI_CLIP = KeyMap(
  "OpenAI's CLIP (a ViT)",
  'visual.class_embedding',
  (
    *under('visual', 'image', _OPENAI_VISUAL),
    *(replace(row, ours=f'text/{row.ours}') for row in OPENAI_TEXT),
    # Stored as (in, out).
    Row('visual.proj', 'image_projector/fc2/kernel'),
    Row('text_projection', 'text_projector/fc2/kernel'),
    Row('logit_scale', 'logit_scale'),
  ),
  # Sizes, which OpenAI's archives hold as if they were weights.
  ignored=('input_resolution', 'context_length', 'vocab_size'),
)
