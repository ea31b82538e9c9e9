"""What conversion hands on: one model, whatever it came from."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Converted:
  """A model and all that inference needs beside it.

  Attributes:
    architecture: what `models.build.build` takes.
    variables: nested 'params' and 'batch_stats', numpy float32.
    tokenizer: 'clip', the path of a sentencepiece model, or None where the
      source brings none for its vocabulary.
    preprocessing: mean and std (of pixels in 0..1), short_side (pixels) and,
      unless it is the released one, top_k of `SegmentConfig` (None: no gate).
    metadata: source (what it was read from), file (its name), license, and
      where known metrics (name to number), step or epoch, notes (sentences).
  """

  architecture: dict[str, Any]
  variables: dict[str, Any]
  tokenizer: str | None
  preprocessing: dict[str, Any]
  metadata: dict[str, Any]
