"""PyTorch's own files: read without unpickling anything but tensors.

A pickle can run any program. torch.load(weights_only=True) builds tensors and
plain containers only. The original's training checkpoints hold their OmegaConf
config as well: its classes are replaced by stand-ins that only keep values.
"""

import pathlib
import re
import shlex
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

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
