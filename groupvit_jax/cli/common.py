"""What the arguments of several sub-commands have in common."""

import argparse
import glob
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from groupvit_jax import files

# As text/prompts.py has them; here for a --help that starts at once.
_TEMPLATES = ('simple', 'subset', 'full', 'tcl')


class Parser(argparse.ArgumentParser):
  """Parser that prints examples as they are, and errors in one line.

  Attributes:
    current: the sub-command's parser, which reports unknown options.
  """

  current: argparse.ArgumentParser | None = None

  def __init__(self, **options: Any):
    super().__init__(
      formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )

  def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
    """As argparse does it, but the sub-command names unknown options."""
    parsed, unknown = self.parse_known_args(args, namespace)
    if unknown:
      parser = self.current or self
      parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    return parsed

  def error(self, message: str) -> NoReturn:
    """Exits with code 2."""
    text = f'{self.prog}: error: {message}; see `{self.prog} --help`\n'
    self.exit(2, text)


def add_pictures(parser: argparse.ArgumentParser) -> None:
  """The pictures that a command works on."""
  parser.add_argument(
    'pictures',
    nargs='+',
    metavar='PICTURE',
    help="files, folders, or patterns in quotes ('photos/*.jpg')",
  )


def add_model(parser: argparse.ArgumentParser) -> None:
  """The model, and how many pictures it sees at a time."""
  parser.add_argument(
    '--model',
    required=True,
    metavar='DIR',
    type=pathlib.Path,
    help='a model folder, a training workdir, or any source of `groupvit '
    'convert`',
  )
  parser.add_argument(
    '--batch',
    type=positive,
    default=8,
    metavar='N',
    help='pictures that go through the network together (default: %(default)s)',
  )


def add_templates(parser, default: str) -> None:
  """The prompts that a name is put into; read them by `templates`."""
  parser.add_argument(
    '--templates',
    metavar='T',
    type=_template,
    action='append',
    help=f'prompts that a name is put into: {", ".join(_TEMPLATES)} (of CLIP; '
    'tcl of TCL), or one of your own, such as "a drawing of a {}."; several '
    f'--templates are averaged (default: {default})',
  )
  parser.set_defaults(default_templates=default)


def templates(args: argparse.Namespace) -> str | list[str]:
  """The templates of a command line, as `Model.segment` takes them."""
  given = args.templates or [args.default_templates]
  return given[0] if len(given) == 1 else given


def _template(text: str) -> str:
  """An argparse type."""
  if text not in _TEMPLATES and '{}' not in text:
    raise argparse.ArgumentTypeError(
      f'must be one of {", ".join(_TEMPLATES)}, or hold a {{}} where the name '
      f'goes: {text!r}'
    )
  return text


def positive(text: str) -> int:
  """An argparse type; its name never shows, the message does."""
  try:
    value = int(text)
  except ValueError:
    value = 0
  if value < 1:
    raise argparse.ArgumentTypeError(f'must be a positive number: {text!r}')
  return value


# What a command says on standard error: always in one line.

_LONGEST = 1000  # longer lines are cut: a label may have been a thousand words


def complain(message: str, kind: str = 'error') -> None:
  """Prints 'groupvit: error: ...', above a progress bar if there is one."""
  line = ' '.join(message.split())
  line = line if len(line) <= _LONGEST else f'{line[:_LONGEST]}...'
  bars = sys.modules.get('tqdm')
  if bars:
    bars.tqdm.write(f'groupvit: {kind}: {line}', file=sys.stderr)
  else:
    print(f'groupvit: {kind}: {line}', file=sys.stderr)


def describe(error: OSError) -> str:
  """'FILE: No such file or directory' instead of '[Errno 2] ...'."""
  if error.strerror and error.filename is not None:
    return f'{error.filename}: {error.strerror}'
  return error.strerror or str(error)


class ShownWarnings(warnings.catch_warnings):
  """Context manager; inside it a UserWarning is a line, and told once."""

  def __enter__(self) -> 'ShownWarnings':
    super().__enter__()
    usual, told = warnings.showwarning, set()

    def show(message, category, *rest, **named):
      if not issubclass(category, UserWarning):
        usual(message, category, *rest, **named)
      elif str(message) not in told:
        told.add(str(message))
        complain(str(message), 'warning')

    warnings.showwarning = show
    return self


# Asks a model about many pictures, going on where one of them is bad.

_ERRORS = (OSError, ValueError)


def each(
  pictures: Sequence[Any],
  ask: Callable[[Sequence[Any]], Sequence[Any]],
  size: int,
) -> Iterator[tuple[Any, Any]]:
  """Asks in chunks, and of a chunk with a bad picture, in halves.

  Args:
    pictures: to ask about.
    ask: from pictures to an answer each; OSError or ValueError if one is bad.
    size: of a chunk.

  Yields:
    A picture and its answer, or the error that asking about it alone gave.
  """
  for start in range(0, len(pictures), size):
    yield from _chunk(pictures[start : start + size], ask)


def _chunk(pictures, ask):
  try:
    answers = ask(pictures)
  except _ERRORS as error:
    if len(pictures) == 1:
      yield pictures[0], error
      return
    half = len(pictures) // 2
    yield from _chunk(pictures[:half], ask)
    yield from _chunk(pictures[half:], ask)
  else:
    yield from zip(pictures, answers, strict=True)


class Failures:
  """Counts pictures that failed, and tells of each in a line."""

  def __init__(self, total: int):
    self.count = 0
    self._total = total
    self._last = None

  def add(self, error: OSError | ValueError) -> None:
    """Tells of an error, and raises it where it is not about one picture.

    Messages about pictures name them: the same words twice are about something
    else, as of a model that cannot segment.
    """
    text = str(error)
    if isinstance(error, OSError):
      text = describe(error)
    if self._total == 1 or text == self._last:
      raise error
    complain(text)
    self._last = text
    self.count += 1


# The class names of a command line: written out, a label set, or a file.

# As data/label_sets.py has them; here for a --help that starts at once.
SETS = ('voc', 'voc20', 'context', 'context59', 'coco', 'ade20k', 'cityscapes')
_RELEASED = 0.95  # the threshold for VOC and COCO, and of the demo


class Labels(NamedTuple):
  """Class names, and the threshold under which a pixel is background.

  Attributes:
    names: of the classes, without the background.
    threshold: None for no background.
  """

  names: tuple[str, ...]
  threshold: float | None


def add(parser: argparse.ArgumentParser) -> None:
  """Declares --labels and --labels-from, one of which is required."""
  group = parser.add_mutually_exclusive_group(required=True)
  group.add_argument(
    '--labels',
    metavar='NAMES',
    help='class names between commas; a | between names of the same class: '
    '"person|man|woman,dog"',
  )
  group.add_argument(
    '--labels-from',
    metavar='SET',
    help=f'{", ".join(SETS)}, or a text file with a name per line; voc, '
    'context and coco have a background, voc20 and context59 have none',
  )


def read(args: argparse.Namespace) -> Labels:
  """The names that a command line asks for.

  Raises:
    ValueError: none, an empty one, or one that stands twice.
  """
  if args.labels is not None:
    names = tuple(' '.join(name.split()) for name in args.labels.split(','))
    threshold = _RELEASED
    option = '--labels'
  else:
    names, threshold = _read_set(args.labels_from)
    option = f'--labels-from {args.labels_from}'
  _check(names, option)
  return Labels(names, threshold)


def _read_set(name: str) -> tuple[tuple[str, ...], float | None]:
  from groupvit_jax.benchmarks import label_sets

  if name in SETS:
    threshold = label_sets.BACKGROUND_THRESHOLDS.get(name)
    return label_sets.LABEL_SETS[name], threshold
  path = pathlib.Path(name)
  if not path.exists():
    raise ValueError(
      f'{name} is no label set and no file: choose one of {", ".join(SETS)}, '
      'or give a text file with a name per line'
    )
  return label_sets.read_names(path), _RELEASED


def _check(names: tuple[str, ...], option: str) -> None:
  """Here as well as in the library: it costs nothing before a model loads."""
  if not any(names):
    raise ValueError(
      f'{option} names no class: give names between commas, as in "dog,grass"'
    )
  seen = set()
  for name in names:
    for word in name.split('|'):
      key = ' '.join(word.split()).lower()
      if not key:
        raise ValueError(f'{option} has an empty name: {_around(names, name)}')
      if key in seen:
        raise ValueError(
          f'{option} has {key[:60]!r} twice; each name may stand once'
        )
      seen.add(key)


def _around(names: tuple[str, ...], name: str) -> str:
  if name:
    return f'a part of {name[:60]!r} is empty'
  place = names.index(name)
  return f'after {names[place - 1][:60]!r}' if place else 'at the beginning'


# Finds the pictures that a command line means.

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
