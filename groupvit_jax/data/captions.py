"""Captions as text, and the token rows that a training step reads.

A row for the caption and, for the multi-label loss, rows for prompted nouns;
a function of (seed, position) only, so that a resumed run sees the same draws.
"""

import codecs
import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from groupvit_jax.data.images import BadSampleError
from groupvit_jax.text import nouns, prompts
from groupvit_jax.text.base import Tokenizer

Captions = str | bytes | Sequence[str | bytes]

MAX_CAPTION = 10_000  # characters; what is beyond is cut
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# No-break spaces of zero width (also the byte order mark), which files begin
# with or web pages hold. Joiners of zero width stay: scripts need them.
_ZERO_WIDTH = dict.fromkeys(map(ord, '\ufeff\u200b\u2060'))
# Letters and symbols that show nothing: fillers of Hangul, Braille's blank.
_BLANK = '\u115f\u1160\u3164\uffa0\u2800'

# Keeps these draws apart from other draws of the same seed and position
# (augmentation): the ASCII letters of 'text'.
_STREAM = 0x74657874
# A row is about 0.5 kB; 2,000 nouns in 80 templates are 160,000 rows.
_CACHED_PROMPTS = 2**17
# For data sets that are read more than once; larger ones just pass through.
_CACHED_CAPTIONS = 2**17


def clean_captions(captions: Captions) -> tuple[str, ...]:
  """Returns the usable captions of a sample, stripped and cut.

  Bytes are UTF-8, or UTF-16 with its byte order mark; what does not decode
  becomes U+FFFD. Byte order marks and zero-width spaces are taken out.

  Returns:
    At least one caption, each with a visible character and at most
    `MAX_CAPTION` characters.

  Raises:
    BadSampleError: no caption has a visible character, one has NUL characters
      inside (as UTF-16 without a byte order mark), or a quarter of one does not
      decode (as Shift JIS).
  """
  if isinstance(captions, str | bytes):
    captions = (captions,)
  good = tuple(text for text in map(_clean, captions) if text)
  if not good:
    raise BadSampleError('the caption has no visible character', 'caption')
  return good


def _clean(caption):
  if isinstance(caption, bytes):
    encoding = 'utf-16' if caption.startswith(_UTF16) else 'utf-8'
    caption = caption.decode(encoding, 'replace')
  text = caption.translate(_ZERO_WIDTH).strip().strip('\0').strip()
  if '\0' in text:
    raise BadSampleError(
      'the caption holds NUL characters (UTF-16 without a byte order mark?); '
      'write it as UTF-8',
      'caption',
    )
  text = text[:MAX_CAPTION]
  if text.count('\ufffd') > len(text) // 4:
    raise BadSampleError(
      'the caption is in another encoding; write it as UTF-8', 'caption'
    )
  visible = any(
    unicodedata.category(c)[0] in 'LNPS' and c not in _BLANK for c in text
  )
  return text if visible else ''


class CaptionBatcher:
  """Tokenizes captions and prompts of their nouns.

  Safe to share between threads; pickles without its caches.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    num_nouns: int = 3,
    word_kind: str = 'nouns_and_verbs',
    templates: Sequence[str] = prompts.FULL,
    seed: int = 0,
  ):
    """Makes a batcher.

    Args:
      tokenizer: gives the rows.
      num_nouns: K prompts beside each caption; 0 for the caption alone.
      word_kind: which words are prompted (`nouns.KINDS`).
      templates: what they are put into; the released recipe draws from
        `prompts.FULL`.
      seed: non-negative; with a caption's position it fixes the draws.

    Raises:
      ValueError: a value out of range, or a template without '{}'.
    """
    if num_nouns < 0:
      raise ValueError(f'num_nouns must not be negative, got {num_nouns}')
    if seed < 0:
      raise ValueError(f'seed must not be negative, got {seed}')
    self.tokenizer = tokenizer
    self.num_nouns = num_nouns
    self.word_kind = nouns.check_kind(word_kind)
    self.templates = prompts.find_templates(templates)
    self.seed = seed
    self._words = functools.lru_cache(_CACHED_CAPTIONS)(self._extract)
    self._prompt_row = functools.lru_cache(_CACHED_PROMPTS)(self._tokenize)

  def __reduce__(self):
    return type(self), (
      self.tokenizer,
      self.num_nouns,
      self.word_kind,
      self.templates,
      self.seed,
    )

  def __call__(
    self, captions: Sequence[str], positions: Sequence[int] | np.ndarray
  ) -> Int32[np.ndarray, 'b t l']:
    """Tokenizes a batch.

    Args:
      captions: b texts, of any length, also empty.
      positions: b global sample positions (which sample of the whole run).

    Returns:
      int32 [b, 1 + K, l]: the caption, then its K prompts. A row depends on
      its caption, its position and the seed, not on the rest of the batch.
    """
    rows = self.tokenizer(captions)
    tokens = np.repeat(rows[:, None], 1 + self.num_nouns, axis=1)
    if self.num_nouns:
      for i, position in enumerate(positions):
        self._fill(tokens[i, 1:], captions[i], int(position))
    return tokens

  def _fill(self, rows: np.ndarray, caption: str, position: int) -> None:
    """Writes the prompts of one caption over rows that hold the caption."""
    words = self._words(caption)
    if not words:
      return
    rng = np.random.default_rng((_STREAM, self.seed, position))
    texts = prompts.sample_prompts(
      rng, words, self.num_nouns, self.templates, fallback=caption
    )
    # What is beyond the words is the caption, which is there already.
    for row, text in zip(rows, texts[: len(words)], strict=False):
      row[:] = self._prompt_row(text)

  def _extract(self, caption: str) -> tuple[str, ...]:
    return tuple(nouns.extract(caption, self.word_kind))

  def _tokenize(self, text: str) -> Int32[np.ndarray, 'l']:
    return self.tokenizer([text])[0]
