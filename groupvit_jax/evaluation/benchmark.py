"""Zero-shot segmentation of a benchmark by a protocol, counted on the device.

Images of all sizes, in windows, at static shapes; the host only decodes. The
counts are whole numbers, so that neither devices, processes nor interruptions
change a figure. The network's floats may be rounded otherwise in batches of
another size: then a pixel whose two best groups or classes are equal but for
that may change.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Integer

from groupvit_jax import errors, sharding
from groupvit_jax.evaluation import (
  diagnosis,
  labelling,
  metrics,
  regions,
  regrouping,
  resize,
  scoring,
  sizes,
  zero_shot,
)
from groupvit_jax.evaluation.clustering import Grouping
from groupvit_jax.evaluation.config import Protocol
from groupvit_jax.evaluation.counts import (
  JACCARD_UNIT,
  Counter,
  GroundTruth,
  Measures,
  effective_number,
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
from groupvit_jax.text import prompts

# Of the released protocol; used where a protocol sets none.
SHORT_SIDE = 448
# A group wins if it holds at least this share of all pixels.
WINS = 0.01


@dataclasses.dataclass(frozen=True)
class Settings:
  """Protocol, classes and options of a `BenchmarkEvaluator`.

  Attributes:
    protocol: from `config.make`.
    class_names: c names in label order, synonyms as in 'person|man'; the
      background first if there is one. It gets no prompt if the protocol has a
      threshold for it, and its own otherwise.
    background: whether class 0 is the background.
    patch_size: of the model, in pixels.
    grouping: for models without groups (see `clustering.Grouping`).
    refine: see `counts.Counter`.
    measures: beside IoU and accuracy.
    label_groups: names of classes by group, reported as miou_<group>.
  """

  protocol: Protocol
  class_names: Sequence[str]
  background: bool
  patch_size: int = 16
  grouping: Grouping | None = None
  refine: Callable[[Array, Array, Array], Array] | None = None
  measures: Measures = Measures()
  label_groups: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
  """Everything that was counted, on the host.

  Attributes:
    class_names: c names, in the order of the matrices, as they are shown.
    background: whether class 0 is the background.
    counts: arrays by name, see `counts.Counter.count`.
    images: images that counted.
    skipped: (name, reason) of those that could not be used.
    seconds: all that it took, earlier attempts included.
    label_groups: named subsets of class indices.
  """

  class_names: tuple[str, ...]
  background: bool
  counts: Mapping[str, np.ndarray]
  images: int
  skipped: tuple[tuple[str, str], ...] = ()
  seconds: float = 0.0
  label_groups: Mapping[str, tuple[int, ...]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def confusion_matrix(self) -> Integer[np.ndarray, 'c c']:
    """Pixels, rows ground truth, columns prediction."""
    return self.counts['confusion']

  @property
  def miou(self) -> float:
    """Mean IoU over the classes that labels or prediction have, in 0..1."""
    return metrics.miou(self.confusion_matrix)

  @property
  def best_group_jaccard(self) -> float:
    """Mean Jaccard index of the best group over classes and windows.

    The background is no object and is left out. NaN if nothing was counted.
    """
    count, total = self.counts['jaccard'][:, int(self.background) :].sum(1)
    return float(total / JACCARD_UNIT / count) if count else float('nan')

  def figures(self) -> Iterator[tuple[str, float]]:
    """(name, figure) pairs; shares in 0..1; absent classes are left out."""
    for name, value in self._all_figures():
      if not np.isnan(value):
        yield name, float(value)

  def _all_figures(self) -> Iterator[tuple[str, Any]]:
    counts, matrix = self.counts, self.confusion_matrix
    yield 'miou', self.miou
    yield 'pixel_accuracy', metrics.pixel_accuracy(matrix)
    yield 'mean_accuracy', metrics.mean_accuracy(matrix)
    yield 'frequency_weighted_iou', metrics.frequency_weighted_iou(matrix)
    if 'boundary' in counts:
      by_class = metrics.boundary_iou(counts['boundary'])
      yield 'boundary_miou', metrics.mean_of_present(by_class)
    for name in list(diagnosis.MATRICES)[1:]:
      if name in counts:
        yield f'{name}_miou', metrics.miou(counts[name])
      if name in counts and name == 'oracle':
        yield 'zero_classes', diagnosis.zero_classes(matrix)
    if 'jaccard' in counts:
      yield 'best_group_jaccard', self.best_group_jaccard
    if 'windows' in counts:
      # Named and defined as losses/assignment.py does for the training batches,
      # but counted in pixels.
      windows = counts['windows']
      usage = counts['usage'] / windows
      yield 'image_recall', counts['recall'] / windows
      yield 'groups_in_use', float(effective_number(usage))
      yield 'groups_winning', float((usage >= WINS).sum())
      yield 'groups_per_image', counts['used'] / windows
      yield 'largest_share', usage.max()
    for name, classes in self.label_groups.items():
      yield f'miou_{name}', metrics.miou(matrix, classes)
      for other in ('oracle', 'tokens'):
        if other in counts:
          value = metrics.miou(counts[other], classes)
          yield f'{other}_miou_{name}', value
    for name, value in zip(self.class_names, metrics.iou(matrix), strict=True):
      yield f'iou/{name}', value
    yield 'images', self.images
    yield 'skipped', len(self.skipped)


class Key(NamedTuple):
  """The static shapes of an image and, padded (h, w), of its labels.

  Images of one key go through the same compiled programs; there are few keys,
  whatever the sizes of the images. `output` is None for labels of the size at
  which the network sees the image: nothing is resized.
  """

  shapes: sizes.Shapes
  output: sizes.Size | None


class Labelled(NamedTuple):
  """An image that is ready for the network, and its ground truth."""

  key: Key
  image: sizes.InputImage
  label: Integer[np.ndarray, 'h w']


def prepare(
  example: Any, name: str, plan: sizes.Plan, num_classes: int
) -> Labelled:
  """Checks and scales one image.

  Raises:
    errors.ImageError: image and ground truth differ in size, or the ground
      truth holds a value that is no class.
  """
  image, label = np.asarray(example.image), np.asarray(example.label)
  if image.shape[:2] != label.shape:
    raise errors.ImageError(
      f'{name}: the image is {image.shape[1]} x {image.shape[0]} pixels and '
      f'its labels {label.shape[1]} x {label.shape[0]}; give labels of '
      'the same size.'
    )
  try:
    metrics.check_labels(label, num_classes)
  except ValueError as error:
    raise errors.ImageError(f'{name}: {error}') from error
  prepared = sizes.prepare(image, plan, name)
  output = None
  if prepared.scaled.shape[:2] != label.shape:
    output = sizes.output_shape(label.shape, prepared.shapes.scaled)
  small = np.uint8 if num_classes < metrics.IGNORE else np.int32
  return Labelled(
    Key(prepared.shapes, output), prepared, label.astype(small, copy=False)
  )


def ground_truth(images: Sequence[Labelled], count: int) -> GroundTruth:
  """The ground truth of images of one key, padded to `count` images."""
  key, extra = images[0].key, count - len(images)
  labels = [image.label for image in images]
  shapes = [label.shape for label in labels] + [(1, 1)] * extra
  padded = np.full(
    (count, *(key.output or key.shapes.scaled)), metrics.IGNORE, labels[0].dtype
  )
  for place, label in zip(padded, labels, strict=False):
    place[: label.shape[0], : label.shape[1]] = label
  output = None
  if key.output is not None:
    scaled = [x.image.scaled.shape[:2] for x in images] + [(1, 1)] * extra
    output = resize.upsampling(scaled, shapes, key.output)
  return GroundTruth(
    label=padded,
    sizes=np.asarray(shapes, np.int32),
    widths=np.asarray([metrics.width(size) for size in shapes], np.int32),
    output=output,
    mask=np.asarray([1] * len(images) + [0] * extra, np.float32),
  )


@functools.lru_cache(maxsize=64)
def counting(counter: Counter, mesh: Mesh | None) -> Any:
  """The compiled `counter.count`, shared by evaluators that count alike.

  The encoder's program knows neither classes nor ground truth, so that every
  benchmark shares it; this one is quick to compile, once per `Key`.
  """
  whole = None if mesh is None else sharding.replicated(mesh)
  return jax.jit(counter.count, static_argnums=3, out_shardings=whole)


class BenchmarkEvaluator(Evaluator):
  """Zero-shot segmentation of a labelled set; see `BenchmarkResult`.

  Attributes:
    settings: see `Settings`.
    plan: how images are scaled and cut into windows.
    counter: how a batch is counted.
  """

  def __init__(
    self,
    examples: LabelledSet,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    settings: Settings,
    options: RunOptions = RunOptions(),
  ):
    """Prepares the prompts.

    Args:
      examples: the images; labels are int h w, a position in the class names,
        255 ignored.
      tokenizer: texts -> int32 [n, l].
      settings: see `Settings`.
      options: see `RunOptions`.

    Raises:
      ValueError: a threshold without a background class, an unknown class in
        label_groups, or the like.
      errors.SourceError: the set is empty.
    """
    super().__init__(examples, options)
    config, names = settings.protocol.segment, settings.class_names
    threshold = config.background_threshold is not None
    if threshold and not settings.background:
      raise ValueError(
        'background_threshold is set, but the labels have no background class; '
        'set it to None.'
      )
    self.settings = settings
    self.plan = sizes.plan(config, SHORT_SIDE, settings.patch_size)
    self._names = tuple(map(prompts.shown_name, names))
    self._label_groups = {
      group: tuple(map(self._names.index, members))
      for group, members in settings.label_groups.items()
    }
    self._tokens = zero_shot.tokenize_classes(
      tokenizer, names[int(threshold) :], settings.protocol.templates
    )
    self.counter = Counter(
      config=config,
      num_classes=len(names),
      background=settings.background,
      measures=settings.measures,
      refine=settings.refine,
    )

  def predict(
    self, predict_fns: PredictFns, variables: Any, images: Any
  ) -> dict[str, Any]:
    """Segments images of one size, as they are, for looking at.

    Args:
      predict_fns: as in `evaluate`.
      variables: their first argument.
      images: uint8 b h w 3.

    Returns:
      prediction, int32 b h w classes; groups, a tuple of int32 b h w with the
      group of each pixel at each stage (first to final); numpy arrays.
    """
    variables = sharding.local_view(variables, self.mesh)
    encoded = regions.encode_batch(
      self._regions_fn(predict_fns),
      variables,
      images,
      grouping=self.settings.grouping,
    )
    encoded = regrouping.apply(encoded, self.counter.config)
    classes = self._classes(predict_fns, variables)
    size = images.shape[1:3]
    shapes = sizes.Shapes(window=size, full=True, count=1, scaled=size)
    scores = scoring.score(encoded, classes, self.counter.config)
    return jax.device_get(
      {
        'prediction': labelling.label(
          encoded, scores, shapes, None, self.counter.config
        ),
        'groups': tuple(
          labelling.stage_groups(encoded, size, stage)
          for stage in range(len(encoded.stages))
        ),
      }
    )

  def _regions_fn(self, predict_fns):
    config = self.counter.config
    tokens = self.settings.measures.compared or config.regroup != 'none'
    return regrouping.regions_fn(predict_fns, tokens)

  def _classes(self, predict_fns, variables):
    return scoring.ClassEmbeddings(
      zero_shot.embed_tokens(predict_fns['text'], variables, self._tokens),
      jax.jit(predict_fns['logit_scale'])(variables),
    )

  def _identity(self) -> Mapping[str, Any]:
    settings, measures = self.settings, self.settings.measures
    return {
      'protocol': dataclasses.asdict(settings.protocol),
      'classes': settings.class_names,
      'measures': [
        measures.diagnosis and list(diagnosis.MATRICES.values()),
        measures.boundary,
        measures.compared,
      ],
      'grouping': repr(settings.grouping),
    }

  def _prepare(self, position: int) -> Item:
    labelled = prepare(
      self._examples[position],
      self._examples.name(position),
      self.plan,
      len(self._names),
    )
    return Item(labelled.key, labelled)

  def _together(self, key: Any) -> int:
    each = sizes.at_a_time(
      key.shapes.window,
      self.settings.patch_size,
      self.options.batch_size,
      key.output or key.shapes.scaled,
    )
    return each * (self.mesh.size if self.mesh else 1)

  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Labelled]], Output]:
    classes = self._classes(predict_fns, variables)

    regions_fn = self._regions_fn(predict_fns)

    def measure(images):
      key = images[0].key
      count, inputs = self._together(key), [x.image for x in images]
      encoded = regions.encode(
        regions_fn,
        variables,
        inputs,
        count=count,
        mesh=self.mesh,
        grouping=self.settings.grouping,
      )
      labels, scaled = ground_truth(images, count), None
      if self.counter.refine is not None:
        scaled = sizes.pad_images(
          [x.scaled for x in inputs], key.shapes.scaled, count
        )
      if self.mesh is not None:
        labels, scaled = sharding.shard_batch((labels, scaled), self.mesh)
      count_all = counting(self.counter, self.mesh)
      return Output(count_all(encoded, classes, labels, key.shapes, scaled))

    return measure

  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> BenchmarkResult:
    images, blank = totals.images, totals.counts['blank']
    if blank == images:
      raise errors.SourceError(
        f'No pixel of the {images} images counts: all of their labels are '
        f'{metrics.IGNORE}, which is ignored; check the label maps.'
      )
    if blank and not jax.process_index():
      warnings.warn(
        f'{blank} of {images} images have no pixel that counts: all of their '
        f'labels are {metrics.IGNORE}',
        stacklevel=3,
      )
    return BenchmarkResult(
      class_names=self._names,
      background=self.settings.background,
      counts=totals.counts,
      images=images,
      skipped=totals.skipped,
      seconds=totals.seconds,
      label_groups=self._label_groups,
    )
