"""Zero-shot segmentation during training: images of one size, in batches.

mIoU, the oracle's mIoU and groups in use, for anything that offers
`predict_fns`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from groupvit_jax.evaluation import (
  benchmark_counts,
  labelling,
  metrics,
  regrouping,
  resize,
  scoring,
  zero_shot,
)
from groupvit_jax.evaluation import evaluator as evaluator_lib
from groupvit_jax.evaluation import regions as regions_lib
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions
from groupvit_jax.evaluation.scoring import ClassEmbeddings
from groupvit_jax.evaluation.sizes import Shapes
from groupvit_jax.text import prompts

# A group wins if it holds at least this share of all pixels.
WINS = 0.01


@flax.struct.dataclass
class SegmentationCounts:
  """What one batch adds to the figures (clu's merge protocol).

  Attributes:
    confusion: predictions against truth.
    oracle: the same with every group named by its majority class.
    usage: [g] sum over pictures of each group's share of the pixels.
    used: sum over pictures of the effective number of groups.
    recall: sum over pictures of the recall of their classes by the pooled
      embedding.
    images: number of pictures with at least one counted pixel.
  """

  # Any: JAX rebuilds pytrees with placeholders that are not arrays.
  confusion: Any
  oracle: Any
  usage: Any
  used: Any
  recall: Any
  images: Any

  def merge(self, other: 'SegmentationCounts') -> 'SegmentationCounts':
    """The counts of two disjoint sets of pictures."""
    return SegmentationCounts(
      confusion=self.confusion.merge(other.confusion),
      oracle=self.oracle.merge(other.oracle),
      usage=self.usage + other.usage,
      used=self.used + other.used,
      recall=self.recall + other.recall,
      images=self.images + other.images,
    )


@dataclasses.dataclass(frozen=True)
class SegmentationResult:
  """Everything one evaluation measured, on the host.

  Attributes:
    class_names: c names, in the order of the matrices, as they are shown.
    background: whether class 0 is the background.
    label_groups: named subsets of class indices.
    confusion_matrix: int64 [c, c], rows truth, columns prediction.
    oracle_confusion_matrix: the same under oracle labels.
    group_usage: [g] mean share of a picture's pixels that each group holds.
    groups_per_image: mean effective number of groups of a picture.
    image_recall: mean recall of a picture's classes by its pooled embedding,
      read off as many as are true.
    images: how many pictures counted.
  """

  class_names: tuple[str, ...]
  background: bool
  label_groups: Mapping[str, tuple[int, ...]]
  confusion_matrix: np.ndarray
  oracle_confusion_matrix: np.ndarray
  group_usage: np.ndarray
  groups_per_image: float
  image_recall: float
  images: int

  def figures(self) -> Iterator[tuple[str, float]]:
    """(name, figure) pairs; shares in 0..1; absent classes are left out."""
    truth, best = self.confusion_matrix, self.oracle_confusion_matrix
    yield 'miou', metrics.miou(truth)
    yield 'pixel_accuracy', metrics.pixel_accuracy(truth)
    yield 'mean_accuracy', metrics.mean_accuracy(truth)
    yield 'oracle_miou', metrics.miou(best)
    yield 'image_recall', self.image_recall
    # Named and defined as losses/assignment.py does for the training batches,
    # but counted in pixels.
    usage = self.group_usage
    yield 'groups_in_use', float(benchmark_counts.effective_number(usage))
    yield 'groups_winning', float((usage >= WINS).sum())
    yield 'groups_per_image', self.groups_per_image
    yield 'largest_share', float(usage.max())
    for name, classes in self.label_groups.items():
      yield from _occurring(f'miou_{name}', metrics.miou(truth, classes))
      yield from _occurring(f'oracle_miou_{name}', metrics.miou(best, classes))
    for name, value in zip(self.class_names, metrics.iou(truth), strict=True):
      yield from _occurring(f'iou/{name}', float(value))
    yield 'images', float(self.images)


def _occurring(name: str, value: float) -> Iterator[tuple[str, float]]:
  if not np.isnan(value):
    yield name, value


class SegmentationEvaluator:
  """Zero-shot segmentation of a labelled set; see `SegmentationResult`.

  Programs are compiled once per predict function and batch shape and kept, so
  calling it again during training costs no compilation. In a multi-process run
  every process calls it with its own part of the set, the same number of
  batches each, and gets the figures of the whole.
  """

  def __init__(
    self,
    batches_fn: evaluator_lib.BatchesFn,
    class_names: Sequence[str],
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    templates: Sequence[str],
    config: SegmentConfig | None = None,
    *,
    label_groups: Mapping[str, Sequence[str]] | None = None,
    grouping: Any = None,
    mesh: Mesh | None = None,
  ):
    """Prepares the prompts.

    Args:
      batches_fn: starts one pass: dicts of image (uint8 b h w 3), label
        (integers b H W, 255 ignored) and mask (b, 0 for padding; optional).
      class_names: c names in label order, synonyms as in 'person|man' (the
        first is shown); with a background threshold the first class is the
        background and gets no prompt.
      tokenizer: texts -> int32 [n, l].
      templates: prompts with one `{}` each.
      config: see `SegmentConfig`; None for the released one.
      label_groups: names of classes by group, reported as miou_<group>.
      grouping: for models whose regions have no maps, how to group their patch
        features on the host (see `clustering`).
      mesh: splits the batches over its axis 'data'.

    Raises:
      ValueError: for an unknown class in label_groups, or no class to name.
    """
    self._batches_fn = batches_fn
    self._names = tuple(map(prompts.shown_name, class_names))
    self._config = config or SegmentConfig()
    self._groups = _index_groups(self._names, label_groups or {})
    self._grouping = grouping
    self._mesh = mesh
    offset = 0 if self._config.background_threshold is None else 1
    self._tokens = zero_shot.tokenize_classes(
      tokenizer, class_names[offset:], templates
    )
    self._confusion = metrics.ConfusionMatrix.of(len(self._names))
    self._measure = evaluator_lib.jit_measure(
      self._count, mesh, static_argnums=3
    )

  def run(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Evaluates and yields (name, figure); shares in 0..1."""
    yield from self.evaluate(predict_fns, variables).figures()

  def evaluate(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any
  ) -> SegmentationResult:
    """One pass over the set.

    Args:
      predict_fns: 'text', 'regions' and 'logit_scale'.
      variables: their first argument.

    Returns:
      All that was measured.

    Raises:
      ValueError: for labels out of range, or a set without counted pixels.
    """
    classes = self._classes(predict_fns, variables)

    def measure(batch):
      images = batch.pop('image')
      encoded = self._encode(predict_fns, variables, images)
      return self._measure(encoded, classes, batch, tuple(images.shape[1:3]))

    counts = evaluator_lib.measure_all(
      self._batches_fn, self._check, measure, self._mesh
    )
    return self._result(jax.device_get(counts))

  def predict(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any, images: Any
  ) -> dict[str, Any]:
    """Segments pictures for looking at.

    Args:
      predict_fns: as in `evaluate`.
      variables: their first argument.
      images: uint8 b h w 3.

    Returns:
      prediction, int32 b h w classes; groups, a tuple of int32 b h w with the
      group of each pixel at each stage (first to final); numpy arrays.
    """
    encoded = self._encode(predict_fns, variables, images)
    encoded = regrouping.apply(encoded, self._config)
    classes = self._classes(predict_fns, variables)
    size = tuple(images.shape[1:3])
    scores = scoring.score(encoded, classes, self._config)
    stages = range(len(encoded.stages))
    found = {
      'prediction': labelling.label(
        encoded, scores, _shapes(size), None, self._config
      ),
      'groups': tuple(_stage_groups(encoded, size, i) for i in stages),
    }
    return jax.device_get(found)

  def _encode(self, predict_fns, variables, images):
    regroups = self._config.regroup != 'none'
    return regions_lib.encode_batch(
      regrouping.regions_fn(predict_fns, regroups),
      variables,
      images,
      grouping=self._grouping,
    )

  def _classes(self, predict_fns, variables):
    return ClassEmbeddings(
      zero_shot.embed_tokens(predict_fns['text'], variables, self._tokens),
      jax.jit(predict_fns['logit_scale'])(variables),
    )

  def _check(self, label: np.ndarray, mask: np.ndarray) -> None:
    # Padding is checked as well: its labels are 255.
    metrics.check_labels(label, len(self._names))

  def _count(
    self,
    encoded: Regions,
    classes: ClassEmbeddings,
    batch: Mapping[str, Array],
    size: tuple[int, int],
  ) -> SegmentationCounts:
    label, mask = batch['label'].astype(jnp.int32), batch['mask']
    batch_size, label_size = label.shape[0], label.shape[1:]
    output = None
    if label_size != size:
      output = resize.upsampling(
        [size] * batch_size, [label_size] * batch_size, label_size
      )
    encoded = regrouping.apply(encoded, self._config)
    scores = scoring.score(encoded, classes, self._config)
    prediction = labelling.label(
      encoded, scores, _shapes(size), output, self._config
    )
    places = jnp.broadcast_to(
      jnp.array([0, 0, *label_size]), encoded.places.shape
    )
    counts = benchmark_counts.group_class_counts(
      _groups(encoded._replace(places=places), label_size),
      label,
      encoded.embeddings.shape[2],
      len(self._names),
      mask,
    )
    usage = benchmark_counts.usage(counts)
    counted = counts.any((1, 2)).astype(jnp.float32)
    return SegmentationCounts(
      confusion=self._confusion.from_model_output(
        label=label, prediction=prediction, mask=mask
      ),
      oracle=self._confusion.from_counts(
        benchmark_counts.oracle_confusion(counts)
      ),
      usage=usage.sum(0),
      used=(benchmark_counts.effective_number(usage) * counted).sum(),
      recall=(self._recall(encoded, classes.vectors, counts) * counted).sum(),
      images=counted.sum(),
    )

  def _recall(
    self, encoded: Regions, vectors: Array, counts: Array
  ) -> Float[Array, 'b']:
    # Without the background.
    present = (counts.sum(1) > 0)[:, -vectors.shape[0] :]
    scores = scoring.similarity(encoded.image[:, 0], vectors)
    return metrics.recall_at_k(scores, present)

  def _result(self, counts: SegmentationCounts) -> SegmentationResult:
    images = float(counts.images)
    if not images:
      raise ValueError(
        'No pixel of the evaluation set counts: every label is 255 (ignore) or '
        'every example is padding. Check the masks that the reader returns.'
      )
    return SegmentationResult(
      class_names=self._names,
      background=self._config.background_threshold is not None,
      label_groups=self._groups,
      confusion_matrix=counts.confusion.compute(),
      oracle_confusion_matrix=counts.oracle.compute(),
      group_usage=np.asarray(counts.usage) / images,
      groups_per_image=float(counts.used) / images,
      image_recall=float(counts.recall) / images,
      images=round(images),
    )


def _shapes(size):
  """Images are one window, and fill it."""
  return Shapes(window=tuple(size), full=True, count=1, scaled=tuple(size))


def _groups(encoded, size, stage=-1):
  maps = labelling.pixel_maps(encoded, size, stage=stage)
  return maps[0].astype(jnp.int32)


_stage_groups = jax.jit(_groups, static_argnums=(1, 2))


def _index_groups(
  names: tuple[str, ...], label_groups: Mapping[str, Sequence[str]]
) -> dict[str, tuple[int, ...]]:
  for group, members in label_groups.items():
    unknown = sorted(set(members) - set(names))
    if unknown:
      raise ValueError(
        f'label_groups[{group!r}] names classes that are not in class_names: '
        f'{unknown}.'
      )
  return {
    group: tuple(names.index(member) for member in members)
    for group, members in label_groups.items()
  }
