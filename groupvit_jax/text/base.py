"""The interface of tokenizers, and rows of ids.

Models see only this interface, so CLIP's vocabulary and a user's own
sentencepiece model are interchangeable.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

CLIP_CONTEXT_LENGTH = 77
PAD_ID = 0


@runtime_checkable
class Tokenizer(Protocol):
  """Turns texts into rows of token ids.

  The end-of-text id is the highest of the vocabulary and the start-of-text id
  the one below it, because the text encoder pools at the row's `argmax`.

  Attributes:
    vocab_size: rows that the token embedding needs.
    context_length: width of the rows.
    sot_id: id that starts every row.
    eot_id: id that ends every text; what follows it is padding.
  """

  vocab_size: int
  context_length: int
  sot_id: int
  eot_id: int

  def __call__(
    self, texts: str | Sequence[str]
  ) -> Int32[np.ndarray, 'n {self.context_length}']:
    """Rows of [SOT, ids..., EOT, 0, 0, ...]; truncation keeps the EOT."""
    ...

  def encode(self, text: str) -> list[int]:
    """All ids of a text, without special tokens or truncation."""
    ...

  def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
    """The text of each id, for display."""
    ...


def check_context_length(context_length: int) -> int:
  """Returns it; ValueError unless a token fits between the marks."""
  if context_length < 3:
    raise ValueError(
      f'context_length must be at least 3 (start, one token, end), got '
      f'{context_length}'
    )
  return context_length


def pack(
  encoded: Iterable[Sequence[int]],
  context_length: int,
  sot_id: int,
  eot_id: int,
) -> Int32[np.ndarray, 'n {context_length}']:
  """Frames lists of ids as rows of one width.

  Args:
    encoded: the ids of each text, without special tokens.
    context_length: width of a row.
    sot_id: the id before each text.
    eot_id: the id after it; kept when the text is cut.

  Returns:
    int32 rows [SOT, ids..., EOT, 0, ...] (CLIP, `clip.tokenize`).
  """
  encoded = list(encoded)
  rows = np.full((len(encoded), context_length), PAD_ID, np.int32)
  rows[:, 0] = sot_id
  for row, ids in zip(rows, encoded, strict=True):
    ids = ids[: context_length - 2]
    row[1 : 1 + len(ids)] = ids
    row[1 + len(ids)] = eot_id
  return rows
