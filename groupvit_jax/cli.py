"""The `groupvit` command: one small function per sub-command.

Bad input ends in one line on standard error and exit code 1 (2 for a wrong
command line, 130 for Ctrl-C), never in a stack trace.

To add a sub-command: write `_add_NAME(commands)`, which declares its arguments
and `set_defaults(run=_NAME)`; write `_NAME(args)`, which raises ValueError or
OSError with a sentence for the reader; list the first in `_COMMANDS`. Imports
that take time go inside `_NAME`.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import groupvit_jax

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_EXAMPLES = """\
examples:
  groupvit tokenizer show "a photo of a cat"
  groupvit tokenizer train --captions captions.txt --out my_tokenizer \\
    --vocab-size 8000

`groupvit COMMAND --help` explains each command.
"""

_TRAIN_EXAMPLES = """\
A FILE is text with one caption per line, or .jsonl with a "caption" (a text)
or "captions" (a list of texts) in each line's object.

examples:
  groupvit tokenizer train --captions captions.txt --out my_tokenizer \\
    --vocab-size 8000
  groupvit tokenizer train --captions a.jsonl b.jsonl --out my_tokenizer \\
    --vocab-size 32000 --model-type unigram

Use the result by its folder:
  groupvit tokenizer show "a photo of a cat" --tokenizer my_tokenizer
"""

_SHOW_EXAMPLES = """\
examples:
  groupvit tokenizer show "a photo of a cat"
  groupvit tokenizer show "ein Foto" --tokenizer my_tokenizer
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments without the program's name; by default the process's own.

  Returns:
    The exit code (a wrong command line exits at once with code 2).
  """
  args = _make_parser().parse_args(argv)
  try:
    args.run(args)
    sys.stdout.flush()
  except KeyboardInterrupt:
    return _complain('interrupted', INTERRUPTED)
  except BrokenPipeError:
    # The reader (`| head`) has what it wanted. Python would complain when it
    # flushes at exit, so the stream is pointed elsewhere (Python docs, signal).
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except OSError as error:
    return _complain(_describe(error))
  except ValueError as error:
    return _complain(str(error))
  return OK


def _complain(message: str, code: int = FAILED) -> int:
  line = ' '.join(message.split())
  print(f'groupvit: error: {line}', file=sys.stderr)
  return code


def _describe(error: OSError) -> str:
  """'FILE: No such file or directory' instead of '[Errno 2] ...'."""
  if error.strerror and error.filename is not None:
    return f'{error.filename}: {error.strerror}'
  return error.strerror or str(error)


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='groupvit',
    description='Segmentation that emerges from text supervision.',
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--version', action='version', version=f'groupvit {_version()}'
  )
  commands = _add_group(parser)
  for add in _COMMANDS:
    add(commands)
  return parser


def _version() -> str:
  return getattr(groupvit_jax, '__version__', 'unknown')


def _add_group(parser: argparse.ArgumentParser):
  """Makes room for sub-commands, one of which is required."""
  return parser.add_subparsers(metavar='COMMAND', required=True)


def _add_command(commands, name: str, summary: str, epilog: str = ''):
  """Adds a sub-command whose help ends with examples."""
  return commands.add_parser(
    name,
    help=summary,
    description=summary,
    epilog=epilog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def _add_tokenizer(commands) -> None:
  group = _add_group(
    _add_command(commands, 'tokenizer', 'train or look at a tokenizer')
  )
  _add_tokenizer_train(group)
  _add_tokenizer_show(group)


def _add_tokenizer_train(commands) -> None:
  parser = _add_command(
    commands, 'train', 'train a tokenizer from captions', _TRAIN_EXAMPLES
  )
  parser.add_argument(
    '--captions',
    required=True,
    nargs='+',
    metavar='FILE',
    type=pathlib.Path,
    help='text or .jsonl files',
  )
  parser.add_argument(
    '--out',
    required=True,
    metavar='DIR',
    type=pathlib.Path,
    help='folder for tokenizer.model',
  )
  parser.add_argument(
    '--vocab-size',
    required=True,
    metavar='N',
    type=_positive,
    help='rows of the text embedding, start and end marks included',
  )
  parser.add_argument(
    '--model-type',
    choices=('bpe', 'unigram'),
    default='bpe',
    help='default: %(default)s',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace a tokenizer in DIR'
  )
  parser.set_defaults(run=_tokenizer_train)


def _tokenizer_train(args: argparse.Namespace) -> None:
  from groupvit_jax.text import sentencepiece

  target = args.out / sentencepiece.MODEL_NAME
  if target.exists() and not args.overwrite:
    raise ValueError(
      f'{target} exists: choose another --out, or replace it with --overwrite'
    )
  for path in args.captions:
    # Found out now and not after an hour of reading the files before it.
    path.open('rb').close()
  captions = (
    caption
    for path in args.captions
    for caption in sentencepiece.read_captions(path)
  )
  model = sentencepiece.train_sentencepiece(
    captions, target.with_suffix(''), args.vocab_size, args.model_type
  )
  print(f'{model}: {args.vocab_size} ids ({args.model_type})')


def _add_tokenizer_show(commands) -> None:
  parser = _add_command(
    commands, 'show', 'show the tokens of a text', _SHOW_EXAMPLES
  )
  parser.add_argument('text', help='any text, in quotes')
  parser.add_argument(
    '--tokenizer',
    default='clip',
    metavar='NAME',
    help="'clip', a .model file or a trained folder (default: %(default)s)",
  )
  parser.add_argument(
    '--context-length',
    type=_positive,
    default=77,
    metavar='L',
    help='ids that a model reads (default: %(default)s)',
  )
  parser.set_defaults(run=_tokenizer_show)


def _tokenizer_show(args: argparse.Namespace) -> None:
  from groupvit_jax.text import tokenizer

  tok = tokenizer.make_tokenizer(args.tokenizer, args.context_length)
  row = tok(args.text)[0].tolist()
  ids = row[: row.index(tok.eot_id) + 1]
  for token_id, piece in zip(ids, tok.pieces(ids), strict=True):
    print(f'{token_id:>6}  {piece}')
  cut = len(tok.encode(args.text)) - (len(ids) - 2)
  lost = f', {cut} more cut off' if cut else ''
  print(
    f'{len(ids)} of {tok.context_length} ids{lost}; vocabulary {tok.vocab_size}'
  )


def _positive(text: str) -> int:
  """An argparse type; its name never shows, the message does."""
  try:
    value = int(text)
  except ValueError:
    value = 0
  if value < 1:
    raise argparse.ArgumentTypeError(f'must be a positive number: {text!r}')
  return value


_COMMANDS = (_add_tokenizer,)


if __name__ == '__main__':
  sys.exit(main())
