"""Files as `torch.save` writes them, byte for byte, without torch."""

import collections
import io
import pathlib
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_KINDS = {
  np.dtype(np.float32): 'FloatStorage',
  np.dtype(np.float16): 'HalfStorage',
  np.dtype(np.float64): 'DoubleStorage',
  np.dtype(np.int64): 'LongStorage',
}


class Call:
  """Pickled as a call of a function that need not exist.

  Attributes:
    name: module and function, such as 'io.open'.
    arguments: of the call.
    state: what the object that it makes is given, as by `__setstate__`.
  """

  def __init__(self, name: str, *arguments: Any, state: Any = None):
    self.name, self.arguments, self.state = name, arguments, state


class View:
  """A tensor as a file describes it, be it true or not."""

  def __init__(self, array: np.ndarray, **claims: Any):
    """Args: claims: offset, shape, strides, count, in place of the array's."""
    self.array = np.ascontiguousarray(array).reshape(np.shape(array))
    self.claims = claims


def pickled(content: Any) -> tuple[bytes, list[np.ndarray]]:
  """The pickle (protocol 2) of a checkpoint, and its storages."""
  out, storages = io.BytesIO(), []

  def put(value: Any) -> None:
    if value is None or isinstance(value, bool):
      out.write({None: b'N', True: b'\x88', False: b'\x89'}[value])
    elif isinstance(value, int | float | str):
      # The pickle of one atom, without its first and last instruction.
      text = pickle.dumps(value, 2)[2:-1]
      out.write(text.removesuffix(b'q\0') if isinstance(value, str) else text)
    elif isinstance(value, np.ndarray):
      put(View(value))
    elif isinstance(value, View):
      put_tensor(value)
    elif isinstance(value, Call):
      put_global(value.name)
      put(value.arguments)
      out.write(b'R')
      if value.state is not None:
        put(value.state)
        out.write(b'b')
    elif isinstance(value, dict):
      out.write(b'}(')
      for pair in value.items():
        for part in pair:
          put(part)
      out.write(b'u')
    elif isinstance(value, list | tuple):
      out.write(b'](' if isinstance(value, list) else b'(')
      for part in value:
        put(part)
      out.write(b'e' if isinstance(value, list) else b't')
    else:
      raise TypeError(type(value))

  def put_global(name: str) -> None:
    module, _, of = name.rpartition('.')
    out.write(f'c{module}\n{of}\n'.encode())

  def put_tensor(view: View) -> None:
    array, claims = view.array, view.claims
    put_global('torch._utils._rebuild_tensor_v2')
    out.write(b'((')
    put('storage')
    put_global(f'torch.{_KINDS[array.dtype]}')
    for part in (str(len(storages)), 'cpu', claims.get('count', array.size)):
      put(part)
    out.write(b'tQ')
    strides = tuple(n // array.itemsize for n in array.strides)
    put(claims.get('offset', 0))
    put(tuple(claims.get('shape', array.shape)))
    put(tuple(claims.get('strides', strides)))
    put(False)
    put(Call('collections.OrderedDict'))
    out.write(b'tR')
    storages.append(array)

  out.write(b'\x80\x02')
  put(content)
  out.write(b'.')
  return out.getvalue(), storages


def save(content: Any, path: pathlib.Path, *, legacy: bool = False) -> None:
  """Writes what torch.save would; `legacy`: as before torch 1.6."""
  pickle_bytes, storages = pickled(content)
  if legacy:
    keys = [str(i) for i in range(len(storages))]
    system = {'protocol_version': 1001, 'little_endian': True}
    parts = [pickle.dumps(x, 2) for x in (_MAGIC, 1001, system)]
    parts += [pickle_bytes, pickle.dumps(keys, 2)]
    parts += [struct.pack('<q', x.size) + x.tobytes() for x in storages]
    path.write_bytes(b''.join(parts))
    return
  members = collections.OrderedDict({'data.pkl': pickle_bytes})
  members['byteorder'] = b'little'
  members |= {f'data/{i}': x.tobytes() for i, x in enumerate(storages)}
  members['version'] = b'3\n'
  write_members(path, members)


def write_members(path: pathlib.Path, members: dict[str, bytes]) -> None:
  """The archive around them."""
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in members.items():
      archive.writestr(f'{path.stem}/{name}', content)
