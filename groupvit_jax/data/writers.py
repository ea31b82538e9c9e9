"""Shard files of pairs, written whole or not at all."""

import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from typing import Any

from groupvit_jax.data import remote

FORMATS = ('tar', 'array_record', 'tfrecord')


def write_shard(
  folder: str,
  name: str,
  pairs: Iterable[tuple[str, str, bytes, tuple[str, ...]]],
) -> dict[str, Any]:
  """Writes a shard, under its name only when it is complete.

  Args:
    folder: a local folder or an address.
    name: ends with one of `FORMATS`.
    pairs: key, suffix of the image's format, encoded image, captions.

  Returns:
    Its `bytes` and `sha256`.

  Raises:
    OSError: it cannot be written.
  """
  form = pathlib.PurePath(name).suffix[1:]
  far = remote.is_remote(folder)
  if not far:
    os.makedirs(folder, exist_ok=True)
  descriptor, scratch = tempfile.mkstemp(
    prefix=f'.{name}.', suffix='.part', dir=None if far else folder
  )
  os.close(descriptor)
  try:
    _WRITERS[form](scratch, pairs)
    with open(scratch, 'rb+') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
      os.fsync(file.fileno())
    os.chmod(scratch, 0o644)
    size = os.path.getsize(scratch)
    if far:
      put(f'{folder}/{name}', scratch)
    else:
      os.replace(scratch, os.path.join(folder, name))
  finally:
    pathlib.Path(scratch).unlink(missing_ok=True)
  return {'bytes': size, 'sha256': digest}


def put(url: str, path: str) -> None:
  """Copies a local file to an address."""
  fs, target = remote.filesystem(url)
  fs.makedirs(target.rpartition('/')[0], exist_ok=True)
  with open(path, 'rb') as source, fs.open(target, 'wb') as out:
    shutil.copyfileobj(source, out, 8 << 20)


def _write_tar(path, pairs):
  """As img2dataset writes them; several captions are a json."""
  with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as tar:
    for key, suffix, image, captions in pairs:
      members = [(f'{key}.{suffix}', image)]
      if len(captions) == 1:
        members.append((f'{key}.txt', captions[0].encode()))
      else:
        fields = {'caption': captions[0], 'captions': captions}
        text = json.dumps(fields, ensure_ascii=False)
        members.append((f'{key}.json', text.encode()))
      for name, data in members:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _write_array_record(path, pairs):
  from groupvit_jax.data import records

  module = records.array_record()
  # Groups of one: a sample is read without its neighbours.
  writer = module.ArrayRecordWriter(path, 'group_size:1')
  for _, _, image, captions in pairs:
    writer.write(example(image, captions))
  writer.close()


def _write_tfrecord(path, pairs):
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(
      'TFRecord files are written by TensorFlow: pip install '
      "'groupvit_jax[train]', or choose --format array_record or tar"
    ) from error
  with tf.io.TFRecordWriter(path) as writer:
    for _, _, image, captions in pairs:
      writer.write(example(image, captions))


_WRITERS = {
  'tar': _write_tar,
  'array_record': _write_array_record,
  'tfrecord': _write_tfrecord,
}


def example(image: bytes, captions: tuple[str, ...]) -> bytes:
  """Serialises a tf.train.Example of the features `image` and `caption`."""
  features = {'image': [image], 'caption': [text.encode() for text in captions]}
  entries = b''
  for key, values in features.items():
    listed = b''.join(_field(1, value) for value in values)
    entries += _field(1, _field(1, key.encode()) + _field(2, _field(1, listed)))
  return _field(1, entries)


def _field(number, data):
  """A length-delimited field of a protocol buffer message."""
  head, size = bytes([number << 3 | 2]), len(data)
  while size > 0x7F:
    head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
  return head + bytes([size]) + data
