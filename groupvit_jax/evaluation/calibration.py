"""Thresholds for the background, found without any mask.

What is known of a picture is its caption at most. A class that the caption
names should be found in some group of the picture, a class that it does not
name in none: a picture is a bag of groups (multiple instance learning), and a
threshold is good if the bags it accepts are those whose captions name the
class. Without captions, a class's best scores over many pictures are taken for
a mixture of two kinds.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from groupvit_jax.evaluation import resize, scoring, zero_shot
from groupvit_jax.evaluation.config import SegmentConfig

# A class seen in few pictures takes its threshold from all classes: as much as
# if these had shown it in so many more.
PRIOR = 10
_TRIED = 512  # thresholds
_BINS = 256  # of Otsu's histogram
# Of words that do not simply take an s.
_ENDINGS = (('y', 'ies'), ('f', 'ves'), ('fe', 'ves'), ('us', 'i'), ('', 'es'))
_SAME = re.compile(r'[^a-z0-9]+')


def best_values(
  predict_fns: Mapping[str, Callable[..., Any]],
  variables: Any,
  images: Iterable[Any],
  text: Float[Array, 'c *s e'],
  *,
  cosines: bool = True,
  config: SegmentConfig | None = None,
) -> Float[np.ndarray, 'n c']:
  """Every class's best value among the groups of each picture.

  Args:
    predict_fns: 'regions' and 'scale'.
    variables: their first argument.
    images: batches of pictures, uint8 b h w 3; few shapes.
    text: embeddings of the classes, from `zero_shot.embed_tokens`.
    cosines: cosines, or else scores by the rule of `config`.
    config: of the scores.

  Returns:
    A row for each picture. Groups without a pixel do not count.
  """
  config = config or SegmentConfig()
  regions_fn, scale_fn = predict_fns['regions'], predict_fns['scale']
  return np.concatenate(
    [
      np.asarray(
        _best(regions_fn, scale_fn, cosines, config, variables, text, batch)
      )
      for batch in images
    ]
  )


def _best_of_batch(
  regions_fn, scale_fn, cosines, config, variables, text, images
):
  regions = regions_fn(variables, images)
  if cosines:
    values = zero_shot.similarity(regions['embeddings'], text)
  else:
    values = scoring.group_scores(
      regions['image'],
      regions['embeddings'],
      text,
      scale_fn(variables),
      config,
    )
  maps = resize.final_maps(regions)
  groups = maps.reshape(len(maps), -1, maps.shape[-1])
  wins = jax.nn.one_hot(groups.argmax(-1), groups.shape[-1], dtype=bool).any(1)
  return jnp.where(wins[..., None], values, -1.0).max(1)


_best = jax.jit(_best_of_batch, static_argnums=(0, 1, 2, 3))


def mentions(
  captions: Sequence[str | Sequence[str]], names: Sequence[str]
) -> Bool[np.ndarray, 'n c']:
  """Which classes each picture's caption names.

  Args:
    captions: of n pictures, one or several each.
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

  The one at which the pictures found to show a class agree best with those
  whose captions name it, by the Jaccard index: what IoU is of pixels, of
  pictures. Captions leave things out, which moves the threshold up a little.

  Args:
    values: from `best_values`.
    named: from `mentions`.
    prior: pictures that the threshold of all classes together is worth.

  Returns:
    c thresholds. A class that no caption names has that of all classes.

  Raises:
    ValueError: no caption names any class.
  """
  if not named.any():
    raise ValueError(
      'No caption names any of the classes; calibrate with pictures whose '
      'captions do, or without captions.'
    )
  common = _best_agreement(values[named], values[~named])
  own = [
    _best_agreement(column[yes], column[~yes]) if yes.any() else common
    for column, yes in zip(values.T, named.T, strict=True)
  ]
  return _shrunk(own, common, named.sum(0), prior)


def one_from_captions(
  values: Float[np.ndarray, 'n c'], named: Bool[np.ndarray, 'n c']
) -> float:
  """`from_captions` of all classes together: one threshold."""
  return from_captions(values, named, prior=float('inf'))[0]


def from_pictures(
  values: Float[np.ndarray, 'n c'], *, prior: float | int = PRIOR
) -> tuple[float, ...]:
  """A threshold for each class, from pictures of which nothing is known.

  Otsu's: it parts a class's best values into two kinds that differ most
  between and least within (Otsu 1979). It assumes that some of the pictures
  show the class and some do not.

  Args:
    values: from `best_values`.
    prior: as in `from_captions`; counted in pictures whose best class it is.

  Returns:
    c thresholds.
  """
  common = otsu(values.reshape(-1))
  own = [otsu(column) for column in values.T]
  seen = np.bincount(values.argmax(1), minlength=values.shape[1])
  return _shrunk(own, common, seen, prior)


def otsu(values: Float[np.ndarray, 'm']) -> float:
  """The value that parts a sample in two with the least variance within."""
  low, high = float(values.min()), float(values.max())
  if low == high:
    return low
  count, edges = np.histogram(values, _BINS, (low, high))
  middle = (edges[1:] + edges[:-1]) / 2
  share = np.cumsum(count) / count.sum()
  moment = np.cumsum(count * middle) / count.sum()
  rest = share * (1 - share)
  between = np.zeros(_BINS)
  np.divide(
    (moment[-1] * share - moment) ** 2, rest, out=between, where=rest > 0
  )
  best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
  return float(edges[1:][best].mean())  # a gap is parted in its middle


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


def _shrunk(own, common, count, prior) -> tuple[float, ...]:
  if np.isinf(prior):
    return (common,) * len(own)
  share = count / np.maximum(count + prior, 1e-9)
  return tuple((share * np.array(own) + (1 - share) * common).tolist())
