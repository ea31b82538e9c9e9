"""Shared by sub-commands: arguments, messages, class names, image files."""

import argparse
import glob
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from groupvit_jax import files
from groupvit_jax.evaluation.config import RELEASED_THRESHOLD
from groupvit_jax.text import prompts

if TYPE_CHECKING:
  from groupvit_jax.inference import Model

_KNOWN = ', '.join(prompts.TEMPLATES)


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

  def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
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


def add_number(
  parser: argparse._ActionsContainer, flag: str, text: str, **more: Any
) -> None:
  """Declares an option that takes a positive number; `text` is its help."""
  parser.add_argument(flag, metavar='N', type=positive, help=text, **more)


def add_path(
  parser: argparse._ActionsContainer,
  flag: str,
  metavar: str,
  text: str,
  **more: Any,
) -> None:
  """Declares an option or argument that takes paths; `text` is its help."""
  parser.add_argument(
    flag, metavar=metavar, type=pathlib.Path, help=text, **more
  )


def add_overwrite(parser: argparse.ArgumentParser, what: str) -> None:
  """Declares --overwrite, which replaces `what`."""
  parser.add_argument(
    '--overwrite', action='store_true', help=f'replace {what}'
  )


def add_command(
  commands: Any, name: str, summary: str, examples: str, run: Any
) -> argparse.ArgumentParser:
  """Declares a command of a sub-command; returns its parser."""
  parser = commands.add_parser(
    name, help=summary, description=summary, epilog=examples
  )
  parser.set_defaults(run=run)
  return parser


MODEL = (
  'a model folder, a training workdir, any source of `groupvit convert`, or a '
  'name on the Hugging Face hub: nvidia/groupvit-gcc-yfcc (@REVISION pins it)'
)


def add_model(parser: argparse.ArgumentParser) -> None:
  """Declares the model and its batch size."""
  add_path(parser, '--model', 'MODEL', MODEL, required=True)
  text = 'images that go through the network together (default: %(default)s)'
  add_number(parser, '--batch', text, default=8)


def load(path: pathlib.Path) -> 'Model':
  """The model of --model; a note on stderr if it was trained on no photo."""
  from groupvit_jax import inference

  model = inference.load(path)
  data = model.metadata.get('data', '')
  if data.startswith('scenes'):
    text = f'{path} was trained on {data}: its labels of photos mean nothing'
    complain(text, 'note')
  return model


def add_images(
  parser: argparse.ArgumentParser, need_labels: bool = True
) -> None:
  """Declares the images that a command works on, the model and the classes."""
  parser.add_argument(
    'images',
    nargs='+',
    metavar='IMAGE',
    help="files, folders, or patterns in quotes ('photos/*.jpg')",
  )
  add_model(parser)
  add_labels(parser, need_labels)


def add_labels(parser: argparse.ArgumentParser, required: bool) -> None:
  """Declares class names; read them by `read_labels`."""
  group = parser.add_mutually_exclusive_group(required=required)
  group.add_argument(
    '--labels',
    metavar='NAMES',
    help='class names between commas; a | between names of the same class: '
    '"person|man|woman,dog"',
  )
  group.add_argument(
    '--labels-from',
    metavar='SET',
    help=f'{", ".join(LABEL_SETS)}, or a text file with a name per line; voc, '
    'context and coco have a background, voc20 and context59 have none',
  )


def add_templates(parser: argparse._ActionsContainer, default: str) -> None:
  """Declares --templates; read them by `templates`."""
  parser.add_argument(
    '--templates',
    metavar='T',
    type=_template,
    action='append',
    help=f'prompts that a name is put into: {_KNOWN} (of CLIP; tcl of TCL), or '
    'one of your own, such as "a drawing of a {}."; several '
    f'--templates are averaged (default: {default})',
  )
  parser.set_defaults(default_templates=default)


def templates(args: argparse.Namespace) -> str | list[str]:
  """The templates of a command line, as `Model.segment` takes them."""
  given = args.templates or [args.default_templates]
  return given[0] if len(given) == 1 else given


def _template(text: str) -> str:
  """An argparse type."""
  if text not in prompts.TEMPLATES and '{}' not in text:
    raise argparse.ArgumentTypeError(
      f'must be one of {_KNOWN}, or hold a {{}} where the name goes: {text!r}'
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


_LONGEST = 1000  # of a message; a label may have been a thousand words


def complain(message: str, kind: str = 'error') -> None:
  """Prints a line 'groupvit: error: ...' above a progress bar, if any."""
  line = ' '.join(message.split())
  line = line if len(line) <= _LONGEST else f'{line[:_LONGEST]}...'
  bars = sys.modules.get('tqdm')
  if bars:
    bars.tqdm.write(f'groupvit: {kind}: {line}', file=sys.stderr)
  else:
    print(f'groupvit: {kind}: {line}', file=sys.stderr)


def describe(error: Exception) -> str:
  """An error's message; of OSErrors 'FILE: No such file or directory'."""
  strerror = isinstance(error, OSError) and error.strerror
  if isinstance(error, OSError) and strerror and error.filename is not None:
    return f'{error.filename}: {strerror}'
  return strerror or str(error)


class ShownWarnings(warnings.catch_warnings):
  """Context manager: each UserWarning is printed as a line, and once."""

  def __enter__(self) -> 'ShownWarnings':
    super().__enter__()
    usual, shown = warnings.showwarning, set()

    def show(message: Any, category: type, *rest: Any, **named: Any) -> None:
      if not issubclass(category, UserWarning):
        usual(message, category, *rest, **named)
      elif str(message) not in shown:
        shown.add(str(message))
        complain(str(message), 'warning')

    warnings.showwarning = show
    return self


def each(
  images: Sequence[Any],
  function: Callable[[Sequence[Any]], Sequence[Any]],
  size: int,
) -> Iterator[tuple[Any, Any]]:
  """Calls a function on chunks, and halves a chunk that holds a bad image.

  Args:
    images: its arguments.
    function: from images to a result each; OSError or ValueError if one is bad.
    size: of a chunk.

  Yields:
    An image and its result, or the error that the image alone gave.
  """
  for start in range(0, len(images), size):
    chunk = images[start : start + size]
    try:
      results = function(chunk)
    except (OSError, ValueError) as error:
      if len(chunk) == 1:
        yield chunk[0], error
      else:
        yield from each(chunk, function, (len(chunk) + 1) // 2)
    else:
      yield from zip(chunk, results, strict=True)


class Failures:
  """Counts images that failed, and prints a line about each."""

  def __init__(self, total: int):
    self.count = 0
    self._total = total
    self._last: str | None = None

  def add(self, error: Exception) -> None:
    """Prints an error, or raises it if it is not about one image.

    Messages about images name them: the same message twice is about something
    else, such as a model that cannot segment.
    """
    text = describe(error)
    if self._total == 1 or text == self._last:
      raise error
    complain(text)
    self._last = text
    self.count += 1


# As in benchmarks/label_sets.py; here, so that --help needs no import of it.
LABEL_SETS = (
  'voc',
  'voc20',
  'context',
  'context59',
  'coco',
  'ade20k',
  'cityscapes',
)


class Labels(NamedTuple):
  """Class names, and the threshold under which a pixel is background.

  Attributes:
    names: of the classes, without the background.
    threshold: None for no background.
  """

  names: tuple[str, ...]
  threshold: float | None


def read_labels(args: argparse.Namespace) -> Labels:
  """Class names of --labels or --labels-from; no names if neither is given.

  Raises:
    ValueError: none are in it, an empty one, or one that stands twice.
  """
  if args.labels is None and args.labels_from is None:
    return Labels((), None)
  name, threshold = args.labels_from, RELEASED_THRESHOLD
  option = f'--labels-from {name}'
  if args.labels is not None:
    names, option = tuple(args.labels.split(',')), '--labels'
  elif name in LABEL_SETS:
    from groupvit_jax.benchmarks import label_sets

    threshold = label_sets.BACKGROUND_THRESHOLDS.get(name)
    names = label_sets.LABEL_SETS[name]
  elif pathlib.Path(name).exists():
    from groupvit_jax.benchmarks import label_sets

    names = label_sets.read_names(pathlib.Path(name))
  else:
    raise ValueError(
      f'{name} is no label set and no file: choose one of '
      f'{", ".join(LABEL_SETS)}, or give a text file with a name per line'
    )
  # Here as well as in the library: it costs nothing before a model loads.
  names = tuple(' '.join(name.split()) for name in names)
  if not any(names):
    raise ValueError(
      f'{option} names no class: give names between commas, as in "dog,grass"'
    )
  for name in names:
    if '' in prompts.synonyms(name):
      raise ValueError(f'{option} has an empty name in {",".join(names):.60}')
  if twice := prompts.repeated(names):
    raise ValueError(
      f'{option} has {twice[:60]!r} twice; each name may stand once'
    )
  return Labels(names, threshold)


class ImageFile(NamedTuple):
  """An image file.

  Attributes:
    path: as the user would write it.
    name: what its outputs are named after: its name, below the given folder if
      it was found in one.
  """

  path: pathlib.Path
  name: pathlib.PurePath


def find_images(
  arguments: Sequence[str],
  results: Container[pathlib.Path],
  without: pathlib.Path | None = None,
) -> list[ImageFile]:
  """Image files that files, folders (with all below them) and patterns name.

  Args:
    arguments: as given on the command line.
    results: files that earlier runs wrote; used only where they are named.
    without: a folder to leave out, as results may lie in it.

  Returns:
    Each image once, in the order of the arguments, sorted within a folder.

  Raises:
    ValueError: an argument without images, or the results' own folder.
  """
  from groupvit_jax.data.images import SUFFIXES

  images = {}
  for argument in arguments:
    named = list(_named(argument, results, without))
    if not named:
      raise ValueError(
        f'{argument} holds no images: looked for {" ".join(SUFFIXES)}'
      )
    for image in named:
      images.setdefault(os.path.realpath(image.path), image)
  return list(images.values())


def _named(
  argument: str,
  results: Container[pathlib.Path],
  without: pathlib.Path | None,
) -> Iterator[ImageFile]:
  path = files.expanded(argument)
  if path.is_dir():
    if without and path.resolve() == without.resolve():
      raise ValueError(
        f'{argument} holds the images and would get the results: choose '
        'another --out'
      )
    for inner in _image_paths(path.rglob('*'), results, without):
      yield ImageFile(inner, inner.relative_to(path))
  elif path.exists():
    yield ImageFile(path, pathlib.PurePath(path.name))
  elif glob.has_magic(argument):
    matches = glob.iglob(str(path), recursive=True)
    for inner in _image_paths(map(pathlib.Path, matches), results, without):
      yield ImageFile(inner, pathlib.PurePath(inner.name))
  else:
    raise ValueError(f'{argument}: there is no such file or folder')


def _image_paths(
  paths: Iterable[pathlib.Path],
  results: Container[pathlib.Path],
  without: pathlib.Path | None,
) -> list[pathlib.Path]:
  from groupvit_jax.data.images import SUFFIXES

  inside = without and without.resolve()
  return sorted(
    path
    for path in paths
    if path.suffix.lower() in SUFFIXES
    and not path.name.startswith('.')
    and path.is_file()
    and not (inside and path.resolve().is_relative_to(inside))
    and path not in results
  )
