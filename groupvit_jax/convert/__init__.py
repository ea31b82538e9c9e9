"""Converts weights of other projects, and ours to Hugging Face's form.

    from groupvit_jax import convert

    print(convert.convert('group_vit_gcc_yfcc_30e.pth', 'groupvit'))
    model = convert.load_source('groupvit')  # or any source, at once

A table of names per source (`keymaps.py`) maps every array or raises; sizes are
read from the weights; pickles are read without unpickling objects.
"""

import os

from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert.export import left_out, save_huggingface
from groupvit_jax.convert.folder import Converted, describe
from groupvit_jax.convert.load import load_source
from groupvit_jax.errors import ModelError

FORMATS = ('groupvit_jax', 'huggingface')

__all__ = [
  'FORMATS',
  'Converted',
  'convert',
  'describe',
  'load_source',
  'save_huggingface',
]


def convert(
  source: str | os.PathLike,
  out: str | os.PathLike,
  to: str = 'groupvit_jax',
  overwrite: bool = False,
) -> str:
  """Converts a model from any source that `load_source` reads.

  Args:
    source: where the model is.
    out: the folder to write; its parents are created.
    to: 'groupvit_jax' (a model folder) or 'huggingface'.
    overwrite: replace a model folder at `out`.

  Returns:
    A description of the model and where it was written, in lines.

  Raises:
    ModelError: the source cannot be read, or the folder cannot be written.
  """
  if to not in FORMATS:
    raise ModelError(f'unknown format {to!r}; choose {" or ".join(FORMATS)}')
  converted = load_source(source)
  write = save_huggingface if to == 'huggingface' else _write
  folder = write(converted, out, overwrite=overwrite)
  lines = [describe(converted), f'{"written to:":<15}{folder}']
  if to == 'huggingface' and (lost := left_out(converted)):
    lines.append(f'{"left out:":<15}{"; ".join(lost)}')
  return '\n'.join(lines)


def _write(converted, out, *, overwrite):
  return model_folder.write(out, converted, overwrite=overwrite)
