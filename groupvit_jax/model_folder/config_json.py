"""The config.json of a model folder: what it holds, and reading it."""

import json
import pathlib
from typing import Any

from groupvit_jax import fields
from groupvit_jax.errors import ModelError

FORMAT = 1
CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
# What the parts of our config.json hold; the digest covers the architecture.
_KINDS = {
  'architecture': {},
  'preprocessing': {
    'mean': fields.COLOUR,
    'std': fields.COLOUR,
    'short_side': fields.COUNT,
    'top_k': fields.COUNT,
  },
  'metadata': {
    'source': fields.TEXT,
    'file': fields.TEXT,
    'license': fields.TEXT,
    'metrics': fields.NUMBERS_BY_NAME,
    'notes': fields.TEXTS,
    'step': fields.NUMBER,
    'epoch': fields.NUMBER,
  },
}
_NEEDED = {'mean', 'std', 'short_side', 'source', 'file', 'license'}


def read(folder: pathlib.Path) -> dict[str, Any]:
  """The config of a model folder.

  Raises:
    ModelError: the folder is missing or half-written, of a later version, or
      what its config holds is not of its kind.
  """
  path = folder / CONFIG
  if not folder.is_dir():
    raise ModelError(f'there is no model folder {folder}')
  half = f'{folder} is a half-written model folder'
  again = 'convert or copy the model again (--overwrite replaces the folder)'
  for name in (CONFIG, WEIGHTS):
    if not (folder / name).is_file():
      raise ModelError(f'{half}, it lacks {name}; {again}')
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise ModelError(
      f'{half}, {CONFIG} breaks off ({error}); {again}'
    ) from error
  if not isinstance(config, dict) or config.get('format') != FORMAT:
    found = config.get('format') if isinstance(config, dict) else None
    raise ModelError(
      f'{path} has format {found!r}, this version reads {FORMAT}; update '
      'groupvit_jax, or convert the model with this version'
    )
  known = ('architecture', 'preprocessing', 'tokenizer', 'metadata', 'sha256')
  if missing := [name for name in known if name not in config]:
    raise ModelError(f'{path} lacks {", ".join(missing)}; {again}')
  _check_fields(config, str(path))
  return config


def _check_fields(config: dict[str, Any], where: str) -> None:
  """ModelError for what is not of its kind: the file may have been edited."""
  fields.get(config, 'tokenizer', fields.TEXT, where)
  for part, kinds in _KINDS.items():
    values = fields.need(config, part, fields.MAPPING, where)
    for name, kind in kinds.items():
      fields.get(values, name, kind, f'{where}, {part}')
    for name in kinds.keys() & _NEEDED:
      fields.need(values, name, kinds[name], f'{where}, {part}')
