"""Random access to image-caption pairs in tar shards.

The shards of img2dataset and webdataset, read without either: headers once
into an index, then one pread per image, no pipe and no pickle.
"""

import json
import os

import numpy as np
from absl import logging

from groupvit_jax.data import images, shards

IMAGES = ('jpg', 'jpeg', 'png', 'webp')
_CAPTIONS = ('txt', 'text', 'json')
BLOCK = 512
# A caption member larger than this is no caption.
_MAX_CAPTION_BYTES = 1 << 20


class TarSource:
  """Image-caption pairs of tar shards.

  Fields:
    name: what messages call it.
    paths: the shards.
  """

  def __init__(self, patterns, name=None):
    """Opens shards.

    Args:
      patterns: path or pattern (`{00000..00436}.tar`, `*.tar`), or a list.
      name: what messages call it; by default the patterns.

    Raises:
      FileNotFoundError: no shard; the message says how to prepare the data.
      ValueError: the shards hold no pair.
    """
    self.paths = shards.expand(patterns)
    self.name = name or _short(patterns)
    self._shard, self._table = shards.build_index(self.paths, scan, 'pairs')
    if not len(self._table):
      raise ValueError(
        f'{self.name}: {len(self.paths)} shards hold no pair of an image '
        f'({", ".join(IMAGES)}) and a caption ({", ".join(_CAPTIONS)}) under '
        'one key.'
      )
    self._files = shards.Files(self.paths)

  def __len__(self):
    return len(self._table)

  def __getitem__(self, index):
    """Returns {'image': encoded bytes, 'caption': str}."""
    shard, row = self._shard[index], self._table[index].tolist()
    image_at, image_size, caption_at, caption_size, is_json = row
    image = self._files.read(shard, image_at * BLOCK, image_size)
    caption = self._files.read(
      shard, caption_at * BLOCK, min(caption_size, _MAX_CAPTION_BYTES)
    )
    return {'image': image, 'caption': _text(caption, is_json)}


def _short(patterns):
  if isinstance(patterns, (str, os.PathLike)):
    return os.fspath(patterns)
  return ', '.join(map(os.fspath, patterns))


def _text(caption, is_json):
  if not is_json:
    return caption.decode('utf-8', 'replace')
  try:
    fields = json.loads(caption)
  except ValueError as error:
    raise images.BadSampleError(f'the json does not parse ({error})') from error
  text = None
  if isinstance(fields, dict):
    text = fields.get('caption') or fields.get('text')
  if not isinstance(text, str):
    raise images.BadSampleError('the json has no "caption" or "text"')
  return text


def scan(path):
  """Indexes the pairs of one tar shard.

  Args:
    path: of the shard.

  Returns:
    int64 [n, 5]: for each pair the 512-byte block where the image starts, its
    size in bytes, the same of the caption, and whether that is JSON.
  """
  rows, unpaired = [], 0
  for parts in samples(path):
    image = next((parts[e] for e in IMAGES if e in parts), None)
    kind = next((e for e in _CAPTIONS if e in parts), None)
    if image and kind:
      rows.append((*image, *parts[kind], kind == 'json'))
    else:
      unpaired += 1
  if unpaired:
    logging.warning(
      '%s: %d samples lack an image or a caption and are left out',
      path,
      unpaired,
    )
  return np.array(rows, np.int64).reshape(-1, 5)


def samples(path):
  """Walks the samples of a tar: neighbours whose names differ in suffix alone.

  Args:
    path: of the tar.

  Yields:
    dict of (block, size) by suffix in lower case, without its dot.

  Raises:
    ValueError: the file is no tar.
  """
  key, parts = None, {}
  for name, block, size in members(path):
    folder, slash, base = name.rpartition('/')
    stem, dot, extension = base.partition('.')
    if not stem or not dot:
      continue
    extension = extension.lower()
    if folder + slash + stem != key or extension in parts:
      if parts:
        yield parts
      key, parts = folder + slash + stem, {}
    parts[extension] = (block, size)
  if parts:
    yield parts


def members(path):
  """Walks the regular files of an uncompressed tar (POSIX.1-2001, GNU).

  Args:
    path: of the tar.

  Yields:
    (name, block where its data starts, size in bytes). A member that the end
    of the file cuts ends the walk with a warning.

  Raises:
    ValueError: the file is no tar.
  """
  end = os.path.getsize(path)
  with open(path, 'rb', buffering=0) as file:
    at, extra = 0, {}
    while at + BLOCK <= end:
      header = os.pread(file.fileno(), BLOCK, at)
      if not header.strip(b'\0'):
        return
      size = _header_size(header, path, at)
      kind = header[156:157]
      size = extra.get('size', size) if kind not in b'xgLK' else size
      data = at + BLOCK
      at = data + -(-size // BLOCK) * BLOCK
      if data + size > end:
        break
      if kind in (b'L', b'x'):
        value = os.pread(file.fileno(), size, data)
        extra.update(_long_name(value) if kind == b'L' else _pax(value))
      elif kind in (b'g', b'K'):
        pass
      else:
        if kind in b'0\x007':
          yield extra.get('path') or _name(header), data // BLOCK, size
        extra = {}
    else:
      return
  logging.warning('%s is cut short; its last sample is left out', path)


def _header_size(header, path, at):
  field = header[124:136]
  if header[257:262] != b'ustar' and at == 0 and header[:2] == b'\x1f\x8b':
    raise ValueError(f'{path} is compressed: gunzip it for random access.')
  try:
    if field[0] & 0x80:  # GNU: too large for octal digits
      return int.from_bytes(field, 'big') & ((1 << 88) - 1)
    return int(field.rstrip(b'\0 ').lstrip() or b'0', 8)
  except ValueError as error:
    raise ValueError(
      f'{path} is not an uncompressed tar, or is broken at byte {at}.'
    ) from error


def _name(header):
  name = header[:100].split(b'\0', 1)[0]
  if header[257:263] == b'ustar\0':
    prefix = header[345:500].split(b'\0', 1)[0]
    name = prefix + b'/' + name if prefix else name
  return name.decode('utf-8', 'replace')


def _long_name(value):
  return {'path': value.split(b'\0', 1)[0].decode('utf-8', 'replace')}


def _pax(value):
  """Path and size of an extended header ("length key=value\\n" records)."""
  found, at = {}, 0
  while at < len(value):
    length = int(value[at : value.index(b' ', at)])
    record = value[at : at + length].split(b' ', 1)[1].rstrip(b'\n')
    key, _, text = record.partition(b'=')
    if key == b'path':
      found['path'] = text.decode('utf-8', 'replace')
    elif key == b'size':
      found['size'] = int(text)
    at += max(length, 1)
  return found
