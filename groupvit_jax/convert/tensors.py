"""Named arrays: safetensors files of them, nested dicts, and a checksum.

Reading a safetensors file runs no foreign code, and needs no torch.
"""

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from groupvit_jax import files
from groupvit_jax.errors import ModelError

_DTYPES = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': jnp.bfloat16,
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}


def write(
  path: str | os.PathLike,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes a safetensors file."""
  whole = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
  # ascontiguousarray makes scalars vectors.
  whole = {name: x.reshape(np.shape(arrays[name])) for name, x in whole.items()}
  # Its own save_file makes files that nobody but their owner may read.
  content = safetensors.numpy.save(whole, dict(metadata))
  files.write_atomically(path, content)


def read(
  path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads a safetensors file: arrays by name as they are, and its metadata.

  Raises:
    ModelError: it is missing, truncated, or no such file.
  """
  try:
    with safetensors.safe_open(path, 'numpy') as file:  # checks all of it
      metadata = file.metadata() or {}
    with open(path, 'rb') as file:
      (length,) = struct.unpack('<Q', file.read(8))
      header = json.loads(file.read(length), object_pairs_hook=_once)
      data = np.fromfile(file, np.uint8)
  except (OSError, safetensors.SafetensorError) as error:
    raise ModelError(
      f'{path} cannot be read ({error}); it is truncated or no safetensors file'
    ) from error
  header.pop('__metadata__', None)
  arrays = {}
  for name, entry in header.items():
    if entry['dtype'] not in _DTYPES:
      raise ModelError(
        f'{path}: {name} is stored as {entry["dtype"]}; save the weights as '
        'float32, float16 or bfloat16'
      )
    begin, end = entry['data_offsets']
    array = data[begin:end].view(_DTYPES[entry['dtype']])
    arrays[name] = array.reshape(entry['shape'])
  return arrays, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  names = [name for name, _ in pairs]
  if doubled := sorted({name for name in names if names.count(name) > 1}):
    raise ModelError(f'stored twice: {", ".join(doubled)}')
  return dict(pairs)


def flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Arrays by path ('params/image/norm/scale') of nested dicts."""
  flat = traverse_util.flatten_dict(tree, sep='/')
  return {path: np.asarray(x) for path, x in flat.items()}


def nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Nested dicts of arrays by path, with 'params' and 'batch_stats'."""
  tree = traverse_util.unflatten_dict(flat, sep='/')
  return {'params': {}, 'batch_stats': {}} | tree
