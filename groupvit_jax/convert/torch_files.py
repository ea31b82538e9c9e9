"""Foreign weights as they are: arrays by name, and the config beside them.

Knows files, not models. Nothing that is read here can run foreign code: the
original's training checkpoints hold their OmegaConf config as well, and only
its values are kept.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from groupvit_jax.convert import fields, pickled, tensors
from groupvit_jax.errors import ModelError

# Where a checkpoint keeps its weights; the first is the original's.
_WRAPPERS = ('model', 'state_dict', 'model_state_dict')
# Values of a config that are read at most. Shared lists of shared lists would
# have no end.
_MOST_VALUES = 100_000
# What Hugging Face names weights, the safe form first.
# open_clip's first: timm's image encoders lie beside them as model.safetensors.
WHOLE = (
  'open_clip_model.safetensors',
  'open_clip_pytorch_model.bin',
  'model.safetensors',
  'pytorch_model.bin',
)
OPEN_CLIP_CONFIG = 'open_clip_config.json'
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')
_PARALLEL = 'module.'  # the prefix of names in parallel training


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
  arrays, extras = {}, {}
  for file in _files(path) if path.is_dir() else [path]:
    if file.suffix not in _SUFFIXES:
      raise ModelError(
        f'{file} is no file of weights; they end in {", ".join(_SUFFIXES)}'
      )
    safe = file.suffix == '.safetensors'
    more, others = (tensors.read(file)[0], {}) if safe else read(file)
    if twice := arrays.keys() & more.keys():
      raise ModelError(f'{file} holds {min(twice)} a second time')
    arrays |= more
    extras |= others
  if all(name.startswith(_PARALLEL) for name in arrays):
    arrays = {name.removeprefix(_PARALLEL): x for name, x in arrays.items()}
  config, preprocessor, open_clip = (
    fields.read_json(folder / name) if (folder / name).is_file() else {}
    for name in ('config.json', 'preprocessor_config.json', OPEN_CLIP_CONFIG)
  )
  return StateDict(
    as_floats(arrays), config, preprocessor, extras, path, open_clip
  )


def as_floats(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """float32, also of half and bfloat16; integers and complex numbers stay."""
  return {
    name: x if x.dtype.kind in 'iubc' else x.astype(np.float32, copy=False)
    for name, x in arrays.items()
  }


class _Index(msgspec.Struct):
  weight_map: dict[str, str]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of weights in a folder: one, or the shards of an index."""
  for name in WHOLE:
    if (folder / name).is_file():
      return [folder / name]
    index = folder / f'{name}.index.json'
    if index.is_file():
      found = [folder / shard for shard in shards(index)]
      if missing := [path.name for path in found if not path.is_file()]:
        raise ModelError(f'{folder} lacks {", ".join(missing)} of {index.name}')
      return found
  raise ModelError(
    f'{folder} holds no model: neither {" nor ".join(WHOLE)} (nor an index of '
    'one) beside config.json, nor the checkpoints of a training run'
  )


def shards(index: pathlib.Path) -> list[str]:
  """Names of the files that an index spreads weights over.

  Raises:
    ModelError: it is no index, or names no files.
  """
  content = fields.parse(fields.read_json(index), _Index, str(index))
  # Names only: an index must not point out of its folder.
  names = {pathlib.PurePath(path).name for path in content.weight_map.values()}
  if not names:
    raise ModelError(f'{index} names no files')
  return sorted(names)


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
      beside = {  # not the optimizer's state
        k: v
        for k, v in content.items()
        if k in ('config', 'metrics') or isinstance(v, int | float | str)
      }
      extras = _plain(beside, itertools.count())
      content = content[key]
      break
  other = 'it is empty'
  for name, value in content.items():
    if isinstance(value, pickled.OtherTensor):
      raise ModelError(
        f'{name} is {value.kind}; save the weights dense and in float32'
      )
    if not isinstance(value, pickled.Tensor):
      other = f'{name!r:.80} is no tensor'
      break
  else:
    if content:
      pickled.check_sizes(content)
      return {str(k): v.array() for k, v in content.items()}, extras
  raise ModelError(
    f'{path} holds no state dict: {other}; known wrappers are '
    f'{", ".join(_WRAPPERS)}'
  )


def _plain(value: Any, counter: Iterator[int], depth: int = 0) -> Any:
  """Numbers, strings, and lists and dicts of them; None for all else."""
  if next(counter) >= _MOST_VALUES:
    raise pickled.Damaged(f'its config has over {_MOST_VALUES} values')
  if depth > 20:  # a config's nodes also point to their parents
    return None
  if isinstance(value, pickled.Plain):
    inner = value.values if isinstance(value.values, Mapping) else {}
    return _plain(inner.get('_content', inner.get('_val')), counter, depth + 1)
  if isinstance(value, Mapping):
    items = {str(k): _plain(v, counter, depth + 1) for k, v in value.items()}
    return {k: v for k, v in items.items() if v is not None}
  if isinstance(value, list | tuple):
    return [_plain(v, counter, depth + 1) for v in value]
  if isinstance(value, pickled.Tensor) and not value.ndim:
    return value.array().item()
  return value if isinstance(value, bool | int | float | str) else None


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
