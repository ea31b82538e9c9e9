"""Class names to text embeddings: synonyms, templates, and a cache.

Prompts are encoded in batches of a few static shapes; a name's embedding is
kept, so that the next image, or another list with the same name, is free.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int32

from groupvit_jax import embeddings, errors
from groupvit_jax.evaluation import sizes, zero_shot
from groupvit_jax.text import prompts
from groupvit_jax.text.base import Tokenizer

BACKGROUND = 'background'

_LENGTHS = (16, 32)  # and the whole context
_PROMPTS = 8, 256  # at a time: the fewest and the most
_CLASSES = 8  # the smallest padded list of classes
_KEPT = 20_000  # embeddings


class LabelError(errors.UserError, ValueError):
  """A list of class names that cannot be used."""


def read_classes(
  names: Sequence[str], background: bool = False
) -> tuple[tuple[str, ...], ...]:
  """Reads a list of class names.

  Args:
    names: such as 'dog' or, of one class, 'person|man|woman'.
    background: whether the result has a class for what is none of them. Then
      'background' as the first name is that class (as in the label lists of the
      released code), and has no prompt.

  Returns:
    The names of each class, without the background; a class is shown under its
    first. No two are equal.

  Raises:
    LabelError: no names, an empty one, or one that stands twice (upper and
      lower case are the same to the model).
  """
  if isinstance(names, str):
    raise LabelError(
      f'Class names come as a list; for one class, write [{names!r}].'
    )
  names = list(names)
  strange = [name for name in names if not isinstance(name, str)]
  if strange:
    raise LabelError(f'Class names are texts, and {strange[0]!r} is not.')
  if background and names and names[0].strip().lower() == BACKGROUND:
    names = names[1:]
  if not names:
    raise LabelError('The list of class names is empty; give at least one.')
  classes = tuple(map(prompts.synonyms, names))
  for name, words in zip(names, classes, strict=True):
    if '' in words:
      raise LabelError(f'Class name {name!r} is empty, or a part of it is.')
  twice = prompts.repeated(names)
  if twice is not None:
    raise LabelError(
      f'Class name {twice[:60]!r} stands twice in the list; each may '
      'stand once.'
    )
  if background and any(
    word.lower() == BACKGROUND for words in classes for word in words
  ):
    raise LabelError(
      "'background' is the class of all other pixels; leave it out, or put it "
      'first.'
    )
  return classes


def unmet(classes: Sequence[Sequence[str]], words: Sequence[str]) -> list[str]:
  """Classes that no caption of a model's training named.

  Args:
    classes: the names of each.
    words: names in its captions; empty if nobody knows them.
  """
  known = {part for word in words for part in word.split()}
  return [
    names[0]
    for names in classes
    if known and not any(known.issuperset(x.lower().split()) for x in names)
  ]


def warn_of_doubtful(
  classes: Sequence[Sequence[str]], words: Sequence[str]
) -> None:
  """Warns of a class without another, and of those that `unmet` returns."""
  if len(classes) == 1:
    warnings.warn(
      f'{classes[0][0]:.40} is the only class, so that it has all the '
      'probability: name what else may be there',
      stacklevel=2,
    )
  if new := unmet(classes, words):
    warnings.warn(
      f'no caption of the training named {", ".join(new):.200}: scores of such '
      'classes mean nothing; `groupvit info` shows the classes that the model '
      'knows',
      stacklevel=2,
    )


class TextEncoder:
  """Texts to unit vectors, which are cached.

  Attributes:
    tokenizer: see `text.base.Tokenizer`.
  """

  def __init__(
    self,
    encode: Callable[[Int32[np.ndarray, 'n l']], Any],
    tokenizer: Tokenizer,
  ):
    """Prepares an empty cache.

    Args:
      encode: token rows to embeddings as the projector gives them, n e.
      tokenizer: see `text.base.Tokenizer`.
    """
    self._encode = encode
    self.tokenizer = tokenizer
    self._known = {}

  def __call__(
    self,
    words: Sequence[str],
    templates: Sequence[str] = ('{}',),
    *,
    normalize_each: bool = False,
  ) -> Float32[np.ndarray, 'n e']:
    """A unit vector per word: the mean over its prompts, then normalised.

    The released code averages what the projector gives, not unit vectors.

    Args:
      words: n names, or whole texts with the default template.
      templates: prompts with a '{}' each.
      normalize_each: see `embeddings.average_prompts`.

    Returns:
      Unit vectors.
    """
    key = tuple(templates), normalize_each
    missing = [w for w in dict.fromkeys(words) if (w, *key) not in self._known]
    new = set(missing)
    vectors = {w: self._known[w, *key] for w in words if w not in new}
    if missing:
      vectors |= zip(missing, self._embed(missing, *key), strict=True)
      if len(self._known) + len(missing) > _KEPT:
        self._known.clear()
      self._known |= {(word, *key): vectors[word] for word in missing}
    return np.stack([vectors[word] for word in words])

  def _embed(self, words, templates, normalize_each):
    self._warn_of_long(words, templates)
    texts = [
      prompts.fill(template, word) for word in words for template in templates
    ]
    tokens = zero_shot.cut_padding(self.tokenizer(texts), _LENGTHS)
    fewest, most = _PROMPTS
    vectors = []
    for start in range(0, len(tokens), most):
      chunk = tokens[start : start + most]
      extra = sizes.bucket(len(chunk), fewest) - len(chunk)
      # Filled up with copies: a row of zeros has no end to be pooled at.
      padded = np.pad(chunk, ((0, extra), (0, 0)), mode='edge')
      vectors.append(np.asarray(self._encode(padded))[: len(chunk)])
    vectors = np.concatenate(vectors).astype(np.float32)
    vectors = vectors.reshape(len(words), len(templates), -1)
    extra = sizes.bucket(len(words)) - len(words)
    vectors = np.pad(vectors, ((0, extra), (0, 0), (0, 0)))
    return np.asarray(_average(vectors, normalize_each=normalize_each))[
      : len(words)
    ]

  def _warn_of_long(self, words, templates):
    room = self.tokenizer.context_length - 2
    longest = max(templates, key=len)
    for word in words:
      prompt = prompts.fill(longest, word)
      # A token stands for a byte at least.
      if len(prompt.encode()) <= room:
        continue
      count = len(self.tokenizer.encode(prompt))
      if count > room:
        warnings.warn(
          f'{word[:40] + "..." if len(word) > 40 else word!r} makes a prompt '
          f'of {count} tokens; the model reads the first {room}.',
          stacklevel=2,
        )


_average = jax.jit(embeddings.average_prompts, static_argnames='normalize_each')


def class_matrix(
  encoder: TextEncoder,
  classes: Sequence[Sequence[str]],
  templates: Sequence[str],
  *,
  normalize_each: bool = False,
) -> tuple[Float32[np.ndarray, 'c s e'], Bool[np.ndarray, 'c']]:
  """Embeddings of all names, padded to few static shapes.

  Args:
    encoder: of texts.
    classes: the names of each, as `read_classes` gives them.
    templates: prompts with a '{}' each.
    normalize_each: see `embeddings.average_prompts`.

  Returns:
    Unit vectors of every class's names (a class with fewer names has its first
    one again, which changes no maximum), and which classes are real.
  """
  words = [word for names in classes for word in names]
  vectors = encoder(words, templates, normalize_each=normalize_each)
  most = sizes.bucket(max(map(len, classes)))
  count = sizes.bucket(len(classes), _CLASSES)
  out = np.zeros((count, most, vectors.shape[-1]), np.float32)
  start = 0
  for row, names in zip(out, classes, strict=False):
    row[:] = vectors[start]
    row[: len(names)] = vectors[start : start + len(names)]
    start += len(names)
  return out, np.arange(count) < len(classes)
