"""Finds pictures, label maps and lists in a data set's folder.

Errors name what is missing; `open_set` adds how the folder must look.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from groupvit_jax.errors import SourceError

PICTURES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')


def root_of(
  folder: str | os.PathLike,
  wanted: Sequence[str],
  nested: Sequence[str] = (),
) -> pathlib.Path:
  """The folder that holds what is wanted: the one named, or one in it.

  Args:
    folder: what the user named.
    wanted: sub-folders or files that must be there.
    nested: where else to look below it, as archives unpack.

  Raises:
    SourceError: none holds all of it.
  """
  folder = existing(folder)
  for place in (folder, *(folder / part for part in nested)):
    if all((place / part).exists() for part in wanted):
      return place
  absent = [part for part in wanted if not (folder / part).exists()]
  raise SourceError(f'{folder} has no {" and no ".join(absent)}.')


def existing(folder: str | os.PathLike) -> pathlib.Path:
  """The folder as a path; SourceError where there is none."""
  path = pathlib.Path(folder).expanduser()
  if not path.is_dir():
    what = 'is no folder' if path.exists() else 'there is no such folder'
    raise SourceError(f'{path}: {what}.')
  return path


def read_list(path: pathlib.Path) -> list[str]:
  """Names of a list, one a line (of more columns the first counts).

  Raises:
    SourceError: it cannot be read or names nothing.
  """
  return [line.split()[0] for line in lines(path)]


def lines(path: pathlib.Path) -> list[str]:
  """The lines of a list, without empty ones; errors as `read_list`."""
  return [line for _, line in numbered_lines(path)]


def numbered_lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """`lines`, each with its number in the file, as an editor counts: from 1."""
  try:
    text = path.read_text(encoding='utf-8-sig')
  except FileNotFoundError:
    raise SourceError(
      f'{path}: there is no such list; is it the split that was meant?'
    ) from None
  except (OSError, UnicodeDecodeError) as error:
    raise SourceError(f'{path} cannot be read as a list: {error}.') from error
  numbered = enumerate(text.splitlines(), 1)
  found = [(number, line) for number, line in numbered if line.strip()]
  if not found:
    raise SourceError(f'{path} names no picture: the split is empty.')
  return found


def picture_in(root: pathlib.Path, image: Any) -> pathlib.Path:
  """The picture that a list in a folder names by its path there.

  Raises:
    TypeError: it is no text.
    ValueError: an absolute path that leads out of the folder.
  """
  path = root / image
  if not path.is_relative_to(root):
    raise ValueError(
      f'{image!r} does not lie in the folder {root}: put the picture there, '
      'and write its path from there on'
    )
  return path


def files_below(
  folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()
) -> Iterator[pathlib.Path]:
  """The files in a folder and its sub-folders, sorted; links are followed.

  What is hidden does not count: tools leave .ipynb_checkpoints and ._x.jpg
  behind, which would be classes and pictures.

  Args:
    folder: where to look.
    above: the folders that it lies in; a link to one of them leads nowhere new
      and is passed over, as it would never end.
  """
  here = folder.resolve()
  if here in above:
    return
  for path in sorted(folder.iterdir()):
    if path.name.startswith('.'):
      continue
    if path.is_dir():
      yield from files_below(path, (*above, here))
    else:
      yield path


def by_stem(
  folder: pathlib.Path,
  suffixes: Sequence[str],
  ending: str = '',
) -> dict[str, pathlib.Path]:
  """Files below a folder by their path in it, without `ending` and suffix.

  Args:
    folder: searched as `files_below` does.
    suffixes: of the files, in lower case.
    ending: what the names end in before the suffix.

  Raises:
    SourceError: two files of one name.
  """
  found = {}
  for path in files_below(folder):
    if path.suffix.lower() not in suffixes:
      continue
    stem = path.relative_to(folder).with_suffix('').as_posix()
    if not stem.endswith(ending):
      continue
    name = stem[: len(stem) - len(ending)]
    if name in found:
      raise SourceError(
        f'{found[name]} and {path} have the same name; keep one of them.'
      )
    found[name] = path
  return found


def paired(
  pictures: pathlib.Path,
  truths: pathlib.Path,
  *,
  picture_ending: str = '',
  truth_ending: str = '',
  picture_suffixes: Sequence[str] = PICTURES,
  truth_suffixes: Sequence[str] = ('.png',),
) -> list[tuple[str, pathlib.Path, pathlib.Path]]:
  """Pictures and label maps of the same names, sorted.

  What has no partner is kept, with the path where the partner should be: the
  reader of that example then says so.

  Args:
    pictures, truths: folders, searched with their sub-folders.
    picture_ending, truth_ending: what names end in before the suffix.
    picture_suffixes, truth_suffixes: of files, the usual one first.

  Returns:
    (name, picture, label map) of each.

  Raises:
    SourceError: there is none at all.
  """
  left = by_stem(pictures, picture_suffixes, picture_ending)
  right = by_stem(truths, truth_suffixes, truth_ending)
  if not left and not right:
    raise SourceError(
      f'{pictures} and {truths} hold no picture and no label map: the split is '
      'empty.'
    )

  def expected(name):
    picture = f'{name}{picture_ending}{picture_suffixes[0]}'
    truth = f'{name}{truth_ending}{truth_suffixes[0]}'
    return pictures / picture, truths / truth

  return [
    (
      name,
      left.get(name, expected(name)[0]),
      right.get(name, expected(name)[1]),
    )
    for name in sorted(left.keys() | right.keys())
  ]
