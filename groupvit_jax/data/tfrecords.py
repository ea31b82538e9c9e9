"""Random access to image-caption pairs in TFRecord files, without TensorFlow.

Record lengths are walked once into an index; a tf.train.Example is parsed by
the few rules of the protocol buffer wire format that it uses.
"""

import os
import struct
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int64

from groupvit_jax.data import shards
from groupvit_jax.data.images import BadSampleError

_IMAGE_KEYS = ('image', 'image/encoded', 'jpg', 'jpeg', 'png')
_CAPTION_KEYS = (
  'caption',
  'captions',
  'captions/text',
  'image/caption',
  'text',
  'txt',
)


class TFRecordSource:
  """Image-caption pairs of TFRecord files of tf.train.Example.

  Fields:
    name: what messages call it.
    paths: the files.
    image_key, caption_key: features to read; None finds the usual names.
  """

  def __init__(
    self,
    patterns: shards.Patterns,
    name: str | None = None,
    image_key: str | None = None,
    caption_key: str | None = None,
  ):
    """Opens TFRecord files.

    Args:
      patterns: path or pattern, or a list (see `shards.expand`).
      name: what messages call it; by default the first pattern.
      image_key: feature with the encoded image.
      caption_key: feature with the caption or captions.

    Raises:
      FileNotFoundError: no file matches.
      ValueError: no record, a compressed file, or no such feature.
    """
    self.paths = shards.expand(patterns)
    self.name = name or self.paths[0]
    self._shard, self._table = shards.build_index(
      self.paths, scan_records, 'records'
    )
    if not len(self._table):
      raise ValueError(f'{self.name}: the TFRecord files hold no record.')
    self._files = shards.Files(self.paths)
    features = parse_example(self._record(0))
    self.image_key = image_key or _find(features, _IMAGE_KEYS, 'image')
    self.caption_key = caption_key or _find(features, _CAPTION_KEYS, 'caption')

  def __len__(self) -> int:
    return len(self._table)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns {'image': encoded bytes, 'caption': tuple of bytes}."""
    try:
      features = parse_example(self._record(index))
    except (ValueError, IndexError) as error:
      raise BadSampleError(f'a broken record ({error})', 'record') from error
    image = features.get(self.image_key) or [b'']
    captions = features.get(self.caption_key) or [b'']
    return {'image': bytes(image[0]), 'caption': tuple(map(bytes, captions))}

  def _record(self, index):
    offset, size = self._table[index].tolist()
    return self._files.read(int(self._shard[index]), offset, size)


def _find(features, keys, what):
  for key in keys:
    if key in features:
      return key
  raise ValueError(
    f'No {what} among the features {sorted(features)}: name it with '
    f'{what}_key=...'
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
