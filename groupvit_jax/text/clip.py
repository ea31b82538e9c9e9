"""CLIP's byte-pair tokenizer, id for id, carried by a sentencepiece model.

The released GroupViT weights are bound to this vocabulary of 49,408 ids;
sentencepiece does its merges in C++ and needs no merges file at run time.

How it is carried: CLIP splits a text into words and merges the bytes of each
word, the last byte being marked as the end of the word. Here each byte and
each end-of-word byte is one character of Unicode's private-use area, so that
a word is a string of them and CLIP's merges are sentencepiece BPE pieces
(score = -id, identity normaliser). Cleaning and the split into words stay in
Python, as in CLIP. `tests/testdata/make_clip_bpe.py` makes the model; the tests
compare with `open_clip_torch` and `tokenizers`.
"""

import functools
import html
import pathlib
from collections.abc import Sequence

import ftfy
import numpy as np
import regex
import sentencepiece as spm
from jaxtyping import Int32

from groupvit_jax.text import base

MODEL_PATH = pathlib.Path(__file__).parent / 'assets' / 'clip_bpe.model'
VOCAB_SIZE = 49408
SOT_ID, EOT_ID = 49406, 49407
SOT_TEXT, EOT_TEXT = '<|startoftext|>', '<|endoftext|>'

# A byte b is U+E000+b inside a word and U+E100+b at its end.
_INNER, _FINAL = 0xE000, 0xE100
_TO_INNER = {b: chr(_INNER + b) for b in range(256)}

# CLIP's split (openai/CLIP, simple_tokenizer.py). The two marks are matched
# first, as there: a caption that spells one out gets its id.
_WORDS = regex.compile(
  regex.escape(SOT_TEXT)
  + '|'
  + regex.escape(EOT_TEXT)
  + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
  regex.IGNORECASE,
)
_CACHED_WORDS = 2**16
# Longer words are rare and would only fill the cache.
_CACHED_WORD_LENGTH = 64


def clean(text: str) -> str:
  """CLIP's cleaning: mojibake, HTML entities (twice), spaces, lower case."""
  # Plain ASCII without an entity, as most captions are, needs neither of the
  # first two.
  if not (text.isascii() and text.isprintable() and '&' not in text):
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return ' '.join(text.split()).lower()


def alphabet() -> dict[str, int]:
  """The bytes by the character that stands for each in the merges file.

  In the order of CLIP's first 256 ids, which is GPT-2's (openai/gpt-2,
  encoder.py): the printable ones of Latin-1, then the rest.
  """
  printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  rest = [b for b in range(256) if b not in printable]
  characters = {chr(b): b for b in printable}
  return characters | {chr(256 + i): b for i, b in enumerate(rest)}


def carry(word: bytes) -> str:
  """The private-use spelling of a whole word (its last byte ends it)."""
  return carry_part(word[:-1]) + chr(_FINAL + word[-1])


def carry_part(part: bytes) -> str:
  """The private-use spelling of bytes that do not end a word."""
  return part.decode('latin-1').translate(_TO_INNER)


def _piece_bytes(piece: str) -> bytes:
  """The bytes of a piece; an end-of-word byte is followed by a space."""
  parts = []
  for code in map(ord, piece):
    if code >= _FINAL:
      parts.append(bytes([code - _FINAL]) + b' ')
    else:
      parts.append(bytes([code - _INNER]))
  return b''.join(parts)


class ClipTokenizer:
  """CLIP's tokenizer; see `base.Tokenizer` for the attributes."""

  vocab_size = VOCAB_SIZE
  sot_id = SOT_ID
  eot_id = EOT_ID

  def __init__(self, context_length: int = base.CLIP_CONTEXT_LENGTH):
    """Loads the model that ships with the package.

    Args:
      context_length: ids in a row, SOT and EOT included; CLIP's is 77.
    """
    self.context_length = base.check_context_length(context_length)
    self._model = spm.SentencePieceProcessor(model_file=str(MODEL_PATH))
    self._cached = functools.lru_cache(_CACHED_WORDS)(self._encode_word)

  def __reduce__(self):
    # The cache does not pickle; worker processes make their own.
    return type(self), (self.context_length,)

  def __call__(
    self, texts: str | Sequence[str]
  ) -> Int32[np.ndarray, 'n {self.context_length}']:
    """Tokenizes texts (a single string counts as one).

    Args:
      texts: n captions, names or prompts; any language, any length.

    Returns:
      int32 rows [SOT, ids..., EOT, 0, ...].
    """
    texts = [texts] if isinstance(texts, str) else texts
    encoded = [self._encode(text, self.context_length - 2) for text in texts]
    return base.pack(encoded, self.context_length, self.sot_id, self.eot_id)

  def encode(self, text: str) -> list[int]:
    """All ids of a text, without special tokens or truncation."""
    return self._encode(text, None)

  def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
    """The text of each id, '</w>' marking the end of a word."""
    marks = {self.sot_id: SOT_TEXT, self.eot_id: EOT_TEXT}
    return [marks.get(int(i)) or self._piece_text(int(i)) for i in ids]

  def _piece_text(self, token_id: int) -> str:
    raw = _piece_bytes(self._model.id_to_piece(token_id))
    text = raw.decode('utf-8', errors='backslashreplace')
    return text[:-1] + '</w>' if text.endswith(' ') else text

  def _encode(self, text: str, limit: int | None) -> list[int]:
    """Ids of a text, stopping at the first word that reaches the limit."""
    ids: list[int] = []
    for match in _WORDS.finditer(clean(text)):
      word = match.group()
      short = len(word) <= _CACHED_WORD_LENGTH
      ids.extend(self._cached(word) if short else self._encode_word(word))
      if limit is not None and len(ids) >= limit:
        break
    return ids

  def _encode_word(self, word: str) -> list[int]:
    if word == SOT_TEXT:
      return [self.sot_id]
    if word == EOT_TEXT:
      return [self.eot_id]
    # Lone surrogates cannot be encoded; ftfy already replaced those it saw.
    return self._model.encode(carry(word.encode('utf-8', 'replace')))
