"""PyTorch's own files: read without unpickling anything but tensors.

A pickle can run any program. torch.load(weights_only=True) builds tensors and
plain containers only. The original's training checkpoints hold their OmegaConf
config as well: its classes are replaced by stand-ins that only keep values.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax.convert import folder as folder_lib
from groupvit_jax.convert import tensors
from groupvit_jax.errors import ModelError

# Where a checkpoint keeps its weights; the first is the original's.
_WRAPPERS = ('model', 'state_dict', 'model_state_dict')
# What OmegaConf's containers are pickled as (omegaconf 2.0 to 2.3), and the
# types that they mention. The pickle's `builtins` are called `__builtin__`.
_CONFIG_CLASSES = (
  'omegaconf.dictconfig.DictConfig',
  'omegaconf.listconfig.ListConfig',
  'omegaconf.base.ContainerMetadata',
  'omegaconf.base.Metadata',
  'omegaconf.nodes.AnyNode',
  'omegaconf.nodes.BooleanNode',
  'omegaconf.nodes.FloatNode',
  'omegaconf.nodes.IntegerNode',
  'omegaconf.nodes.StringNode',
  'typing.Any',
  *(
    f'{module}.{name}'
    for module in ('__builtin__', 'builtins')
    for name in ('dict', 'list', 'int', 'float', 'str', 'bool')
  ),
)


def read(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads a state dict, or a training checkpoint around one.

  Args:
    path: a file that torch.save wrote.

  Returns:
    The arrays by name, and what else a checkpoint held that is plain: numbers,
    strings, lists and dicts of them (`config`, `epoch`, `metrics`).

  Raises:
    ModelError: torch is missing, or the file is no such file, is damaged, or
      needs unpickling of other objects.
  """
  try:
    import torch
  except ImportError as error:
    raise ModelError(
      f"{path.name} is PyTorch's own format and needs torch to be read: pip "
      "install 'groupvit_jax[torch]' (.safetensors needs none)"
    ) from error
  _refuse_torchscript(path)
  content = _load(torch, path)
  if not isinstance(content, Mapping):
    raise ModelError(
      f'{path} holds a {type(content).__name__}, not a state dict; save '
      'model.state_dict() instead'
    )
  extras = {}
  for key in _WRAPPERS:
    if isinstance(content.get(key), Mapping):
      extras = {k: _plain(v) for k, v in content.items() if _is_told(k, v)}
      content = content[key]
      break
  others = [k for k, v in content.items() if not isinstance(v, torch.Tensor)]
  if others or not content:
    raise ModelError(
      f'{path} holds no state dict: '
      f'{f"{others[0]!r} is no tensor" if others else "it is empty"}; known '
      f'wrappers are {", ".join(_WRAPPERS)}'
    )
  arrays = {k: _numpy(torch, k, v) for k, v in content.items()}
  return arrays, _without_none(extras)


def _load(torch, path: pathlib.Path) -> Any:
  allowed = [(_stand_in(name), name) for name in _CONFIG_CLASSES]
  # The real one would need a factory; its items follow as for any dict.
  allowed.append((_empty_dict, 'collections.defaultdict'))
  try:
    with torch.serialization.safe_globals(allowed):
      # Mapped, the optimizer's state of a checkpoint is never read.
      mapped = zipfile.is_zipfile(path)
      return torch.load(
        path, map_location='cpu', weights_only=True, mmap=mapped
      )
  except OSError as error:
    raise ModelError(f'{path} cannot be read: {error.strerror}') from error
  except Exception as error:  # of many kinds: torch's, pickle's, zipfile's
    unsafe = re.search(r'GLOBAL (\S+)', str(error))
    if not unsafe:
      raise ModelError(
        f'{path} is truncated, or no file that torch.save wrote'
      ) from error
    raise ModelError(
      f'{path} holds objects other than tensors ({unsafe[1]}): unpickling them '
      'could run any program, so it is refused. If you trust the file, save '
      'its weights alone where it was made: torch.save(torch.load(FILE, '
      "weights_only=False)['model'], 'weights.pth')"
    ) from error


def _refuse_torchscript(path: pathlib.Path) -> None:
  """OpenAI's downloads are programs, which torch.jit.load makes run.

  It unpickles no Python object, but TorchScript may read and write files.
  """
  if not zipfile.is_zipfile(path):
    return
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
  if any(name.endswith('/constants.pkl') for name in names):
    out = path.with_name(f'{path.stem}_weights.pth')
    code = (
      'import sys, torch; torch.save(dict(torch.jit.load(sys.argv[1], '
      "map_location='cpu').state_dict()), sys.argv[2])"
    )
    raise ModelError(
      f"{path} is a TorchScript program, as OpenAI's CLIP is published, and to "
      'load it would run it. If you trust it, this takes its weights out: '
      + shlex.join(['python', '-c', code, str(path), str(out)])
    )


def _numpy(torch, name: str, tensor) -> np.ndarray:
  if tensor.layout != torch.strided or tensor.is_quantized:
    kind = 'quantised' if tensor.is_quantized else 'sparse'
    raise ModelError(f'{name} is {kind}; save the weights dense and in float32')
  if tensor.is_floating_point():
    tensor = tensor.float()  # numpy has no bfloat16
  # A copy: the file may be mapped, and be replaced while we still compute.
  return np.array(tensor.detach().numpy())


class _StandIn:
  """Takes what the class that it stands for was given, and does nothing."""

  def __new__(cls, *unused_args, **unused_kwargs):
    return super().__new__(cls)

  def __init__(self, *args, **unused_kwargs):
    self.values = {'_val': args[0]} if args else {}

  def __setstate__(self, state):
    self.values = state if isinstance(state, dict) else {}


def _stand_in(name: str) -> type[_StandIn]:
  return type(name.rsplit('.', 1)[1], (_StandIn,), {})


def _empty_dict(*unused_args) -> dict:
  return {}


def _plain(value: Any, depth: int = 0) -> Any:
  """Numbers, strings, and lists and dicts of them; None for all else."""
  if depth > 20:  # a config's nodes also point to their parents
    return None
  if isinstance(value, _StandIn):
    inner = value.__dict__.get('values', {})
    return _plain(inner.get('_content', inner.get('_val')), depth + 1)
  if isinstance(value, Mapping):
    items = {str(k): _plain(v, depth + 1) for k, v in value.items()}
    return _without_none(items)
  if isinstance(value, list | tuple):
    return [_plain(v, depth + 1) for v in value]
  if getattr(value, 'ndim', None) == 0 and hasattr(value, 'item'):
    return value.item()
  return value if isinstance(value, bool | int | float | str) else None


def _is_told(key: str, value: Any) -> bool:
  """Whether to keep what stands beside the weights; not the optimizer's."""
  return key in ('config', 'metrics') or isinstance(value, int | float | str)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in values.items() if v is not None}


# Foreign weights as they are: arrays by name, and the config beside them.
#
# Knows files, not models. Nothing that is read here can run foreign code.

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


def read_state_dict(path: str | os.PathLike) -> StateDict:
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
      places = folder_lib.need(
        _json(index), 'weight_map', folder_lib.TEXTS_BY_NAME, str(index)
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
  return read(path)


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
