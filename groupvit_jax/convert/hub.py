"""Models by name: downloaded from the Hugging Face hub, converted, and kept.

Everything that users of `huggingface_hub` set up is respected: its cache,
tokens (`hf auth login`, HF_TOKEN), HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import os
import pathlib
import re
from typing import NamedTuple, cast

import groupvit_jax
from groupvit_jax import files
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert import torch_files
from groupvit_jax.errors import ModelError

# An owner, a name, and perhaps a branch, tag or commit.
_NAME = re.compile(r'([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?')
_CONFIGS = ('config.json', torch_files.OPEN_CLIP_CONFIG)


class Snapshot(NamedTuple):
  """A model on the hub at one commit.

  Attributes:
    name: owner and name, such as 'nvidia/groupvit-gcc-yfcc'.
    commit: the hash.
    config: the downloaded file that told the commit.
  """

  name: str
  commit: str
  config: pathlib.Path

  @property
  def kept(self) -> pathlib.Path:
    """Where its conversion is kept; a new version converts anew."""
    folder = cache('models') / groupvit_jax.__version__
    return folder / self.name.replace('/', '--') / self.commit


def cache(name: str) -> pathlib.Path:
  """A folder of our own cache: $XDG_CACHE_HOME/groupvit_jax, or ~/.cache."""
  root = files.expanded(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  return root / 'groupvit_jax' / name


def is_name(text: str) -> bool:
  """Whether a text has the form of a name on the hub."""
  return _NAME.fullmatch(text) is not None


def resolve(text: str) -> Snapshot:
  """Finds the commit that a name stands for now, by a single request.

  Args:
    text: 'owner/name', or 'owner/name@revision' (a branch, tag or commit).

  Raises:
    ModelError: unknown, gated, or unreachable and not in the cache.
  """
  name, revision = cast(re.Match, _NAME.fullmatch(text)).groups()
  for file in _CONFIGS:
    if path := _download(name, file, revision):
      return Snapshot(name, path.parent.name, path)
  raise _lacks(name, ' nor '.join(_CONFIGS))


def download(snapshot: Snapshot) -> pathlib.Path:
  """Downloads what a conversion reads, and returns its folder.

  Weights are taken as .safetensors where there are such, else as PyTorch's.
  """
  name, commit, config = snapshot
  for file in (*_CONFIGS, 'preprocessor_config.json', model_folder.TOKENIZER):
    _download(name, file, commit)
  for file in torch_files.WHOLE:
    if _download(name, file, commit):
      return config.parent
    if index := _download(name, f'{file}.index.json', commit):
      for shard in torch_files.shards(index):
        _download(name, shard, commit)
      return config.parent
  raise _lacks(name, ' nor '.join(torch_files.WHOLE))


def is_offline() -> bool:
  """Whether HF_HUB_OFFLINE is set."""
  from huggingface_hub import constants

  return constants.HF_HUB_OFFLINE


def _lacks(name: str, what: str) -> ModelError:
  from huggingface_hub import constants

  if is_offline():
    return ModelError(
      f'there is no {name} here, {constants.HF_HUB_CACHE} holds neither {what} '
      'of a model of that name, and HF_HUB_OFFLINE forbids to download it: '
      'unset it once, or give the path of a model'
    )
  return ModelError(
    f'{constants.ENDPOINT}/{name} is no model that can be read: it holds '
    f'neither {what}'
  )


def _download(
  name: str, file: str, revision: str | None
) -> pathlib.Path | None:
  """The path of a file in the hub's cache; None if there is no such file."""
  import huggingface_hub  # takes half a second
  from huggingface_hub import constants, errors

  address = f'{constants.ENDPOINT}/{name}'
  login = 'log in by `hf auth login`, or set HF_TOKEN'
  try:
    return pathlib.Path(
      huggingface_hub.hf_hub_download(
        name,
        file,
        revision=revision,
        endpoint=constants.ENDPOINT,
        library_name='groupvit_jax',
        library_version=groupvit_jax.__version__,
      )
    )
  except errors.LocalEntryNotFoundError as error:
    if constants.HF_HUB_OFFLINE:
      return None
    raise ModelError(
      f'there is no {name} here, and {constants.ENDPOINT} cannot be reached to '
      f'look for a model of that name: check the connection (HF_ENDPOINT names '
      'a mirror), or give the path of a model'
    ) from error
  except errors.EntryNotFoundError:
    return None
  except errors.GatedRepoError as error:
    raise ModelError(
      f'{name} is gated: accept its terms on {address}, then {login}'
    ) from error
  except errors.RepositoryNotFoundError as error:
    raise ModelError(
      f'there is no {name} here, and no model {address}: correct the name or '
      f'path; if the model is private, {login}'
    ) from error
  except errors.RevisionNotFoundError as error:
    raise ModelError(
      f'{name} has no revision {revision}; {address}/commits/main lists them'
    ) from error
  except Exception as error:  # of many kinds: the connection, the disk
    raise ModelError(
      f'{file} of {name} was not downloaded ({type(error).__name__}: '
      f'{error!s:.200}); try again: what has arrived is kept'
    ) from error
