"""`scenes`: an embedded data set of drawn images, captions and masks.

Pure numpy and Pillow, from a seed; it needs no file, network or TensorFlow.
"""

from groupvit_jax.scenes.generator import Scene, generate, split_seed
from groupvit_jax.scenes.layout import (
  CLASS_NAMES,
  GROUNDS,
  THINGS,
  vocabulary,
)
from groupvit_jax.scenes.parallel import Arrays, generate_chunks, generate_many

__all__ = [
  'CLASS_NAMES',
  'GROUNDS',
  'THINGS',
  'Arrays',
  'Scene',
  'generate',
  'generate_chunks',
  'generate_many',
  'split_seed',
  'vocabulary',
]
