"""Background thresholds from captioned images, without any mask.

A class that the caption names should be found in some group of the image, a
class that it does not name in none: an image is a bag of groups (multiple
instance learning), and a threshold is good if the bags it accepts are those
whose captions name the class.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.evaluation import regions as regions_lib
from groupvit_jax.evaluation import scoring, zero_shot
from groupvit_jax.evaluation.evaluator import (
  LabelledSet,
  Output,
  PredictFns,
  RunOptions,
  Totals,
)
from groupvit_jax.evaluation.image_level import Crop, ImageLevelEvaluator
from groupvit_jax.evaluation.regions import Regions

# Images that the threshold of all classes together is worth: a class seen in
# few images takes its threshold from all.
PRIOR = 10
_TRIED = 512  # thresholds
# Of words that do not simply take an s.
_ENDINGS = (('y', 'ies'), ('f', 'ves'), ('fe', 'ves'), ('us', 'i'), ('', 'es'))
_SAME = re.compile(r'[^a-z0-9]+')


class BestCosines(ImageLevelEvaluator):
  """Every class's highest cosine among the groups of each image.

  `evaluate` returns float32 n c, a row for each image. Groups without a token
  do not count.
  """

  def __init__(
    self,
    examples: LabelledSet,
    tokens: Int[np.ndarray, 'c *s t l'],
    crop: Crop,
    options: RunOptions,
  ):
    """Reads nothing yet.

    Args:
      examples: the images.
      tokens: prompts of the classes, from `zero_shot.tokenize_classes`.
      crop: gives images the size of a window.
      options: see `RunOptions`.
    """
    super().__init__(examples, crop, {}, options)
    self._tokens = tokens

  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Any]], Output]:
    text_fn, regions_fn = predict_fns['text'], predict_fns['regions']
    vectors = zero_shot.embed_tokens(text_fn, variables, self._tokens)

    def measure(images):
      encoded = regions_lib.encode_batch(
        regions_fn, variables, self._batch(images)
      )
      return Output({}, best_cosines(encoded, vectors))

    return measure

  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> Float[np.ndarray, 'n c']:
    return np.stack(list(totals.rows.values()))


@jax.jit
def best_cosines(
  regions: Regions, vectors: Float[Array, 'c *s e']
) -> Float[Array, 'b c']:
  """Every class's highest cosine among the groups of each image."""
  cosines = scoring.similarity(regions.embeddings[:, 0], vectors)
  maps = regions.stages[-1][:, 0]
  groups = maps.reshape(len(maps), -1, maps.shape[-1])
  wins = jax.nn.one_hot(groups.argmax(-1), groups.shape[-1], dtype=bool).any(1)
  return jnp.where(wins[..., None], cosines, -1.0).max(1)


def mentions(
  captions: Sequence[str | Sequence[str]], names: Sequence[str]
) -> Bool[np.ndarray, 'n c']:
  """Which classes each image's caption names.

  Args:
    captions: of n images, one or several each.
    names: of the classes; synonyms as in 'person|man|woman'. Plurals count.

  Returns:
    True where any form of the name stands in the caption as words.
  """
  patterns = [
    re.compile(
      r'\b(?:' + '|'.join(map(re.escape, _forms(name.split('|')))) + r')\b'
    )
    for name in names
  ]
  found = []
  for caption in captions:
    texts = [caption] if isinstance(caption, str) else caption
    text = ' . '.join(_SAME.sub(' ', t.lower()) for t in texts)
    found.append([bool(pattern.search(text)) for pattern in patterns])
  return np.array(found, bool).reshape(len(found), len(names))


def _forms(words: Sequence[str]) -> list[str]:
  """Words and their plurals, some of which are none; the longest first."""
  forms = set()
  for word in words:
    word = _SAME.sub(' ', word.lower()).strip()
    forms |= {word, word + 's'}
    for ending, plural in _ENDINGS:
      if word.endswith(ending):
        forms.add(word[: len(word) - len(ending)] + plural)
  return sorted(forms, key=len, reverse=True)


def from_captions(
  values: Float[np.ndarray, 'n c'],
  named: Bool[np.ndarray, 'n c'],
  *,
  prior: float | int = PRIOR,
) -> tuple[float, ...]:
  """A threshold for each class, from captions.

  The one at which the images found to show a class agree best with those
  whose captions name it, by the Jaccard index: what IoU is of pixels, of
  images. Captions leave things out, which moves the threshold up a little.

  Args:
    values: from `BestCosines`.
    named: from `mentions`.
    prior: images that the threshold of all classes together is worth.

  Returns:
    c thresholds. A class that no caption names has that of all classes.

  Raises:
    ValueError: no caption names any class.
  """
  if not named.any():
    raise ValueError(
      'No caption names any of the classes; calibrate with images whose '
      'captions do.'
    )
  common = _best_agreement(values[named], values[~named])
  own = [
    _best_agreement(column[yes], column[~yes]) if yes.any() else common
    for column, yes in zip(values.T, named.T, strict=True)
  ]
  if np.isinf(prior):
    return (common,) * len(own)
  count = named.sum(0)
  share = count / np.maximum(count + prior, 1e-9)
  return tuple((share * np.array(own) + (1 - share) * common).tolist())


def _best_agreement(
  named: Float[np.ndarray, 'p'], others: Float[np.ndarray, 'q']
) -> float:
  """The threshold with the highest Jaccard index of found and named."""
  steps = np.unique(np.concatenate([named, others]))
  if len(steps) == 1:
    return float(steps[0])
  tried = (steps[1:] + steps[:-1]) / 2
  tried = tried[:: -(-len(tried) // _TRIED)]
  hits = len(named) - np.searchsorted(np.sort(named), tried)
  false = len(others) - np.searchsorted(np.sort(others), tried)
  index = hits / (len(named) + false)
  best = np.flatnonzero(index >= index.max() - 1e-12)
  return float(tried[best[len(best) // 2]])
