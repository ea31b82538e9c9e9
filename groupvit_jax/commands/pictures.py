"""Finds the pictures that a command line means."""

import glob
import os
import pathlib
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from groupvit_jax import files

_SUFFIXES = tuple(
  f'.{kind}'
  for kind in (
    *('jpg', 'jpeg', 'jfif', 'png', 'webp', 'gif', 'bmp', 'tif', 'tiff'),
    *('ppm', 'pgm', 'jp2', 'avif'),
  )
)


class Picture(NamedTuple):
  """A picture file.

  Attributes:
    path: as the user would write it.
    name: what its outputs are named after: its name, below the given folder if
      it was found in one.
  """

  path: pathlib.Path
  name: pathlib.PurePath


def find(
  arguments: Sequence[str],
  results: Container[pathlib.Path],
  without: pathlib.Path | None = None,
) -> list[Picture]:
  """Pictures of files, folders (with all below them) and patterns.

  Args:
    arguments: as given on the command line.
    results: what earlier runs wrote, which is meant only where it is named.
    without: a folder whose contents are not meant, as results may lie in it.

  Returns:
    Each picture once, in the order of the arguments, sorted within a folder.

  Raises:
    ValueError: an argument that means no picture, or the results' own folder.
  """
  found = {}
  for argument in arguments:
    pictures = list(_meant(argument, results, without))
    if not pictures:
      raise ValueError(f'{argument} holds no pictures: {_known()}')
    for picture in pictures:
      found.setdefault(os.path.realpath(picture.path), picture)
  return list(found.values())


def _meant(argument: str, results, without) -> Iterator[Picture]:
  path = files.expanded(argument)
  if path.is_dir():
    if without and path.resolve() == without.resolve():
      raise ValueError(
        f'{argument} has the pictures and would get the results: choose '
        'another --out'
      )
    for inner in _pictures(path.rglob('*'), results, without):
      yield Picture(inner, inner.relative_to(path))
  elif path.exists():
    yield Picture(path, pathlib.PurePath(path.name))
  elif glob.has_magic(argument):
    matches = glob.iglob(str(path), recursive=True)
    for inner in _pictures(map(pathlib.Path, matches), results, without):
      yield Picture(inner, pathlib.PurePath(inner.name))
  else:
    raise ValueError(f'{argument}: there is no such file or folder')


def _pictures(
  paths: Iterable[pathlib.Path], results, without
) -> list[pathlib.Path]:
  inside = without and without.resolve()
  return sorted(
    path
    for path in paths
    if path.suffix.lower() in _SUFFIXES
    and not path.name.startswith('.')
    and path.is_file()
    and not (inside and path.resolve().is_relative_to(inside))
    and path not in results
  )


def _known() -> str:
  return f'looked for {" ".join(_SUFFIXES)}'
