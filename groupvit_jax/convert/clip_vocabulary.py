"""CLIP's vocabulary in the files that Hugging Face's CLIPTokenizer reads.

The sentencepiece model that ships here holds the pieces in the order of their
merges. Which two pieces a merge joined follows from it: they are what the
merges before it make of the piece.
"""

import functools
import itertools
import json
from collections.abc import Mapping
from typing import Any

import sentencepiece as spm

from groupvit_jax.text import clip_bpe

_MARKS = (clip_bpe.SOT_TEXT, clip_bpe.EOT_TEXT)
# Single bytes, plain and at the end of a word; the rest are merges.
_SINGLE = 512


def files(text_config: Mapping[str, Any]) -> dict[str, Any]:
  """Contents by file name; a str is text, else JSON."""
  vocabulary, merges = _tables()
  start, end = _MARKS
  return {
    'vocab.json': json.dumps(vocabulary, ensure_ascii=False),
    'merges.txt': '#version: 0.2\n' + '\n'.join(merges) + '\n',
    'tokenizer_config.json': {
      'tokenizer_class': 'CLIPTokenizer',
      'bos_token': start,
      'eos_token': end,
      'pad_token': end,
      'unk_token': end,
      'model_max_length': text_config['max_position_embeddings'],
    },
    'special_tokens_map.json': {
      'bos_token': start,
      'eos_token': end,
      'pad_token': end,
      'unk_token': end,
    },
  }


@functools.cache
def _tables() -> tuple[dict[str, int], tuple[str, ...]]:
  """Ids by their spelling, and the merges in order."""
  model = spm.SentencePieceProcessor(model_file=str(clip_bpe.MODEL_PATH))
  pieces = [model.id_to_piece(i) for i in range(clip_bpe.SOT_ID)]
  ranks = {piece: i for i, piece in enumerate(pieces)}
  merges = []
  for rank in range(_SINGLE, len(pieces)):
    left, right = _joined(pieces[rank], rank, ranks)
    merges.append(f'{_spell(left)} {_spell(right)}')
  vocabulary = {_spell(piece): i for i, piece in enumerate(pieces)}
  for i, mark in enumerate(_MARKS):
    vocabulary[mark] = len(pieces) + i
  return vocabulary, tuple(merges)


def _joined(piece: str, rank: int, ranks: Mapping[str, int]) -> list[str]:
  """The two parts of a piece, by applying the merges below its rank."""
  parts = list(piece)
  while len(parts) > 2:
    pairs = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
    lowest = min(pairs)
    if lowest >= rank:
      break
    i = pairs.index(lowest)
    parts[i : i + 2] = [parts[i] + parts[i + 1]]
  if len(parts) != 2:
    raise ValueError(f'piece {rank} of the vocabulary is no merge of two')
  return parts


def _spell(piece: str) -> str:
  """CLIP's spelling: a printable character for each byte, `</w>` at the end."""
  spelled = []
  for code in map(ord, piece):
    spelled.append(_BYTES[code & 0xFF])
    if code & 0x100:  # see clip_bpe: U+E100 and above end a word
      spelled.append('</w>')
  return ''.join(spelled)


def _printable_bytes() -> list[str]:
  """GPT-2's alphabet: printable bytes are themselves, others follow U+00FF."""
  kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = iter(range(256, 512))
  return [chr(b if b in kept else next(others)) for b in range(256)]


_BYTES = _printable_bytes()
