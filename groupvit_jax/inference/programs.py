"""The functions of a model that are compiled, and where programs are kept."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.experimental.compilation_cache import compilation_cache

from groupvit_jax import files
from groupvit_jax.data import on_device
from groupvit_jax.models import dual_encoder

CACHE = '~/.cache/groupvit_jax/compiled'


def keep_compiled(folder: str | os.PathLike | bool = True) -> None:
  """Keeps compiled programs on disk, so that the next process begins at once.

  Args:
    folder: True for the user's cache folder, unless JAX was given one already;
      False leaves JAX as it is. A folder that cannot be written is not used.
  """
  if folder is False:
    return
  if folder is True:
    if jax.config.jax_compilation_cache_dir:
      return
    root = os.environ.get('XDG_CACHE_HOME')
    folder = f'{root}/groupvit_jax/compiled' if root else CACHE
  folder = files.expanded(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return  # a read-only home costs time, and is no reason to fail
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # Its default passes over what compiles in less than a second.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  # JAX decides at the first compilation of a process whether there is a cache.
  compilation_cache.reset_cache()


class Programs:
  """The functions of one model.

  Attributes:
    predict_fns: for evaluators (docs/architecture.md), not compiled.
    image, text, logit_scale: the same, compiled.
  """

  def __init__(
    self,
    module: nn.Module,
    mean: Sequence[float],
    std: Sequence[float],
  ):
    """Compiles nothing yet.

    Args:
      module: a `DualEncoder`.
      mean, std: of the channels in 0..1, with which the weights were trained.
    """
    normalize = functools.partial(on_device.normalize, mean=mean, std=std)
    self.predict_fns: Mapping[str, Callable[..., Any]] = (
      dual_encoder.predict_fns(module, normalize)
    )
    self.image = jax.jit(self.predict_fns['image'])
    self.text = jax.jit(self.predict_fns['text'])
    self.logit_scale = jax.jit(self.predict_fns['logit_scale'])
