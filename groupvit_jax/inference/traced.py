"""Programs traced once and kept on disk beside the compiled ones.

JAX's own cache spares a new process the compiling of an encoder, and not its
tracing, which takes longer than computing an image.
"""

import functools
import hashlib
import importlib.metadata
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax import export

import groupvit_jax
from groupvit_jax import files

_PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy')


class Kept:
  """A pure function, traced in the first process that calls it.

  Called with arrays or inside `jax.jit`, as the function itself.
  """

  def __init__(
    self, function: Callable[..., Any], identity: str, folder: pathlib.Path
  ):
    """Reads and writes nothing yet.

    Args:
      function: of trees of arrays; it returns such a tree.
      identity: all that the function depends on beside its arguments, the
        code and the versions of the packages, which count anyway.
      folder: of programs; one that cannot be read or written is no error.
    """
    self._function, self._identity, self._folder = function, identity, folder
    self._programs: dict[str, Callable[..., Any]] = {}

  def __call__(self, *args: Any) -> Any:
    """The function's result."""
    if _code() is None:
      return self._function(*args)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args
    )
    key = _key(self._identity, shapes)
    if key not in self._programs:
      self._programs[key] = self._program(self._folder / key, shapes)
    return self._programs[key](*args)

  def _program(self, path, shapes):
    try:
      checksum, content = path.read_bytes().split(b'\n', 1)
      if checksum == _checksum(content):
        return export.deserialize(bytearray(content)).call
    except (OSError, ValueError):
      pass  # none yet, or half a file
    program = export.export(jax.jit(self._function))(*shapes)
    content = bytes(program.serialize())
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      files.write_atomically(path, _checksum(content) + b'\n' + content)
    except OSError:
      pass  # a read-only home costs time, and is no reason to fail
    return program.call


def _key(identity: str, shapes: Any) -> str:
  """Of all that decides what a program computes."""
  devices = {device.device_kind for device in jax.devices()}
  # More than tracing reads; a new value of any of them traces again.
  config = sorted(map(str, jax.config.values.items()))
  record = identity, str(shapes), sorted(devices), config, _code()
  return f'traced_{hashlib.sha256(repr(record).encode()).hexdigest()}'


def _checksum(content: bytes) -> bytes:
  return hashlib.sha256(content).hexdigest().encode()


@functools.cache
def _code() -> str | None:
  """Digest of this package's source, and the versions of what it stands on.

  None where a file is newer than the process: it may hold other code by now.
  """
  sha = hashlib.sha256(sys.version.encode())
  for name in _PACKAGES:
    sha.update(f'{name} {importlib.metadata.version(name)}\n'.encode())
  root = pathlib.Path(groupvit_jax.__file__).parent
  for path in sorted(root.rglob('*.py')):
    if max(path.stat().st_mtime, path.stat().st_ctime) > groupvit_jax.IMPORTED:
      return None
    content = path.read_bytes()
    sha.update(f'{path.relative_to(root)} {len(content)}\n'.encode() + content)
  return sha.hexdigest()
