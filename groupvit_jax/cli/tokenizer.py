"""`groupvit tokenizer`: trains a tokenizer from captions, or shows its work."""

import argparse

from groupvit_jax.cli import common

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the sub-command's own commands."""
  group = parser.add_subparsers(metavar='COMMAND', required=True)
  summary = 'train a tokenizer'
  _add_train(
    common.add_command(group, 'train', summary, _TRAIN_EXAMPLES, _train)
  )
  summary = 'show the tokens of a text'
  _add_show(common.add_command(group, 'show', summary, _SHOW_EXAMPLES, _show))


def _add_train(parser: argparse.ArgumentParser) -> None:
  common.add_path(
    parser, '--captions', 'FILE', 'text or .jsonl', required=True, nargs='+'
  )
  common.add_path(
    parser, '--out', 'DIR', 'folder for tokenizer.model', required=True
  )
  common.add_number(
    parser,
    '--vocab-size',
    'rows of the text embedding, start and end marks included',
    required=True,
  )
  parser.add_argument(
    '--model-type',
    choices=('bpe', 'unigram'),
    default='bpe',
    help='default: %(default)s',
  )
  common.add_overwrite(parser, 'a tokenizer in DIR')


def _train(args: argparse.Namespace) -> None:
  from groupvit_jax.text import sentencepiece

  target = args.out / sentencepiece.MODEL_NAME
  if target.exists() and not args.overwrite:
    raise ValueError(
      f'{target} exists: choose another --out, or replace it with --overwrite'
    )
  for path in args.captions:
    # Fails now, not after an hour of reading the files before it.
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


def _add_show(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('text', help='any text, in quotes')
  parser.add_argument(
    '--tokenizer',
    default='clip',
    metavar='NAME',
    help="'clip', a .model file or a trained folder (default: %(default)s)",
  )
  text = 'ids that a model reads (default: %(default)s)'
  common.add_number(parser, '--context-length', text, default=77)


def _show(args: argparse.Namespace) -> None:
  from groupvit_jax.text import make_tokenizer

  tok = make_tokenizer(args.tokenizer, args.context_length)
  row = tok(args.text)[0].tolist()
  ids = row[: row.index(tok.eot_id) + 1]
  for token_id, piece in zip(ids, tok.pieces(ids), strict=True):
    print(f'{token_id:>6}  {piece}')
  cut = len(tok.encode(args.text)) - (len(ids) - 2)
  lost = f', {cut} more cut off' if cut else ''
  print(
    f'{len(ids)} of {tok.context_length} ids{lost}; vocabulary {tok.vocab_size}'
  )
