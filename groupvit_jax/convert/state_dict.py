"""Foreign weights as they are: arrays by name, and the config beside them.

Knows files, not models. Nothing that is read here can run foreign code.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax import fields
from groupvit_jax.convert import pickled
from groupvit_jax.errors import ModelError
from groupvit_jax.model_folder import tensors

# What Hugging Face names weights, the safe form first.
_WHOLE = ('model.safetensors', 'pytorch_model.bin')
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')


@dataclasses.dataclass(frozen=True)
class StateDict:
  """Weights by their PyTorch names.

  Attributes:
    arrays: by name; floating ones are float32.
    config: Hugging Face's config.json; {} where there is none.
    preprocessor: preprocessor_config.json; {} where there is none.
    extras: what else a training checkpoint held, as plain values.
    path: what was read.
  """

  arrays: dict[str, np.ndarray]
  config: dict[str, Any]
  preprocessor: dict[str, Any]
  extras: dict[str, Any]
  path: pathlib.Path


def read(path: str | os.PathLike) -> StateDict:
  """Reads a file of weights, or a Hugging Face folder.

  Args:
    path: .safetensors, .pth, .pt or .bin (the last three need torch), or a
      folder with model.safetensors or pytorch_model.bin, whole or in shards.

  Returns:
    The weights; a wrapping `model` or `state_dict` and the prefix `module.` of
    parallel training are taken off.

  Raises:
    ModelError: it cannot be read, needs torch, or needs unpickling of what is
      not a tensor.
  """
  path = pathlib.Path(path)
  folder = path if path.is_dir() else path.parent
  files = _files(path) if path.is_dir() else [path]
  arrays, extras = {}, {}
  for file in files:
    more, others = _read_file(file)
    if twice := arrays.keys() & more.keys():
      raise ModelError(f'{file} holds {min(twice)} a second time')
    arrays |= more
    extras |= others
  return StateDict(
    arrays=as_floats(_unwrapped(arrays)),
    config=_json(folder / 'config.json'),
    preprocessor=_json(folder / 'preprocessor_config.json'),
    extras=extras,
    path=path,
  )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of weights in a folder: one, or the shards of an index."""
  for name in _WHOLE:
    if (folder / name).is_file():
      return [folder / name]
    index = folder / f'{name}.index.json'
    if index.is_file():
      places = fields.need(
        _json(index), 'weight_map', fields.TEXTS_BY_NAME, str(index)
      )
      # Names only: an index must not point out of its folder.
      found = [
        folder / pathlib.PurePath(shard).name
        for shard in sorted(set(places.values()))
      ]
      if missing := [path.name for path in found if not path.is_file()]:
        raise ModelError(f'{folder} lacks {", ".join(missing)} of {index.name}')
      if not found:
        raise ModelError(f'{index} names no files')
      return found
  raise ModelError(
    f'{folder} holds no model: neither {" nor ".join(_WHOLE)} (nor an index of '
    'one) beside config.json, nor the checkpoints of a training run'
  )


def _read_file(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  if path.suffix not in _SUFFIXES:
    raise ModelError(
      f'{path} is no file of weights; they end in {", ".join(_SUFFIXES)}'
    )
  if path.suffix == '.safetensors':
    return tensors.read(path)[0], {}
  return pickled.read(path)


def _unwrapped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  prefix = 'module.'
  if all(name.startswith(prefix) for name in arrays):
    return {name.removeprefix(prefix): x for name, x in arrays.items()}
  return arrays


def as_floats(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """float32, also of half and bfloat16; integers and complex numbers stay."""
  return {
    name: x if x.dtype.kind in 'iubc' else x.astype(np.float32, copy=False)
    for name, x in arrays.items()
  }


def _json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    return {}
  try:
    content = json.loads(path.read_text())
  except ValueError as error:
    raise ModelError(f'{path} is not readable as JSON ({error})') from error
  if not isinstance(content, dict):
    raise ModelError(f'{path} holds a {type(content).__name__}, not an object')
  return content
