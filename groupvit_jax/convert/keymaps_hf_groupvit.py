"""Names in Hugging Face's `GroupViTModel` (transformers 4.20 to 5.23)."""

from groupvit_jax.convert.keymaps import (
  CONV2D,
  KeyMap,
  Row,
  batch_norm,
  linear,
  norm,
  under,
)
from groupvit_jax.convert.keymaps_grouping import stage
from groupvit_jax.convert.keymaps_shared import HF_BLOCK, HF_TEXT

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
