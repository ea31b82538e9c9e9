"""Compiled programs: kept on disk for the next process, and made ahead."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache


def keep_compiled(
  folder: pathlib.Path, *, replace: bool = False, min_seconds: float = 0.0
) -> None:
  """Keeps compiled programs on disk, if the folder can be written.

  Args:
    folder: where.
    replace: whether that holds where JAX was given another place.
    min_seconds: programs that compile faster are not kept.
  """
  config: Any = jax.config  # options are attributes only at run time
  if config.jax_compilation_cache_dir and not replace:
    return
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return  # a read-only home costs time, and is no reason to fail
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # Its default passes over what compiles in less than a second.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', min_seconds)
  # JAX decides at the first compilation of a process whether there is a cache.
  compilation_cache.reset_cache()


def kept_at() -> pathlib.Path | None:
  """The folder of compiled programs; None for none, or for an address."""
  config: Any = jax.config
  folder = config.jax_compilation_cache_dir
  return pathlib.Path(folder) if folder and '://' not in folder else None


class Programs:
  """A jitted function, compiled for each shape of its last argument.

  A new shape is compiled before the call, with a line in the log.
  """

  def __init__(self, function: Any, name: str) -> None:
    self._function, self._name = function, name
    self._compiled: dict[Any, Callable[..., Any]] = {}

  def is_new(self, batch: dict[str, jax.Array]) -> bool:
    """Whether this shape has not been compiled yet."""
    return self._shape(batch) not in self._compiled

  def __call__(self, *arguments: Any) -> Any:
    """Calls the program; compiles it where the shape is new."""
    shape = self._shape(arguments[-1])
    if shape not in self._compiled:
      begin = time.perf_counter()
      self._compiled[shape] = self._function.lower(*arguments).compile()
      took = time.perf_counter() - begin
      logging.info('compiled %s in %.1f s', self._name, took)
    return self._compiled[shape](*arguments)

  def _shape(self, batch: dict[str, jax.Array]) -> Any:
    return tuple((name, x.shape) for name, x in sorted(batch.items()))
