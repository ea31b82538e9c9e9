"""A model with all that inference needs, and the folder that holds it.

`read(folder)` and `write(folder, converted)` are all that others use.
"""

from groupvit_jax.model_folder.card import describe
from groupvit_jax.model_folder.converted import Converted
from groupvit_jax.model_folder.folder import (
  WEIGHTS,
  is_model_folder,
  read,
  write,
  write_folder,
)

__all__ = [
  'WEIGHTS',
  'Converted',
  'describe',
  'is_model_folder',
  'read',
  'write',
  'write_folder',
]
