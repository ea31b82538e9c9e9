"""Models by name: downloaded from the Hugging Face hub, converted, and kept.

Everything that users of `huggingface_hub` set up is respected: its cache,
tokens (`hf auth login`, HF_TOKEN), HF_ENDPOINT, HF_HUB_OFFLINE.
"""

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
    revision: what it was asked for by: a branch, tag or commit.
    config: a file that the model has.
    online: whether the hub answered; else all comes from the library's cache.
  """

  name: str
  commit: str
  revision: str
  config: str
  online: bool

  @property
  def kept(self) -> pathlib.Path:
    """Where its conversion is kept; a new version converts anew."""
    folder = files.cache('models') / groupvit_jax.__version__
    return folder / self.name.replace('/', '--') / self.commit


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
  name, revision = cast(re.Match, _NAME.fullmatch(text)).groups('main')
  for file in _CONFIGS:
    if snapshot := _find(name, file, revision):
      return snapshot
  raise _lacks(name, ' nor '.join(_CONFIGS), _is_offline())


def download(snapshot: Snapshot) -> pathlib.Path:
  """Downloads what a conversion reads, and returns its folder.

  Weights are taken as .safetensors where there are such, else as PyTorch's.

  Raises:
    ModelError: a file was not downloaded, or there are no weights.
  """
  name, commit, revision, config, online = snapshot
  # Under the name that was asked for, so that offline it is found again.
  folder = cast(pathlib.Path, _download(name, config, revision, online)).parent
  for file in (*_CONFIGS, 'preprocessor_config.json', model_folder.TOKENIZER):
    _download(name, file, commit, online)
  for file in torch_files.WHOLE:
    if _download(name, file, commit, online):
      return folder
    if index := _download(name, f'{file}.index.json', commit, online):
      for shard in torch_files.shards(index):
        _download(name, shard, commit, online)
      return folder
  raise _lacks(name, ' nor '.join(torch_files.WHOLE), not online)


def _is_offline() -> bool:
  from huggingface_hub import constants

  return constants.HF_HUB_OFFLINE


def _lacks(name: str, what: str, offline: bool) -> ModelError:
  from huggingface_hub import constants

  if offline:
    return ModelError(
      f'there is no {name} here, {constants.HF_HUB_CACHE} holds neither {what} '
      'of a model of that name, and without the hub (HF_HUB_OFFLINE, or no '
      'connection) it cannot be downloaded: go online once, or give the path '
      'of a model'
    )
  return ModelError(
    f'{constants.ENDPOINT}/{name} is no model that can be read: it holds '
    f'neither {what}'
  )


def _find(name: str, file: str, revision: str) -> Snapshot | None:
  """The commit of a revision that has the file; None if it has not."""
  import huggingface_hub  # takes half a second
  from huggingface_hub import constants, errors

  path = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
  cached = None
  if isinstance(path, str):
    commit = pathlib.Path(path).parent.name
    cached = Snapshot(name, commit, revision, file, online=False)
  if _is_offline():
    return cached
  try:
    address = huggingface_hub.hf_hub_url(name, file, revision=revision)
    # Once: its own download would try for half a minute.
    commit = huggingface_hub.get_hf_file_metadata(address).commit_hash
    return Snapshot(name, cast(str, commit), revision, file, online=True)
  except errors.EntryNotFoundError:
    return None
  except errors.HfHubHTTPError as error:
    if error.response.status_code >= 500 and cached:
      return cached
    raise _refused(error, name, revision) from error
  except Exception as error:  # of the connection, by the client's library
    if cached:
      return cached
    raise ModelError(
      f'there is no {name} here, and {constants.ENDPOINT} cannot be reached to '
      'look for a model of that name: check the connection (HF_ENDPOINT names '
      'a mirror), or give the path of a model'
    ) from error


def _download(
  name: str, file: str, revision: str, online: bool
) -> pathlib.Path | None:
  """The path of a file in the hub's cache; None if there is no such file."""
  import huggingface_hub
  from huggingface_hub import errors

  try:
    path = huggingface_hub.hf_hub_download(
      name,
      file,
      revision=revision,
      library_name='groupvit_jax',
      library_version=groupvit_jax.__version__,
      local_files_only=not online,
    )
    return pathlib.Path(path)
  except errors.LocalEntryNotFoundError as error:
    if not online:
      return None
    raise _interrupted(name, file, error) from error
  except errors.EntryNotFoundError:
    return None
  except errors.HfHubHTTPError as error:
    raise _refused(error, name, revision) from error
  except Exception as error:  # of many kinds: the connection, the disk
    raise _interrupted(name, file, error) from error


def _interrupted(name: str, file: str, error: Exception) -> ModelError:
  return ModelError(
    f'{file} of {name} was not downloaded ({type(error).__name__}: '
    f'{error!s:.200}); try again: what has arrived is kept'
  )


def _refused(error: Exception, name: str, revision: str) -> ModelError:
  """Error for an answer of the hub; it says what to do."""
  from huggingface_hub import constants, errors

  address = f'{constants.ENDPOINT}/{name}'
  login = 'log in by `hf auth login`, or set HF_TOKEN'
  match error:
    case errors.GatedRepoError():
      text = f'{name} is gated: accept its terms on {address}, then {login}'
    case errors.RepositoryNotFoundError():
      text = (
        f'there is no {name} here, and no model {address}: correct the name or '
        f'path; if the model is private, {login}'
      )
    case errors.RevisionNotFoundError():
      text = (
        f'{name} has no revision {revision}; {address}/commits/main lists them'
      )
    case _:
      text = f'{address} answers with an error: {error!s:.200}'
  return ModelError(text)
