"""Finds and reads the files of a data set's folder: images, lists, JSON.

Errors name what is missing; `open_set` adds how the folder must look.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from groupvit_jax.data.images import SUFFIXES
from groupvit_jax.errors import SourceError

_T = TypeVar('_T')


def existing(folder: str | os.PathLike) -> pathlib.Path:
  """The folder as a path; SourceError where there is none."""
  path = pathlib.Path(folder).expanduser()
  if not path.is_dir():
    what = 'is no folder' if path.exists() else 'there is no such folder'
    raise SourceError(f'{path}: {what}.')
  return path


def inside(root: pathlib.Path, name: str, where: object = '') -> pathlib.Path:
  """The path of a file that a list names; it must lie in the list's folder.

  Args:
    root: the folder.
    name: of the file.
    where: it stands; the message begins with it.

  Raises:
    SourceError: the path leads out of the folder. (Links in the folder may.)
  """
  path = pathlib.Path(os.path.abspath(root / name))
  if not path.is_relative_to(os.path.abspath(root)) or '\0' in name:
    raise SourceError(
      f'{where}{": " if where else ""}{name!r} does not lie in the folder '
      f'{root}: put the image there, and write its path from there on.'
    )
  return root / name


def read_list(path: pathlib.Path) -> list[str]:
  """Names of a list, one a line (of several columns the first).

  Raises:
    SourceError: it cannot be read or names nothing.
  """
  return [line.split()[0] for _, line in numbered_lines(path)]


def numbered_lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """Lines of a list that are not empty, with their number, from 1.

  Raises:
    SourceError: it cannot be read or has no line.
  """
  try:
    text = path.read_text(encoding='utf-8-sig')
  except FileNotFoundError:
    raise SourceError(
      f'{path}: there is no such list; is the split the one you meant?'
    ) from None
  except (OSError, UnicodeDecodeError) as error:
    raise SourceError(f'{path} cannot be read as a list: {error}.') from error
  numbered = enumerate(text.splitlines(), 1)
  found = [(number, line) for number, line in numbered if line.strip()]
  if not found:
    raise SourceError(f'{path} names no image: the split is empty.')
  return found


def read_json(path: pathlib.Path, kind: Any, what: str) -> Any:
  """A JSON file as a msgspec type; messages call its content `what`.

  Raises:
    SourceError: it cannot be read, or is of another form.
  """
  try:
    return msgspec.json.decode(path.read_bytes(), type=kind)
  except (OSError, msgspec.MsgspecError, RecursionError) as error:
    raise SourceError(
      f'{path} cannot be read as {what} ({error}); download it anew.'
    ) from error


def json_lines(
  path: pathlib.Path, kind: type[_T], needs: str
) -> Iterator[tuple[int, _T]]:
  """Lines of a JSONL file as a msgspec type, with their numbers.

  Args:
    path: of the file.
    kind: the type of a line.
    needs: the form of a line, for messages.

  Raises:
    SourceError: a line of another form, or as `numbered_lines`.
  """
  for number, line in numbered_lines(path):
    try:
      yield number, msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
      raise SourceError(
        f'{path}, line {number}, needs {needs} as JSON ({error}).'
      ) from error


def files_below(
  folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()
) -> Iterator[pathlib.Path]:
  """The files in a folder and its sub-folders, sorted; links are followed.

  Hidden files do not count: tools leave .ipynb_checkpoints and ._x.jpg behind,
  which would be classes and images.

  Args:
    folder: where to look.
    above: the folders that it lies in; a link to one of them is passed over,
      since it would never end.
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


def images_below(folder: pathlib.Path) -> list[pathlib.Path]:
  """The image files in a folder and its sub-folders, sorted."""
  return [p for p in files_below(folder) if p.suffix.lower() in SUFFIXES]


def by_name(
  folder: pathlib.Path, endings: Sequence[str]
) -> dict[str, pathlib.Path]:
  """Files below a folder by their path in it, without the ending.

  Args:
    folder: searched as `files_below` does.
    endings: of the files, suffix included; in any case.

  Raises:
    SourceError: two files of one name.
  """
  found = {}
  for path in files_below(folder):
    full = path.relative_to(folder).as_posix()
    ending = next((e for e in endings if full.lower().endswith(e.lower())), '')
    if not ending:
      continue
    name = full[: -len(ending)]
    if name in found:
      raise SourceError(
        f'{found[name]} and {path} have the same name; keep one of them.'
      )
    found[name] = path
  return found


def paired(
  images: pathlib.Path,
  labels: pathlib.Path,
  image_endings: Sequence[str] = SUFFIXES,
  label_endings: Sequence[str] = ('.png',),
) -> list[tuple[str, pathlib.Path, pathlib.Path]]:
  """Images and label maps of the same names, sorted.

  A file without partner is kept, with the path where the partner should be: the
  reader of that example then says so.

  Args:
    images, labels: folders, searched with their sub-folders.
    image_endings, label_endings: what follows the name, the usual one first.

  Returns:
    (name, image, label map) of each.
  """
  left, right = by_name(images, image_endings), by_name(labels, label_endings)
  return [
    (
      name,
      left.get(name, images / f'{name}{image_endings[0]}'),
      right.get(name, labels / f'{name}{label_endings[0]}'),
    )
    for name in sorted(left.keys() | right.keys())
  ]
