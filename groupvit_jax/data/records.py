"""Random access to image-caption pairs in TFRecord and ArrayRecord files.

Without TensorFlow: the lengths of TFRecords are walked once into an index, and
a tf.train.Example is parsed by the few rules of the wire format that it uses.
"""

import os
import struct
import threading
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int64

from groupvit_jax import errors
from groupvit_jax.data import paths, remote, shards
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.data.paths import Patterns

_MOST_READERS = 64
_IMAGE_KEYS = ('image', 'image/encoded', 'jpg', 'jpeg', 'png')
_CAPTION_KEYS = (
  'caption',
  'captions',
  'captions/text',
  'image/caption',
  'text',
  'txt',
)


class TFRecordSource(shards.ShardSource):
  """Image-caption pairs of TFRecord files of tf.train.Example.

  Fields: as ShardSource, and
    image_key, caption_key: features to read.
  """

  kind = 'records'
  suffix = 'tfrecord'

  def __init__(
    self,
    patterns: Patterns,
    name: str | None = None,
    cache: remote.ShardCache | None = None,
    *,
    image_key: str = '',
    caption_key: str = '',
  ):
    """Opens record files (see ShardSource).

    Args:
      patterns, name, cache: as ShardSource.
      image_key: feature with the encoded image; '' finds the usual names.
      caption_key: feature with the caption or captions; the same.

    Raises:
      FileNotFoundError: no file matches.
      ValueError: no record, a compressed file, or no such feature.
    """
    super().__init__(patterns, name, cache)
    if not len(self):
      raise ValueError(f'{self.name}: the files hold no record.')
    first = next(i for i, length in enumerate(self.lengths) if length)
    _, row = self._row(sum(self.lengths[:first]))
    features = parse_example(self.record(first, row or [0]))
    self.image_key = image_key or _find(features, _IMAGE_KEYS, 'image')
    self.caption_key = caption_key or _find(features, _CAPTION_KEYS, 'caption')

  def scan(self, path: str) -> Int64[np.ndarray, 'n 2']:
    """See `scan_records`."""
    return scan_records(path)

  def record(self, shard: int, row: list[int]) -> bytes:
    """A serialised tf.train.Example."""
    offset, size = row
    if size > shards.MAX_IMAGE_BYTES:
      raise BadSampleError(
        f'the record has {size:,} bytes, more than {shards.MAX_IMAGE_BYTES:,}',
        'image_size',
      )
    return self.read(shard, offset, size)

  def sample(self, shard: int, row: list[int]) -> dict[str, Any]:
    """Reads an image and its captions.

    Raises:
      BadSampleError: a broken record, or one that is too large.
    """
    try:
      features = parse_example(self.record(shard, row))
    except BadSampleError:
      raise
    except (ValueError, IndexError) as error:
      raise BadSampleError(f'a broken record ({error})', 'record') from error
    image = features.get(self.image_key) or [b'']
    captions = features.get(self.caption_key) or [b'']
    return {'image': bytes(image[0]), 'caption': tuple(map(bytes, captions))}


class ArrayRecordSource(TFRecordSource):
  """Image-caption pairs of ArrayRecord files of tf.train.Example.

  Fields: as TFRecordSource.
  """

  kind = 'array_records'
  suffix = 'array_record'

  def __init__(self, *args: Any, **options: Any):
    """Opens record files; arguments as TFRecordSource.

    Raises:
      ImportError: the package array_record is missing.
    """
    array_record()
    self._readers: dict[str, Any] = {}
    self._reading = threading.Lock()
    super().__init__(*args, **options)

  def scan(self, path: str) -> Int64[np.ndarray, 'n 1']:
    """The numbers of the records."""
    try:
      reader = array_record().ArrayRecordReader(path)
      if reader.ok():
        return np.arange(reader.num_records(), dtype=np.int64)[:, None]
      error = None
    except Exception as raised:  # RuntimeError of a kind for each fault
      error = raised
    raise ValueError(f'{path} is no ArrayRecord file.') from error

  def record(self, shard: int, row: list[int]) -> bytes:
    """A serialised tf.train.Example."""
    try:
      with self._reading:  # nothing says that threads may share a reader
        return self.with_file(shard, self._reader).read(row)[0]
    except errors.UserError:
      raise
    except Exception as error:
      raise ValueError(str(error)) from error

  def _reader(self, path):
    if path not in self._readers:
      # A copy that made room for another keeps its place while it is open.
      self._readers = {
        other: reader
        for other, reader in list(self._readers.items())[-_MOST_READERS:]
        if os.path.exists(other)
      }
      os.stat(path)  # its absence is no RuntimeError
      self._readers[path] = array_record().ArrayRecordReader(path)
    return self._readers[path]


def open_records(
  patterns: Patterns,
  name: str | None = None,
  cache: remote.ShardCache | None = None,
  **features: str,
) -> TFRecordSource:
  """Opens TFRecord or ArrayRecord files, told apart by their names.

  Arguments as TFRecordSource; ArrayRecord files have `array_record` in their
  names, or a folder of theirs has.
  """
  own = any('array_record' in name for name in paths.names(patterns))
  form = ArrayRecordSource if own else TFRecordSource
  return form(patterns, name, cache, **features)


def array_record() -> Any:
  """The module, or an ImportError that names the extra."""
  try:
    from array_record.python import (
      array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
    )
  except ImportError as error:
    raise ImportError(
      "ArrayRecord files need: pip install 'groupvit_jax[train]'"
    ) from error
  return array_record_module


def _find(features, keys, what):
  for key in keys:
    if key in features:
      return key
  raise ValueError(
    f'No {what} among the features {sorted(features)}: name it with '
    f'data.{what}_feature=...'
  )


def scan_records(path: str) -> Int64[np.ndarray, 'n 2']:
  """Returns offset and size in bytes of each record's data in a file."""
  rows, at, end = [], 0, os.path.getsize(path)
  with open(path, 'rb', buffering=0) as file:
    # A record is: length (8), its checksum (4), data, checksum (4).
    while at + 16 <= end:
      (size,) = struct.unpack('<Q', os.pread(file.fileno(), 8, at))
      if at + 16 + size > end:
        break
      rows.append((at + 12, size))
      at += 16 + size
  if at != end:
    if not rows:
      raise ValueError(
        f'{path} is no uncompressed TFRecord file: write it without GZIP, '
        'which cannot be read at random.'
      )
    logging.warning('%s is cut short; its last record is left out', path)
  return np.array(rows, np.int64).reshape(-1, 2)


def parse_example(data: bytes) -> dict[str, list[bytes]]:
  """Parses the byte features of a serialised tf.train.Example.

  Args:
    data: bytes. Example {1: Features {1: map entry {1: key, 2: Feature}}},
      where Feature {1: BytesList {1: bytes}}.

  Returns:
    Dict from feature name to its list of bytes; features of numbers have an
    empty list.
  """
  found = {}
  for features in _messages(memoryview(data), 1):
    for entry in _messages(features, 1):
      key = bytes(next(_messages(entry, 1), b'')).decode()
      found[key] = [
        bytes(value)
        for feature in _messages(entry, 2)
        for values in _messages(feature, 1)
        for value in _messages(values, 1)
      ]
  return found


def _messages(data, wanted):
  """Yields the length-delimited fields of one number in a message."""
  at = 0
  while at < len(data):
    tag, at = _varint(data, at)
    number, wire = tag >> 3, tag & 7
    if wire == 2:
      size, at = _varint(data, at)
      if at + size > len(data):
        raise ValueError('a field runs over the end')
      if number == wanted:
        yield data[at : at + size]
      at += size
    elif wire == 0:
      _, at = _varint(data, at)
    elif wire in (1, 5):
      at += 8 if wire == 1 else 4
    else:
      raise ValueError(f'wire type {wire}')


def _varint(data, at):
  value = shift = 0
  while True:
    byte = data[at]
    at += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, at
    shift += 7
