"""Damage that a file may take, by name; the same seed damages the same way."""

import pathlib
import random


def _flip(path: pathlib.Path, seed: int) -> None:
  content = bytearray(path.read_bytes())
  if content:
    content[random.Random(seed).randrange(len(content))] ^= 1 << (seed % 8)
  path.write_bytes(content)


def _truncate(path: pathlib.Path, seed: int) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: random.Random(seed).randrange(len(content) or 1)])


def _fill_with_garbage(path: pathlib.Path, seed: int) -> None:
  path.write_bytes(random.Random(seed).randbytes(path.stat().st_size or 16))


KINDS = {
  'delete': lambda path, seed: path.unlink(),
  'empty': lambda path, seed: path.write_bytes(b''),
  'truncate': _truncate,
  'flip': _flip,
  'garbage': _fill_with_garbage,
}


def files(folder: pathlib.Path) -> list[pathlib.Path]:
  """All files of a folder, in order."""
  return sorted(path for path in folder.rglob('*') if path.is_file())
