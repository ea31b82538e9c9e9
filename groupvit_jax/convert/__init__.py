"""Converts weights of other projects, and ours to Hugging Face's form.

    from groupvit_jax import convert

    print(convert.convert('group_vit_gcc_yfcc_30e.pth', 'groupvit'))
    model = convert.load_source('groupvit')  # or any source, at once

A table of names per source (`keymaps.py`) maps every array or raises; sizes are
read from the weights; pickles are read without unpickling objects.
"""

import os

from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert.export import (
  left_out,
  save_huggingface,
  save_open_clip,
)
from groupvit_jax.convert.folder import Converted, describe
from groupvit_jax.convert.load import find, load_source
from groupvit_jax.errors import ModelError

FORMATS = ('groupvit_jax', 'huggingface', 'open_clip')

__all__ = [
  'FORMATS',
  'Converted',
  'convert',
  'describe',
  'find',
  'load_source',
  'save_huggingface',
  'save_open_clip',
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
    to: 'groupvit_jax' (a model folder), 'huggingface' or, of CLIPs,
      'open_clip'.
    overwrite: replace a model folder at `out`.

  Returns:
    A description of the model and where it was written, in lines.

  Raises:
    ModelError: the source cannot be read, or the folder cannot be written.
  """
  if to not in FORMATS:
    raise ModelError(
      f'unknown format {to!r}; choose one of {", ".join(FORMATS)}'
    )
  converted = load_source(source)
  write = {'huggingface': save_huggingface, 'open_clip': save_open_clip}
  folder = write.get(to, _write)(converted, out, overwrite=overwrite)
  lines = [describe(converted), f'{"written to:":<15}{folder}']
  if to != 'groupvit_jax' and (lost := left_out(converted)):
    lines.append(f'{"left out:":<15}{"; ".join(lost)}')
  return '\n'.join(lines)


def _write(converted, out, *, overwrite):
  return model_folder.write(out, converted, overwrite=overwrite)
