"""Foreign weights as they are: arrays by name, and the config beside them.

Knows files, not models. Nothing that is read here can run foreign code: the
original's training checkpoints hold their OmegaConf config as well, and only
its values are kept.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from groupvit_jax.convert import fields, pickled, tensors
from groupvit_jax.errors import ModelError

# Where a checkpoint keeps its weights; the first is the original's.
_WRAPPERS = ('model', 'state_dict', 'model_state_dict')
# Values of a config that are read at most. Shared lists of shared lists would
# have no end.
_MOST_VALUES = 100_000


def read(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads a state dict, or a training checkpoint around one.

  Args:
    path: a file that torch.save or torch.jit.save wrote.

  Returns:
    The arrays by name, and what else a checkpoint held that is plain: numbers,
    strings, lists and dicts of them (`config`, `epoch`, `metrics`).

  Raises:
    ModelError: the file is no such file, is damaged, or holds other objects.
  """
  try:
    with path.open('rb') as file:
      return _split(pickled.load(file), path)
  except ModelError:
    raise
  except pickled.Foreign as error:
    raise ModelError(
      f'{path} holds objects other than tensors ({error!s:.80}): unpickling '
      'them could run any program, so it is refused. If you trust the file, '
      'save its weights alone where it was made: torch.save(torch.load(FILE, '
      "weights_only=False)['model'], 'weights.pth')"
    ) from error
  except OSError as error:
    raise ModelError(f'{path} cannot be read: {error.strerror}') from error
  except Exception as error:  # of many kinds: pickletools', zipfile's, ours
    raise ModelError(
      f'{path} is truncated, damaged, or no file that torch.save wrote '
      f'({error!s:.200})'
    ) from error


def _split(
  content: Any, path: pathlib.Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The weights, and what stands beside them."""
  if isinstance(content, pickled.Plain):
    content = _of_module(content)
  if not isinstance(content, Mapping):
    raise ModelError(
      f'{path} holds a {type(content).__name__}, not a state dict; save '
      'model.state_dict() instead'
    )
  extras = {}
  for key in _WRAPPERS:
    if isinstance(content.get(key), Mapping):
      beside = {k: v for k, v in content.items() if _is_told(k, v)}
      extras = _Plain().of(beside)
      content = content[key]
      break
  for name, value in content.items():
    if isinstance(value, pickled.OtherTensor):
      raise ModelError(
        f'{name} is {value.kind}; save the weights dense and in float32'
      )
  tensors_by_name = {
    k: v for k, v in content.items() if isinstance(v, pickled.Tensor)
  }
  if not content or len(tensors_by_name) < len(content):
    other = next((k for k in content if k not in tensors_by_name), None)
    raise ModelError(
      f'{path} holds no state dict: '
      f'{f"{other!r:.80} is no tensor" if content else "it is empty"}; known '
      f'wrappers are {", ".join(_WRAPPERS)}'
    )
  pickled.check_sizes(tensors_by_name)
  return {str(k): v.array() for k, v in tensors_by_name.items()}, extras


def _of_module(module: pickled.Plain) -> dict[str, pickled.Tensor]:
  """State dict of a TorchScript module, as OpenAI publishes CLIP.

  The archive also holds the module's program, which is never read.
  """
  found: dict[str, pickled.Tensor] = {}
  pending: list[tuple[str, Any]] = [('', module)]
  for _ in range(_MOST_VALUES):
    if not pending:
      return found
    prefix, value = pending.pop()
    if isinstance(value, pickled.Tensor):
      found[prefix.removesuffix('.')] = value
    elif isinstance(value, pickled.Plain) and isinstance(value.values, Mapping):
      pending += [(f'{prefix}{k}.', v) for k, v in value.values.items()]
  raise pickled.Damaged(f'its module has over {_MOST_VALUES} attributes')


class _Plain:
  """Numbers, strings, and lists and dicts of them; None for all else."""

  def __init__(self):
    self._left = _MOST_VALUES

  def of(self, value: Any, depth: int = 0) -> Any:
    self._left -= 1
    if self._left < 0:
      raise pickled.Damaged(f'its config has over {_MOST_VALUES} values')
    if depth > 20:  # a config's nodes also point to their parents
      return None
    if isinstance(value, pickled.Plain):
      inner = value.values if isinstance(value.values, Mapping) else {}
      return self.of(inner.get('_content', inner.get('_val')), depth + 1)
    if isinstance(value, Mapping):
      items = {str(k): self.of(v, depth + 1) for k, v in value.items()}
      return {k: v for k, v in items.items() if v is not None}
    if isinstance(value, list | tuple):
      return [self.of(v, depth + 1) for v in value]
    if isinstance(value, pickled.Tensor) and not value.ndim:
      return value.array().item()
    return value if isinstance(value, bool | int | float | str) else None


def _is_told(key: str, value: Any) -> bool:
  """Whether to keep what stands beside the weights; not the optimizer's."""
  return key in ('config', 'metrics') or isinstance(value, int | float | str)


# What Hugging Face names weights, the safe form first.
_WHOLE = (
  'model.safetensors',
  'pytorch_model.bin',
  'open_clip_model.safetensors',
  'open_clip_pytorch_model.bin',
)
OPEN_CLIP_CONFIG = 'open_clip_config.json'
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
    open_clip: open_clip's own config; {} where there is none.
  """

  arrays: dict[str, np.ndarray]
  config: dict[str, Any]
  preprocessor: dict[str, Any]
  extras: dict[str, Any]
  path: pathlib.Path
  open_clip: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_state_dict(path: str | os.PathLike) -> StateDict:
  """Reads a file of weights, or a Hugging Face folder.

  Args:
    path: .safetensors, .pth, .pt or .bin, or a folder with model.safetensors
      or pytorch_model.bin, whole or in shards, or open_clip's file of either.

  Returns:
    The weights; a wrapping `model` or `state_dict` and the prefix `module.` of
    parallel training are taken off.

  Raises:
    ModelError: it cannot be read, or holds other objects than tensors.
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
    open_clip=_json(folder / OPEN_CLIP_CONFIG),
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
  content = fields.read_json(path)
  if not isinstance(content, dict):
    raise ModelError(f'{path} holds a {type(content).__name__}, not an object')
  return content
