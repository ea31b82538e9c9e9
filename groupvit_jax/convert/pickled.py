"""PyTorch's files, read without torch and without running what is in them.

A pickle is a program for a stack machine. This module interprets the few
instructions that `torch.save` writes. Nothing in a file is imported or called,
and no size in it is believed: storages and tensors have to fit into the bytes
of the file before anything is allocated.
"""

import dataclasses
import io
import math
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

# Bytes of a pickle, tensors not counted. Checkpoints of the original have
# 1e5; interpreting takes up to 70 times as much memory.
_LIMIT = 2**24
_MOST = 2**21  # instructions: a tensor has about 40
# Tensors may share a storage, as tied weights do, but so often at most.
_SHARED = 4
_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': jnp.bfloat16,
  'DoubleStorage': np.float64,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
  'ComplexFloatStorage': np.complex64,
  'ComplexDoubleStorage': np.complex128,
}
_STORAGES = {f'torch.{name}': dtype for name, dtype in _DTYPES.items()}
_STORAGES['torch.storage.UntypedStorage'] = np.uint8
# Calls that the reader imitates; `torch.Size` and parameters are what they
# are made of.
_TENSOR = 'torch._utils._rebuild_tensor_v2'
_FIRST_ARGUMENT = (
  'torch.Size',
  'torch._utils._rebuild_parameter',
  'torch._utils._rebuild_parameter_with_state',
)
_EMPTY_DICT = ('collections.OrderedDict', 'collections.defaultdict')
# Tensors that are no plain arrays: kept by kind, refused where one is needed.
_OTHER_TENSORS = {
  'torch._utils._rebuild_sparse_tensor': 'sparse',
  'torch._utils._rebuild_qtensor': 'quantised',
  'torch._utils._rebuild_tensor_v3': 'of an unusual type',
}
# What OmegaConf's containers are pickled as (omegaconf 2.0 to 2.3), and the
# types that they mention. The pickle's `builtins` are called `__builtin__`.
_PLAIN_OBJECTS = (
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
  'torch.device',
  'torch.serialization._get_layout',
  # TorchScript's lists and dicts.
  'torch.jit._pickle.build_intlist',
  'torch.jit._pickle.build_tensorlist',
  'torch.jit._pickle.build_doublelist',
  'torch.jit._pickle.build_boollist',
  'torch.jit._pickle.restore_type_tag',
  *(
    f'{module}.{name}'
    for module in ('__builtin__', 'builtins')
    for name in ('dict', 'list', 'int', 'float', 'str', 'bool')
  ),
)
_KNOWN = {
  _TENSOR,
  *_FIRST_ARGUMENT,
  *_EMPTY_DICT,
  *_OTHER_TENSORS,
  *_PLAIN_OBJECTS,
  *_STORAGES,
}


class Foreign(Exception):
  """A pickle that needs an object other than tensors; its name is the text."""


class Damaged(ValueError):
  """A file that contradicts itself; the text says where."""


@dataclasses.dataclass(frozen=True)
class Name:
  """A class or function that a pickle refers to: its name only."""

  name: str


@dataclasses.dataclass
class Plain:
  """An instance of a class that is not here: only its values are kept."""

  values: Any


@dataclasses.dataclass(frozen=True)
class OtherTensor:
  """A tensor that is no plain array; `kind` is a word on it."""

  kind: str


@dataclasses.dataclass
class Storage:
  """A vector of numbers in the file, read when it is first needed."""

  dtype: np.dtype
  count: int
  read: Callable[[], bytes] | None = None
  _values: np.ndarray | None = None

  @property
  def nbytes(self) -> int:
    """Size in bytes."""
    return self.count * self.dtype.itemsize

  def values(self) -> np.ndarray:
    """All numbers, read from the file once."""
    if self._values is None:
      self._values = np.frombuffer(self.read(), self.dtype, self.count)
    return self._values


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A view of a storage; sizes are checked, values are not yet read."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  @property
  def ndim(self) -> int:
    """Number of axes."""
    return len(self.shape)

  @property
  def nbytes(self) -> int:
    """Size in bytes."""
    return math.prod(self.shape) * self.storage.dtype.itemsize

  def array(self) -> np.ndarray:
    """The values, read-only and without a copy."""
    flat = self.storage.values()[self.offset :]
    strides = [stride * flat.itemsize for stride in self.strides]
    return np.lib.stride_tricks.as_strided(
      flat, self.shape, strides, writeable=False
    )


def load(file: io.BufferedIOBase) -> Any:
  """Contents of a `torch.save` file: dicts, lists, numbers, texts, `Tensor`s.

  Args:
    file: open for as long as tensors are read.

  Raises:
    Foreign: it holds other objects.
    Exception: of many kinds (`Damaged`, zipfile's, ...): it is damaged or no
      such file.
  """
  size = os.fstat(file.fileno()).st_size
  storages: dict[str, Storage] = {}
  if zipfile.is_zipfile(file):
    content = _load_zip(file, storages)
  else:
    file.seek(0)
    content = _load_stream(file, storages, size)
  if sum(storage.nbytes for storage in storages.values()) > size:
    raise Damaged('its storages are larger than the file')
  return content


def check_sizes(tensors: Mapping[str, Tensor]) -> None:
  """Damaged if tensors share their storages so often that copies would not fit.

  A view of one storage under a thousand names is a thousand arrays once it is
  converted to float32.
  """
  storages = {id(t.storage): t.storage.nbytes for t in tensors.values()}
  here = sum(storages.values())
  if sum(t.nbytes for t in tensors.values()) > _SHARED * here:
    raise Damaged(f'its tensors claim over {_SHARED} times the {here} bytes')


def _load_zip(file: io.BufferedIOBase, storages: dict[str, Storage]) -> Any:
  archive = zipfile.ZipFile(file)
  entries = {
    info.filename.partition('/')[2]: info for info in archive.infolist()
  }

  def entry(name: str) -> zipfile.ZipInfo:
    info = entries.get(name)
    if info is None:
      raise Damaged(f'it lacks {name}')
    if info.compress_type != zipfile.ZIP_STORED:
      raise Damaged(f'{name} is compressed, which torch.save never does')
    return info

  if 'byteorder' in entries and archive.read(entry('byteorder')) != b'little':
    raise Damaged('its byte order is not little-endian')

  def attach(key: str, storage: Storage) -> None:
    info = entry(f'data/{key}')
    if info.file_size != storage.nbytes:
      raise Damaged(
        f'data/{key} has {info.file_size} bytes, {storage.nbytes} are needed'
      )
    storage.read = lambda: archive.read(info)  # compares its CRC-32 as well

  if entry('data.pkl').file_size > _LIMIT:
    raise Damaged(f'its pickle has more than {_LIMIT} bytes')
  with archive.open(entry('data.pkl')) as stream:
    return _Interpreter(storages, attach).run(stream)


def _load_stream(
  file: io.BufferedIOBase, storages: dict[str, Storage], size: int
) -> Any:
  """The format before torch 1.6: pickles in a row, then the storages."""
  header = _Interpreter({}, None)
  if header.run(file) != _MAGIC:
    raise Damaged('it does not begin as a file of torch.save')
  header.run(file)  # the version of the protocol
  if not header.run(file).get('little_endian', True):
    raise Damaged('its byte order is not little-endian')
  content = _Interpreter(storages, lambda key, storage: None).run(file)
  keys = header.run(file)
  if sorted(keys) != sorted(storages):
    raise Damaged('its storages are not those that its tensors need')
  for key in keys:
    (count,) = struct.unpack('<q', file.read(8))
    start, storage = file.tell(), storages[key]
    if count != storage.count or start + storage.nbytes > size:
      raise Damaged(f'storage {key} breaks off')
    storage.read = lambda start=start, n=storage.nbytes: _read(file, start, n)
    file.seek(start + storage.nbytes)
  return content


def _read(file: io.BufferedIOBase, start: int, count: int) -> bytes:
  file.seek(start)
  return file.read(count)


class _Interpreter:
  """Runs one pickle; `attach` finds the bytes of a new storage."""

  def __init__(
    self,
    storages: dict[str, Storage],
    attach: Callable[[str, Storage], None] | None,
  ):
    self._storages = storages
    self._attach = attach

  def run(self, stream: io.BufferedIOBase | IO[bytes]) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
      start = marks.pop()
      items = stack[start:]
      del stack[start:]
      return items

    # A file has positions, and the opcode tells the type of its value. genops
    # reads from any binary stream, and declares IO only.
    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, Any]]
    operations = pickletools.genops(stream)  # pyright: ignore[reportArgumentType]
    start = None
    for count, (opcode, value, position) in enumerate(operations):
      start = position if start is None else start
      if position - start > _LIMIT or count > _MOST:
        raise Damaged('its pickle is longer than any of weights')
      match opcode.name:
        case 'PROTO' | 'FRAME':
          pass
        case 'STOP':
          return stack.pop()
        case (
          'BININT'
          | 'BININT1'
          | 'BININT2'
          | 'LONG1'
          | 'BINFLOAT'
          | 'BINUNICODE'
          | 'SHORT_BINUNICODE'
          | 'BINSTRING'
          | 'SHORT_BINSTRING'
        ):
          stack.append(value)
        case 'NONE':
          stack.append(None)
        case 'NEWTRUE' | 'NEWFALSE':
          stack.append(opcode.name == 'NEWTRUE')
        case 'BINPUT' | 'LONG_BINPUT':
          memo[value] = stack[-1]
        case 'MEMOIZE':
          memo[len(memo)] = stack[-1]
        case 'BINGET' | 'LONG_BINGET':
          stack.append(memo[value])
        case 'MARK':
          marks.append(len(stack))
        case 'EMPTY_DICT':
          stack.append({})
        case 'EMPTY_LIST' | 'EMPTY_SET':
          stack.append([])
        case 'EMPTY_TUPLE':
          stack.append(())
        case 'TUPLE':
          stack.append(tuple(marked()))
        case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
          count = int(opcode.name[-1])
          stack[-count:] = [tuple(stack[-count:])]
        case 'APPEND':
          item = stack.pop()
          stack[-1].append(item)
        case 'APPENDS' | 'ADDITEMS':
          items = marked()
          stack[-1].extend(items)
        case 'SETITEM':
          _set_items(stack, [stack.pop(-2), stack.pop()])
        case 'SETITEMS':
          _set_items(stack, marked())
        case 'GLOBAL':
          stack.append(_name(*value.split(' ', 1)))
        case 'STACK_GLOBAL':
          stack.append(_name(stack.pop(-2), stack.pop()))
        case 'REDUCE' | 'NEWOBJ':
          arguments = stack.pop()
          stack.append(_call(stack.pop(), arguments))
        case 'BUILD':
          state = stack.pop()
          built = stack[-1]
          if isinstance(built, Plain):
            built.values = state
        case 'BINPERSID':
          stack.append(self._storage(stack.pop()))
        case _:
          raise Damaged(f'torch.save writes no {opcode.name}')
    raise Damaged('its pickle breaks off')

  def _storage(self, reference: Any) -> Storage:
    kind, of, key, _, count = reference[:5]
    if kind != 'storage' or any(reference[5:]):
      raise Damaged('it holds a view, or a module, of an old version of torch')
    if of.name not in _STORAGES:
      raise Foreign(of.name)
    storage = Storage(np.dtype(_STORAGES[of.name]), _whole(count))
    known = self._storages.setdefault(key, storage)
    if (known.dtype, known.count) != (storage.dtype, storage.count):
      raise Damaged(f'storage {key} is there with two sizes')
    if known is storage:
      self._attach(key, storage)
    return known


def _name(module: str, name: str) -> Name:
  full = f'{module}.{name}'
  # A module of a TorchScript archive: its attributes are kept as values.
  script = full.startswith('__torch__.')
  if full not in _KNOWN and not script and not _is_dtype(full):
    raise Foreign(full)
  return Name(full)


def _is_dtype(name: str) -> bool:
  kinds = ('float', 'bfloat', 'int', 'uint', 'complex', 'bool')
  return name.startswith(tuple(f'torch.{kind}' for kind in kinds))


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
  name = function.name
  if name == _TENSOR:
    return _tensor(*arguments[:4])
  if name in _FIRST_ARGUMENT:
    return arguments[0]
  if name in _EMPTY_DICT:
    return {}
  if name in _OTHER_TENSORS:
    return OtherTensor(_OTHER_TENSORS[name])
  return Plain({'_val': arguments[0]} if arguments else {})


def _tensor(storage: Storage, offset: Any, shape: Any, strides: Any) -> Tensor:
  if len(shape) > 64:  # numpy's limit
    raise Damaged(f'a tensor has {len(shape)} axes')
  tensor = Tensor(
    storage,
    _whole(offset),
    tuple(map(_whole, shape)),
    tuple(map(_whole, strides)),
  )
  pairs = zip(tensor.shape, tensor.strides, strict=True)
  last = tensor.offset + sum((n - 1) * stride for n, stride in pairs)
  size = math.prod(tensor.shape)
  # The second excludes strides of 0 and views that overlap themselves.
  if size and (last >= storage.count or size > storage.count):
    raise Damaged(
      f'a tensor of shape {tensor.shape} does not fit into its storage of '
      f'{storage.count} numbers'
    )
  return tensor


def _whole(value: Any) -> int:
  if type(value) is not int or not 0 <= value < 2**63:
    raise Damaged(f'a size is {repr(value)[:40]}')
  return value


def _set_items(stack: list[Any], items: list[Any]) -> None:
  for key, value in zip(items[::2], items[1::2], strict=True):
    # The hash of nested tuples recurses without a limit, so no tuples.
    if not isinstance(key, str | int | float | Name | None):
      raise Damaged(f'a key is a {type(key).__name__}')
    stack[-1][key] = value
