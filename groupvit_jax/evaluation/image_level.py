"""Zero-shot classification and retrieval: images as a whole against texts.

Top-1 and top-5 accuracy, as the paper reports for ImageNet (appendix C.1); the
metrics of the other sets of CLIP's paper (`image_metrics`); recall at 1, 5 and
10 of images by captions and of captions by images, as CLIP reports for
Flickr30k and COCO (Radford et al. 2021, table 13).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int, UInt8

from groupvit_jax import sharding
from groupvit_jax.evaluation import (
  image_metrics,
  metrics,
  scoring,
  zero_shot,
)
from groupvit_jax.evaluation.evaluator import (
  Evaluator,
  Item,
  LabelledSet,
  Output,
  PredictFns,
  RunOptions,
  Totals,
)

# From an image of any size to the square that the model is given.
Crop = Callable[[UInt8[np.ndarray, 'h w 3']], UInt8[np.ndarray, 'H W 3']]

# What `predict_fns['features']` gives, in the order of the rows.
FEATURES = 'projected', 'pooled'

_ROWS = 256  # of the table of similarities, at a time


@dataclasses.dataclass(frozen=True)
class ImageLevelResult:
  """Figures of an image-level benchmark.

  Attributes:
    shares: in 0..1, by name.
    counts: what they were measured on, by name.
    images, skipped, seconds: see `evaluator.Totals`.
  """

  shares: Mapping[str, float]
  counts: Mapping[str, int]
  images: int
  skipped: tuple[tuple[str, str], ...]
  seconds: float

  def figures(self) -> Iterator[tuple[str, float]]:
    """(name, figure) pairs."""
    yield from self.shares.items()
    for name, count in self.counts.items():
      yield name, float(count)


class ImageLevelEvaluator(Evaluator):
  """Images that are cropped and go through the network as a whole."""

  def __init__(
    self,
    examples: LabelledSet,
    crop: Crop,
    identity: Mapping[str, Any],
    options: RunOptions,
  ):
    """Reads nothing yet.

    Args:
      examples: the images.
      crop: gives each the size of the model.
      identity: plain values that the counts depend on.
      options: see `RunOptions`.
    """
    super().__init__(examples, options)
    self._crop, self._own_identity = crop, identity

  def _identity(self) -> Mapping[str, Any]:
    return self._own_identity

  def _prepare(self, position: int) -> Item:
    example = self._examples[position]
    return Item(None, (self._crop(example.image), example))

  def _batch(self, images: Sequence[Any]) -> Any:
    """A full batch, padded by black images; on a mesh, split over it."""
    pixels = np.stack([image for image, _ in images])
    missing = self._together(None) - len(pixels)
    return self._placed(np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0))))

  def _labels(self, images: Sequence[Any], pixels: Any) -> Any:
    """Labels of a batch beside its pixels, float32 b n; zeros for padding."""
    labels = np.stack([np.atleast_1d(example.label) for _, example in images])
    missing = len(pixels) - len(labels)
    labels = np.pad(labels, ((0, missing), (0, 0))).astype(np.float32)
    return self._placed(labels)

  def _placed(self, tree: Any) -> Any:
    return tree if self.mesh is None else sharding.shard_batch(tree, self.mesh)


_TOP_K = 1, 5


class ClassificationEvaluator(ImageLevelEvaluator):
  """Top-k accuracy: an image gets the nearest class embedding."""

  def __init__(
    self,
    examples: LabelledSet,
    tokens: Int[np.ndarray, 'c *s t l'],
    crop: Crop,
    *,
    normalize_each: bool = False,
    identity: Mapping[str, Any] | None = None,
    options: RunOptions = RunOptions(),
  ):
    """Reads nothing yet.

    Args:
      examples: images with a `label` each, in 0..c-1.
      tokens: prompts of the classes, from `zero_shot.tokenize_classes`.
      crop, identity, options: see `ImageLevelEvaluator`.
      normalize_each: see `embeddings.average_prompts`.
    """
    super().__init__(examples, crop, identity or {}, options)
    self._tokens, self._normalize_each = tokens, normalize_each

  def _text(
    self, predict_fns: PredictFns, variables: Any
  ) -> Float[Array, 'c *s e']:
    return zero_shot.embed_tokens(
      predict_fns['text'],
      variables,
      self._tokens,
      normalize_each=self._normalize_each,
    )

  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Any]], Output]:
    text = self._text(predict_fns, variables)
    hits = _compiled(_hits, self.mesh, predict_fns['image'])

    def measure(images):
      pixels = self._batch(images)
      label = np.full(len(pixels), -1, np.int32)  # of padding
      label[: len(images)] = [example.label for _, example in images]
      right = hits(variables, text, pixels, self._placed(label))
      return Output({'hits': right})

    return measure

  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> ImageLevelResult:
    images = totals.images
    shares = {
      f'top{k}': int(right) / images
      for k, right in zip(_TOP_K, totals.counts['hits'], strict=True)
    }
    return ImageLevelResult(shares, {'images': images}, *totals[2:])


@functools.lru_cache(maxsize=64)
def _compiled(
  kind: Callable[..., Any], mesh: Mesh | None, *first: Any
) -> Callable[..., Any]:
  """Compiles `kind` with its first arguments; results whole on every device."""
  whole = None if mesh is None else sharding.replicated(mesh)
  return jax.jit(functools.partial(kind, *first), out_shardings=whole)


def _hits(image_fn, variables, text, images, label):
  """How many of a batch are right, for each k."""
  scores = scoring.similarity(image_fn(variables, images), text)
  # Padding has a label that no class has.
  return jnp.stack(
    [
      metrics.top_k_correct(scores, label, k).sum(dtype=jnp.int32)
      for k in _TOP_K
    ]
  )


@dataclasses.dataclass(frozen=True)
class Features:
  """Features and labels of a labelled set, for a probe.

  Attributes:
    projected, pooled: see `DualEncoder.image_features`.
    labels: an integer for each image, or a value for each class.
  """

  projected: Float32[np.ndarray, 'n e']
  pooled: Float32[np.ndarray, 'n d']
  labels: Int[np.ndarray, 'n *c']

  def __getitem__(self, rows: Any) -> 'Features':
    return Features(self.projected[rows], self.pooled[rows], self.labels[rows])


class FeatureExtractor(ImageLevelEvaluator):
  """Features of all images: `evaluate` gives `Features`, and no figures.

  They are in the resume state: who leaves its file where it is finds them
  there, without another pass through the network.
  """

  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Any]], Output]:
    encode = _compiled(_features, self.mesh, predict_fns['features'])

    def measure(images):
      pixels = self._batch(images)
      return Output({}, encode(variables, pixels, self._labels(images, pixels)))

    return measure

  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> Features:
    pixels, _ = self._prepare(next(iter(totals.rows))).value
    shapes = jax.eval_shape(predict_fns['features'], variables, pixels[None])
    widths = [shapes[name].shape[1] for name in FEATURES]
    rows = np.stack(list(totals.rows.values()))
    projected, pooled, labels = np.split(rows, np.cumsum(widths), axis=1)
    return Features(projected, pooled, _integers(labels))


def _features(features_fn, variables, images, labels):
  """The features of a batch, and its labels behind them."""
  found = features_fn(variables, images)
  return jnp.concatenate([*(found[name] for name in FEATURES), labels], axis=1)


class ScoreEvaluator(ClassificationEvaluator):
  """One of `image_metrics.METRICS`, of the scores of all images.

  A label is an integer, or an array with a value for each class.
  """

  def __init__(self, *arguments: Any, metric: str, **options: Any):
    """Reads nothing yet; arguments of `ClassificationEvaluator`."""
    super().__init__(*arguments, **options)
    self._metric = metric

  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Any]], Output]:
    text = self._text(predict_fns, variables)
    score = _compiled(_scores, self.mesh, predict_fns['image'])

    def measure(images):
      pixels = self._batch(images)
      labels = self._labels(images, pixels)
      return Output({}, score(variables, text, pixels, labels))

    return measure

  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> ImageLevelResult:
    rows = np.stack(list(totals.rows.values()))
    scores, labels = np.split(rows, [len(self._tokens)], axis=1)
    share = image_metrics.METRICS[self._metric](scores, _integers(labels))
    counts = {'images': len(rows)}
    return ImageLevelResult({self._metric: share}, counts, *totals[2:])


def _integers(labels: Float32[np.ndarray, 'n k']) -> Int[np.ndarray, 'n *c']:
  """Labels as they came: one for each image, or one for each class."""
  whole = labels.astype(np.int32)
  return whole[:, 0] if whole.shape[1] == 1 else whole


def _scores(image_fn, variables, text, images, labels):
  """The scores of a batch, and its labels behind them."""
  scores = scoring.similarity(image_fn(variables, images), text)
  return jnp.concatenate([scores, labels], axis=1)


class RetrievalEvaluator(ImageLevelEvaluator):
  """Recall at k over a set of images with several captions each.

  Figures: 'image_to_text_r<k>', share of the images with a caption of theirs
  among the k nearest captions; 'text_to_image_r<k>', share of the captions with
  their image among the k nearest images. Skipped images are left out, with
  their captions.
  """

  def __init__(
    self,
    examples: LabelledSet,
    captions: Sequence[Sequence[str]],
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    crop: Crop,
    *,
    template: str = '{}',
    identity: Mapping[str, Any] | None = None,
    options: RunOptions = RunOptions(),
  ):
    """Prepares the captions.

    Args:
      examples: the images.
      captions: those of each image, at least one.
      tokenizer: texts -> int32 [n, l].
      crop, identity, options: see `ImageLevelEvaluator`.
      template: what captions are put into (CLIP: 'a photo of {}').
    """
    super().__init__(examples, crop, identity or {}, options)
    # The image of each caption.
    self._owner = np.repeat(np.arange(len(captions)), list(map(len, captions)))
    self._tokens = zero_shot.tokenize_texts(
      tokenizer, [text for texts in captions for text in texts], template
    )

  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Any]], Output]:
    encode = _compiled(predict_fns['image'], self.mesh)
    return lambda images: Output({}, encode(variables, self._batch(images)))

  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> ImageLevelResult:
    places = np.array(list(totals.rows))
    images = np.stack(list(totals.rows.values()))
    kept = np.flatnonzero(np.isin(self._owner, places))
    texts = zero_shot.embed_tokens(
      predict_fns['text'], variables, self._tokens[kept]
    )
    # The row of `images` that each caption belongs to.
    owner = np.searchsorted(places, self._owner[kept]).astype(np.int32)
    images = images, np.arange(len(places), dtype=np.int32)
    texts, shares = (texts, owner), {}
    for name, queries, candidates in (
      ('image_to_text', images, texts),
      ('text_to_image', texts, images),
    ):
      most = min(10, len(candidates[1]))
      first = np.asarray(_first_hits(*queries, *candidates, most))
      for k in (1, 5, 10):
        shares[f'{name}_r{k}'] = float((first < min(k, most)).mean())
    counts = {'images': len(places), 'captions': len(kept)}
    return ImageLevelResult(shares, counts, *totals[2:])


@functools.partial(jax.jit, static_argnames='most')
def _first_hits(
  queries: Float[Array, 'n e'],
  query_owner: Int[Array, 'n'],
  candidates: Float[Array, 'm e'],
  candidate_owner: Int[Array, 'm'],
  most: int,
) -> Int[Array, 'n']:
  """The rank, from 0, of the first candidate with the query's owner.

  Ties go to the lower index, so that constant embeddings are no success.

  Returns:
    Ranks; `most` where none of the nearest has the owner.
  """

  def of_row(row):
    query, owner = row
    _, best = jax.lax.top_k(scoring.similarity(query, candidates), most)
    right = candidate_owner[best] == owner
    return jnp.where(right.any(), right.argmax(), most)

  return jax.lax.map(of_row, (queries, query_owner), batch_size=_ROWS)
