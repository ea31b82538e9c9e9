"""A user's own sentencepiece vocabulary, and how to train one from captions.

For languages that CLIP's English byte pairs cut into crumbs, and for small
models, where 49,408 rows of embedding would be most of the parameters.
"""

import io
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sentencepiece as spm
from jaxtyping import Int32

from groupvit_jax import files
from groupvit_jax.text import base

MODEL_NAME = 'tokenizer.model'
MODEL_TYPES = ('bpe', 'unigram')
# Start and end marks that the tokenizer puts above the model's pieces.
NUM_MARKS = 2
# Characters read of a text: far beyond any context length, and a bound on the
# work that a broken caption can cause.
MAX_CHARACTERS = 20_000
# What sentencepiece samples from a larger corpus (it holds it in memory).
_MAX_TRAINING_CAPTIONS = 5_000_000
_NUMBER = re.compile(r'\d+')


class SentencePieceTokenizer:
  """Any sentencepiece model; see `base.Tokenizer` for the attributes.

  Texts go to the model as they are: its own normaliser is the cleaning. The
  ids n and n+1 above its n pieces are SOT and EOT.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    context_length: int = base.CLIP_CONTEXT_LENGTH,
  ):
    """Loads a model.

    Args:
      path: a `.model` file, or a folder with a `tokenizer.model`.
      context_length: ids in a row, SOT and EOT included.

    Raises:
      FileNotFoundError: there is no model at `path`.
      ValueError: the file is no sentencepiece model.
    """
    self.context_length = base.check_context_length(context_length)
    self.path = find_model(path)
    self._model = _load(self.path)
    self.sot_id = self._model.get_piece_size()
    self.eot_id = self.sot_id + 1
    self.vocab_size = self.sot_id + NUM_MARKS

  def __reduce__(self):
    return type(self), (self.path, self.context_length)

  def __call__(
    self, texts: str | Sequence[str]
  ) -> Int32[np.ndarray, 'n {self.context_length}']:
    """Tokenizes texts (a single string counts as one).

    Returns:
      int32 rows [SOT, ids..., EOT, 0, ...].
    """
    texts = [texts] if isinstance(texts, str) else texts
    encoded = [self.encode(text) for text in texts]
    return base.pack(encoded, self.context_length, self.sot_id, self.eot_id)

  def encode(self, text: str) -> list[int]:
    """All ids of a text, without special tokens or truncation."""
    return self._model.encode(text[:MAX_CHARACTERS])

  def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
    """The text of each id; sentencepiece marks a word's start."""
    marks = {self.sot_id: '<start>', self.eot_id: '<end>'}
    return [marks.get(int(i)) or self._model.id_to_piece(int(i)) for i in ids]


def find_model(path: str | os.PathLike) -> pathlib.Path:
  """The model file that a path means; FileNotFoundError when there is none."""
  path = pathlib.Path(path)
  found = path / MODEL_NAME if path.is_dir() else path
  if not found.is_file():
    raise FileNotFoundError(
      f"no tokenizer at {found}: give 'clip', a sentencepiece .model file, or "
      'the folder that `groupvit tokenizer train` wrote'
    )
  return found


def _load(path: pathlib.Path) -> spm.SentencePieceProcessor:
  model = spm.SentencePieceProcessor()
  try:
    # From bytes, so that an unreadable file is an ordinary OSError.
    model.load_from_serialized_proto(path.read_bytes())
  except RuntimeError as error:
    raise ValueError(f'{path} is not a sentencepiece model') from error
  if model.get_piece_size() == 0:
    raise ValueError(f'{path} is not a sentencepiece model')
  if 0xE000 <= ord(model.id_to_piece(0)[0]) <= 0xE1FF:
    raise ValueError(
      f"{path} carries CLIP's byte pairs, which need CLIP's cleaning and "
      "word split: name the tokenizer 'clip' instead of its file"
    )
  return model


def train_sentencepiece(
  captions: Iterable[str],
  prefix: str | os.PathLike,
  vocab_size: int,
  model_type: str = 'bpe',
) -> pathlib.Path:
  """Trains a vocabulary on captions.

  Letters are folded to lower case and normalised (NFKC), as CLIP's cleaning
  does for English.

  Args:
    captions: the texts; read once, so a generator over many files works.
    prefix: the model is written to `prefix` + '.model'; folders are made.
    vocab_size: rows of the text embedding, i.e. sentencepiece pieces plus the
      start and end marks: a tokenizer on the model has this `vocab_size`.
    model_type: 'bpe' or 'unigram'.

  Returns:
    The path of the model.

  Raises:
    ValueError: an unknown model type, no captions, or a vocabulary that is
      too large or too small for them.
    OSError: the model cannot be written.
  """
  if model_type not in MODEL_TYPES:
    raise ValueError(f'model_type must be one of {MODEL_TYPES}: {model_type!r}')
  path = pathlib.Path(f'{os.fspath(prefix)}.model')
  # Before the long part, so that an unwritable place is known at once.
  path.parent.mkdir(parents=True, exist_ok=True)
  counted = _Counted(captions)
  model = io.BytesIO()
  options = {
    'sentence_iterator': iter(counted),
    'model_writer': model,
    'model_type': model_type,
    'vocab_size': vocab_size - NUM_MARKS,
    'normalization_rule_name': 'nmt_nfkc_cf',
    # The marks live above the pieces (they must have the highest ids).
    'bos_id': -1,
    'eos_id': -1,
    'input_sentence_size': _MAX_TRAINING_CAPTIONS,
    'minloglevel': 2,
  }
  try:
    spm.SentencePieceTrainer.train(**options)
  except RuntimeError as error:
    if counted.error is not None:
      raise counted.error from None
    raise ValueError(_explain(str(error), counted.count)) from error
  files.write_atomically(path, model.getvalue())
  return path


class _Counted:
  """Captions that are not blank, counted while they pass.

  sentencepiece turns whatever a caption iterator raises into a RuntimeError,
  so the original is kept here.
  """

  def __init__(self, captions: Iterable[str]):
    self.captions = captions
    self.count = 0
    self.error: BaseException | None = None

  def __iter__(self) -> Iterator[str]:
    try:
      for caption in self.captions:
        if caption.strip():
          self.count += 1
          yield caption
    except BaseException as error:
      self.error = error
      raise


def _explain(error: str, num_captions: int) -> str:
  """The trainer's error as advice: which number to change, and to what."""
  if num_captions == 0:
    return 'there are no captions to train on'
  numbers = [int(n) for n in _NUMBER.findall(error)]
  if 'too high' in error:
    return (
      f'{num_captions} captions give a vocabulary of at most '
      f'{numbers[-1] + NUM_MARKS}: ask for less, or give more captions'
    )
  if 'smaller than required_chars' in error:
    return (
      'the vocabulary is too small for the characters of the captions: ask '
      f'for at least {numbers[-1] + NUM_MARKS}'
    )
  return f'sentencepiece could not train: {error}'


def read_captions(path: str | os.PathLike) -> Iterator[str]:
  """Reads captions from a file, one after the other.

  Args:
    path: a text file with a caption in each line, or a `.jsonl` file whose
      objects have a 'caption' (text) or 'captions' (list of texts).

  Yields:
    The captions that are not blank.

  Raises:
    ValueError: a line that is not as described, named by file and number.
    OSError: the file cannot be read.
  """
  path = pathlib.Path(path)
  with path.open('rb') as lines:
    for number, raw in enumerate(lines, 1):
      try:
        line = raw.decode('utf-8-sig').strip()
        is_json = path.suffix == '.jsonl' and line
        captions = _captions_of(json.loads(line)) if is_json else [line]
      except UnicodeDecodeError as error:
        raise ValueError(f'{path}:{number}: not UTF-8 text') from error
      except json.JSONDecodeError as error:
        raise ValueError(f'{path}:{number}: not JSON') from error
      except ValueError as error:
        raise ValueError(f'{path}:{number}: {error}') from error
      yield from (caption for caption in captions if caption.strip())


def _captions_of(record: Any) -> list[str]:
  if isinstance(record, dict):
    captions = record.get('captions', [record.get('caption')])
    if isinstance(captions, list) and all(
      isinstance(caption, str) for caption in captions
    ):
      return captions
  raise ValueError(
    "expected an object with a 'caption' text or a 'captions' list of texts"
  )
