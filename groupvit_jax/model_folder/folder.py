"""The model folder: weights, config, tokenizer and card, and nothing else.

It is whole or not there: written under a scratch name, then renamed. What it
holds is plain (JSON, safetensors), so reading it can run no foreign code.
"""

import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable
from typing import Any

import safetensors

from groupvit_jax import files
from groupvit_jax.errors import ModelError
from groupvit_jax.model_folder import card, config_json, tensors
from groupvit_jax.model_folder.config_json import CONFIG, WEIGHTS
from groupvit_jax.model_folder.converted import Converted

CARD, TOKENIZER = 'README.md', 'tokenizer.model'
# All that our folders, and those we write for Hugging Face, consist of.
_FILES = {
  WEIGHTS,
  CONFIG,
  CARD,
  TOKENIZER,
  'merges.txt',
  'preprocessor_config.json',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
}
# In the header of the weights: tells them from Hugging Face's of that name.
MARK = {'format': 'groupvit_jax'}


def write(
  folder: str | os.PathLike, converted: Converted, *, overwrite: bool = False
) -> pathlib.Path:
  """Writes a model folder.

  Args:
    folder: where; its parents are created.
    converted: the model.
    overwrite: replace a model folder that is there.

  Returns:
    The absolute path of the folder.

  Raises:
    ModelError: the folder exists, or cannot be written.
  """

  def fill(scratch: pathlib.Path) -> None:
    arrays = tensors.flatten(converted.variables)
    tensors.write(scratch / WEIGHTS, arrays, MARK)
    tokenizer = converted.tokenizer
    if tokenizer not in ('clip', None):
      shutil.copyfile(tokenizer, scratch / TOKENIZER)
      tokenizer = TOKENIZER
    (scratch / CARD).write_text(card.model_card(converted))
    config = {
      'format': config_json.FORMAT,
      'architecture': converted.architecture,
      'preprocessing': converted.preprocessing,
      'tokenizer': tokenizer,
      'metadata': converted.metadata,
    }
    config['sha256'] = _digest(config, arrays)
    text = json.dumps(config, indent=2) + '\n'
    (scratch / CONFIG).write_text(text)

  return write_folder(folder, fill, overwrite=overwrite)


def is_model_folder(folder: str | os.PathLike) -> bool:
  """Whether a folder is one of ours, be it half-written."""
  folder = pathlib.Path(folder)
  try:
    if 'format' in json.loads((folder / CONFIG).read_text()):
      return True
  except (OSError, ValueError, TypeError):
    pass
  try:
    with safetensors.safe_open(folder / WEIGHTS, 'numpy') as file:
      return (file.metadata() or {}).get('format') == MARK['format']
  except (OSError, safetensors.SafetensorError):
    return False


def read(folder: str | os.PathLike) -> Converted:
  """Reads a model folder.

  Raises:
    ModelError: it is missing, half-written, damaged, or of a later version.
  """
  folder = files.expanded(folder).absolute()
  config = config_json.read(folder)
  arrays, _ = tensors.read(folder / WEIGHTS)
  if _digest(config, arrays) != config['sha256']:
    raise ModelError(
      f'{folder} is not what was written: the checksum of {WEIGHTS} and of the '
      f'architecture in {CONFIG} differs from the stored one; copy or convert '
      'the model again'
    )
  tokenizer = config['tokenizer']
  if tokenizer not in ('clip', None):
    if not (folder / TOKENIZER).is_file():
      raise ModelError(f'{folder} lacks {TOKENIZER}; copy the model again')
    tokenizer = str(folder / TOKENIZER)
  return Converted(
    architecture=config['architecture'],
    variables=tensors.nest(arrays),
    tokenizer=tokenizer,
    preprocessing=config['preprocessing'],
    metadata=config['metadata'],
  )


def _digest(config: dict[str, Any], arrays: dict[str, Any]) -> str:
  """Of all that decides what the model computes: its card may be edited."""
  decides = {k: config[k] for k in ('architecture', 'preprocessing')}
  text = json.dumps(decides, sort_keys=True)
  return hashlib.sha256(f'{text}{tensors.digest(arrays)}'.encode()).hexdigest()


def write_folder(
  folder: str | os.PathLike,
  fill: Callable[[pathlib.Path], None],
  *,
  overwrite: bool,
) -> pathlib.Path:
  """Makes a folder that appears only when `fill` has written all of it.

  Args:
    folder: where; an empty folder counts as none.
    fill: writes into the scratch folder that it is given.
    overwrite: replace a folder of a model that is there.

  Returns:
    The absolute path of the folder.
  """
  folder = files.expanded(folder).resolve()  # not a link to it
  occupied = folder.exists() and not (
    folder.is_dir() and not any(folder.iterdir())
  )
  if occupied and not overwrite:
    raise ModelError(
      f'{folder} exists; choose another place, or replace it with --overwrite'
    )
  if occupied and not _is_replaceable(folder):
    raise ModelError(
      f'{folder} holds other things than a model, and is left as it is; choose '
      'another place'
    )
  scratch = folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}')
  try:
    scratch.mkdir(parents=True)
    fill(scratch)
    for path in scratch.iterdir():
      # Else a power cut could keep the new name without its content.
      with path.open('rb') as file:
        os.fsync(file.fileno())
    _swap(scratch, folder)
  except (OSError, safetensors.SafetensorError) as error:
    raise ModelError(f'cannot write {folder}: {error}') from error
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
  return folder


def _is_replaceable(folder: pathlib.Path) -> bool:
  """Only what a model folder, ours or Hugging Face's, consists of."""
  if not folder.is_dir():
    return False
  if not all(e.is_file() and e.name in _FILES for e in folder.iterdir()):
    return False
  return is_model_folder(folder) or _is_huggingface(folder)


def _is_huggingface(folder: pathlib.Path) -> bool:
  try:
    return 'model_type' in json.loads((folder / CONFIG).read_text())
  except (OSError, ValueError, TypeError):
    return False


def _swap(scratch: pathlib.Path, folder: pathlib.Path) -> None:
  """Puts `scratch` in the place of `folder`; what was there is removed."""
  old = None
  if folder.exists():
    old = folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}.old')
    folder.rename(old)
  scratch.rename(folder)
  if old:
    shutil.rmtree(old, ignore_errors=True)
