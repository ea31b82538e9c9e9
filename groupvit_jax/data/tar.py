"""Random access to image-caption pairs in tar shards.

Reads the shards of img2dataset and webdataset: headers once into an index,
then one pread per image, without pipes and pickles.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int64

from groupvit_jax.data import remote, shards
from groupvit_jax.data.images import SUFFIXES, BadSampleError
from groupvit_jax.data.paths import Patterns

IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
BLOCK = tarfile.BLOCKSIZE

_CAPTIONS = ('txt', 'text', 'json')
# Larger members are no captions, and no headers.
_MAX_CAPTION_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
_COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')


class TarSource(shards.ShardSource):
  """Image-caption pairs of tar shards.

  Fields: as ShardSource.
  """

  kind = 'pairs'

  def __init__(
    self,
    patterns: Patterns,
    name: str | None = None,
    cache: remote.ShardCache | None = None,
  ):
    """Opens shards (see ShardSource).

    Raises:
      FileNotFoundError: no shard; the message says how to prepare the data.
      ValueError: no shard can be read, or they hold no pair.
    """
    super().__init__(patterns, name, cache)
    if not len(self):
      raise ValueError(
        f'{self.name}: {len(self.paths)} shards hold no pair of an image '
        f'({", ".join(IMAGES)}) and a caption ({", ".join(_CAPTIONS)}) under '
        'one key. A key ends at the first dot: a.input.jpg has the key a and '
        'no image.'
      )

  def scan(self, path: str) -> Int64[np.ndarray, 'n 5']:
    """See the function `scan`."""
    return scan(path)

  def sample(self, shard: int, row: list[int]) -> dict[str, Any]:
    """Reads a pair.

    Raises:
      BadSampleError: a member is too large, or JSON without a caption.
    """
    image_at, image_size, caption_at, caption_size, is_json = row
    if image_size > shards.MAX_IMAGE_BYTES:
      raise BadSampleError(
        f'the image has {image_size:,} bytes, more than '
        f'{shards.MAX_IMAGE_BYTES:,}',
        'image_size',
      )
    if caption_size > _MAX_CAPTION_BYTES:
      raise BadSampleError(
        f'the caption has {caption_size:,} bytes, more than '
        f'{_MAX_CAPTION_BYTES:,}',
        'caption',
      )
    image = self.read(shard, image_at * BLOCK, image_size)
    caption = self.read(shard, caption_at * BLOCK, caption_size)
    return {
      'image': image,
      'caption': _caption(caption) if is_json else caption,
    }

  def describe(self, index: int) -> str:
    """Names a sample by its shard and the member with its image."""
    shard, row = self._row(index)
    try:
      header = self.read(shard, (row[0] - 1) * BLOCK, BLOCK)
      member = tarfile.TarInfo.frombuf(header, 'utf-8', 'replace').name
    except (TypeError, tarfile.TarError):  # absent, or the shard has changed
      return super().describe(index)
    return f'{self.paths[shard]}: {member!r}'


def _caption(data):
  """The caption of a JSON member, or its captions."""
  try:
    fields = json.loads(data)
  except (ValueError, RecursionError) as error:
    reason = 'nested too deeply' if isinstance(error, RecursionError) else error
    raise BadSampleError(
      f'the json does not parse ({reason})', 'record'
    ) from None
  fields = fields if isinstance(fields, dict) else {}
  several = fields.get('captions')
  if isinstance(several, list) and several:
    texts = several
  else:
    texts = [fields.get('caption') or fields.get('text')]
  if not all(isinstance(text, str) for text in texts):
    raise BadSampleError('the json has no "caption" or "text"', 'record')
  return tuple(texts) if len(texts) > 1 else texts[0]


def scan(path: str) -> Int64[np.ndarray, 'n 5']:
  """Indexes the pairs of one tar shard.

  Returns:
    For each pair the 512-byte block where the image starts, its size in
    bytes, the same of the caption, and whether that is JSON.

  Raises:
    ValueError: see `members`.
  """
  rows, unpaired, dotted = [], 0, 0
  for parts in samples(path):
    image = next((parts[e] for e in IMAGES if e in parts), None)
    kind = next((e for e in _CAPTIONS if e in parts), None)
    if image and kind:
      rows.append((*image, *parts[kind], kind == 'json'))
      continue
    unpaired += 1
    ends = [suffix.rpartition('.') for suffix in parts]
    dotted += any(dot and end in IMAGES + _CAPTIONS for _, dot, end in ends)
  if unpaired:
    logging.warning(
      '%s: %d samples lack an image or a caption and are left out%s',
      path,
      unpaired,
      f'; {dotted} of them have a dot inside their names (a.input.jpg), and a '
      'key ends at the first dot: rename them'
      if dotted
      else '',
    )
  return np.array(rows, np.int64).reshape(-1, 5)


def samples(path: str) -> Iterator[dict[str, tuple[int, int]]]:
  """Walks the samples of a tar: neighbours whose names differ in suffix alone.

  Yields:
    (block, size) by suffix in lower case, without its dot.

  Raises:
    ValueError: see `members`.
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


class _HeaderFile(io.FileIO):
  """Reads no more than a header at a time, whatever size a tar claims."""

  def read(self, size: int | None = -1, /) -> bytes:
    if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
      raise tarfile.ReadError(f'a header of {size} bytes')
    return super().read(size)


def members(path: str) -> Iterator[tuple[str, int, int]]:
  """Walks the regular files of an uncompressed tar.

  Yields:
    (name, block where its data starts, size in bytes). A member that the end
    of the file cuts ends the walk with a warning.

  Raises:
    ValueError: the file is no tar, or its headers lie; the message names it.
  """
  end, at = os.path.getsize(path), 0
  try:
    with (
      _HeaderFile(path) as file,
      tarfile.open(
        fileobj=file, mode='r:', encoding='utf-8', errors='replace'
      ) as tar,
    ):
      # A file may end within the padding of its last member.
      while tar.offset <= end and (member := tar.next()) is not None:
        # It keeps all of them, and a shard has thousands.
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
        if member.size < 0 or tar.offset <= at:
          raise ValueError(f'a member of {member.size} bytes')
        at = tar.offset
        if member.offset_data + member.size > end:
          logging.warning('%s is cut short; its last sample is left out', path)
          return
        if member.isreg() and not member.issparse():
          yield member.name, member.offset_data // BLOCK, member.size
      file.seek(min(tar.offset, end))  # where tarfile stopped, without an error
      tail = file.read(BLOCK)
      if len(tail) == BLOCK and tail.strip(b'\0'):
        raise ValueError('no header where there should be one')
  except OSError:
    raise
  except Exception as error:  # tarfile raises many things on broken headers
    with open(path, 'rb') as file:
      if file.read(8).startswith(_COMPRESSED):
        raise ValueError(
          f'{path} is compressed: unpack it (gunzip) for random access.'
        ) from None
    raise ValueError(
      f'{path} is not an uncompressed tar, or is broken after byte {at} '
      f'({error or type(error).__name__}).'
    ) from error
