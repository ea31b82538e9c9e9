"""Zero-shot segmentation of a benchmark by a protocol, counted on the device.

Images of all sizes, in windows, at static shapes; the host only decodes. The
counts are whole numbers, so that neither devices, processes nor interruptions
change a figure. The network's floats may be rounded otherwise in batches of
another size: then a pixel whose two best groups or classes are equal but for
that may change.
"""

import collections
import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from groupvit_jax import errors, sharding
from groupvit_jax.evaluation import (
  benchmark_inputs,
  metrics,
  regions,
  regrouping,
  resume,
  sizes,
  zero_shot,
)
from groupvit_jax.evaluation import evaluator as evaluator_lib
from groupvit_jax.evaluation.benchmark_counts import (
  JACCARD_UNIT,
  BenchmarkCounts,
  Counter,
)
from groupvit_jax.evaluation.benchmark_inputs import Key, Labelled, Refused
from groupvit_jax.evaluation.config import Protocol
from groupvit_jax.evaluation.resume import ResumeState
from groupvit_jax.evaluation.scoring import ClassEmbeddings
from groupvit_jax.text import prompts

# Batches that may be under way: the host must not run far ahead of the device,
# since what waits there fills memory.
_UNDER_WAY = 2

# Of the released protocol; used where a protocol sets none.
SHORT_SIDE = 448


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a `BenchmarkEvaluator`.

  Attributes:
    protocol: from `config.make`.
    class_names: c names in label order, synonyms as in 'person|man'; the
      background first if there is one. It gets no prompt if the protocol has a
      threshold for it, and its own otherwise.
    background: whether class 0 is the background.
    batch_size: images that go together on each device at most.
    patch_size: of the model, in pixels.
    grouping: for models without groups (see `clustering.make`).
    refine: see `benchmark_counts.Counter`.
    boundary: also measure along borders.
    diagnosis: also measure what oracle labels and a given background would
      bring, and how well the best groups fit.
    skip_bad: count and list images that cannot be used instead of stopping.
    data: plain values that tell the examples from others of the same names
      (their folder, a seed); a resume state of others is refused.
    resume_every: images from one writing of the resume state to the next.
  """

  protocol: Protocol
  class_names: Sequence[str]
  background: bool
  batch_size: int = 8
  patch_size: int = 16
  grouping: Callable[..., Any] | None = None
  refine: Callable[[Array, Array, Array], Array] | None = None
  boundary: bool = True
  diagnosis: bool = True
  skip_bad: bool = False
  data: Any = None
  resume_every: int = 50


@dataclasses.dataclass(frozen=True)
class Programs:
  """How batches are measured.

  The encoder's program knows neither classes nor ground truth, so that every
  benchmark shares it; the counter's is quick to compile, once per `Key`.

  Attributes:
    counter: what is counted.
    batch_size, patch_size, grouping: see `Settings`.
    mesh: of this process's devices; None for one.
  """

  counter: Counter
  batch_size: int
  patch_size: int
  grouping: Callable[..., Any] | None
  mesh: Mesh | None

  def together(self, key: Key) -> int:
    """Images of a key that make a batch, over all devices."""
    each = sizes.at_a_time(
      key.shapes.window, self.patch_size, self.batch_size, key.output
    )
    return each * (1 if self.mesh is None else self.mesh.size)

  def measure(
    self,
    regions_fn: Callable[..., Any],
    variables: Any,
    classes: ClassEmbeddings,
    images: Sequence[Labelled],
  ) -> BenchmarkCounts:
    """Starts one batch; nothing is waited for.

    Args:
      regions_fn: predict_fns['regions'].
      variables: its first argument.
      classes: see `Counter.count`.
      images: of one key.

    Returns:
      The counts, on the device.
    """
    key = images[0].key
    count, shapes = self.together(key), key.shapes
    encoded = regions.encode(
      regions_fn,
      variables,
      [image.image for image in images],
      count=count,
      mesh=self.mesh,
      grouping=self.grouping,
    )
    truth, scaled = benchmark_inputs.ground_truth(images, count), None
    if self.counter.refine is not None:
      scaled = sizes.pad_images(
        [image.image.scaled for image in images], shapes.scaled, count
      )
    truth, scaled = evaluator_lib.place((truth, scaled), self.mesh)
    counting = self._counting(self.counter, self.mesh)
    return counting(encoded, classes, truth, shapes, scaled)

  # Kept outside of any evaluator, so that another one compiles nothing anew.
  @staticmethod
  @functools.lru_cache(maxsize=64)
  def _counting(counter, mesh):
    return evaluator_lib.jit_measure(counter.count, mesh, static_argnums=3)

  @property
  def compiled(self) -> tuple[int, int]:
    """Programs so far: encoders, and those that count like this one."""
    count = self._counting(self.counter, self.mesh)
    return regions.encoders_compiled(), count._cache_size()


merge = jax.jit(lambda a, b: a.merge(b))


class Pass:
  """Counts images as they come, a batch whenever one is full."""

  def __init__(
    self,
    measure: Callable[[Sequence[Labelled]], BenchmarkCounts],
    together: Callable[[Key], int],
    state: ResumeState,
    *,
    every: int,
    progress: Callable[[int], None],
  ):
    """Prepares an empty pass.

    Args:
      measure: starts a batch of images of one key.
      together: how many of a key make a batch.
      state: gets the counts.
      every: images from one writing of it to the next.
      progress: called with the images done.
    """
    self._measure, self._together = measure, together
    self._state, self._every, self._progress = state, every, progress
    # The total and the images that it is of. Always replaced together, since
    # Ctrl-C may come between two lines, and the state is written even then.
    self._pending = None, ()
    self._under_way = collections.deque()
    self._saved = len(state.done)

  def run(
    self, items: Iterable[Labelled | Refused], name: Callable[[int], str]
  ) -> None:
    """Counts all items; whatever stops it, the state has what was counted.

    Args:
      items: from `benchmark_inputs.read`.
      name: of a position.
    """
    waiting = {}
    try:
      for item in items:
        if isinstance(item, Refused):
          self._state.skipped[item.position] = (
            name(item.position),
            item.reason,
          )
        else:
          together = waiting.setdefault(item.key, [])
          together.append(item)
          if len(together) == self._together(item.key):
            self._start(waiting.pop(item.key))
        self._tell()
      for together in waiting.values():
        self._start(together)
        self._tell()
    finally:
      self._save()

  def _start(self, images):
    update = self._measure(images)
    # Starting from the first update, not from zeros made elsewhere, keeps one
    # kind of array in the loop, hence one compilation.
    total, positions = self._pending
    if total is not None:
      update = merge(total, update)
    positions = (*positions, *(image.position for image in images))
    self._pending = update, positions
    self._under_way.append(update.images)
    if len(self._under_way) > _UNDER_WAY:
      jax.block_until_ready(self._under_way.popleft())

  def _tell(self):
    done = len(self._state.done) + len(self._pending[1])
    if done - self._saved >= self._every:
      self._save()
    self._progress(done + len(self._state.skipped))

  def _save(self):
    """Fetches the counts and keeps them, with the images that they are of."""
    total, positions = self._pending
    if total is not None:
      self._state.add(_by_name(jax.device_get(total)), positions)
      self._pending = None, ()
    self._saved = len(self._state.done)


def _by_name(counts: BenchmarkCounts) -> Mapping[str, np.ndarray]:
  tallies = {
    field.name: getattr(counts, field.name)
    for field in dataclasses.fields(counts)
  }
  return {
    name: tally.compute()
    for name, tally in tallies.items()
    if tally is not None
  }


def summed(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Counts by name, added up; lists become int64 arrays."""
  total = {}
  for counts in parts:
    for name, value in counts.items():
      total[name] = total.get(name, 0) + np.asarray(value, np.int64)
  return total


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
  """Everything that was counted, on the host.

  Attributes:
    class_names: c names, in the order of the matrices, as they are shown.
    background: whether class 0 is the background.
    confusion_matrix: int64 c c, rows ground truth, columns prediction.
    images: images that counted.
    skipped: (name, reason) of those that could not be used.
    seconds: all that it took, earlier attempts included.
    given_background_confusion_matrix: the same, with the background taken from
      the ground truth; None without one.
    oracle_confusion_matrix: the same, with every group named by the ground
      truth.
    jaccard: int64 2 c, by true class: windows that show it, and the sum of the
      best group's Jaccard index in hundred-thousandths.
    boundary: int64 3 c, pixels in both bands along borders, in the ground
      truth's, in the prediction's.
    blank: images none of whose pixels count.
  """

  class_names: tuple[str, ...]
  background: bool
  confusion_matrix: np.ndarray
  images: int
  skipped: tuple[tuple[str, str], ...] = ()
  seconds: float = 0.0
  given_background_confusion_matrix: np.ndarray | None = None
  oracle_confusion_matrix: np.ndarray | None = None
  jaccard: np.ndarray | None = None
  boundary: np.ndarray | None = None
  blank: int = 0

  @property
  def miou(self) -> float:
    """Mean IoU over the classes that labels or prediction have, in 0..1."""
    return metrics.miou(self.confusion_matrix)

  @property
  def best_group_jaccard(self) -> float:
    """Mean Jaccard index of the best group over classes and windows.

    The background is no object and is left out. NaN if nothing was counted.
    """
    count, total = self.jaccard[:, int(self.background) :].sum(1)
    return float(total / JACCARD_UNIT / count) if count else float('nan')

  def figures(self) -> Iterator[tuple[str, float]]:
    """(name, figure) pairs; shares in 0..1; absent classes are left out."""
    matrix = self.confusion_matrix
    yield 'miou', self.miou
    yield 'pixel_accuracy', metrics.pixel_accuracy(matrix)
    yield 'mean_accuracy', metrics.mean_accuracy(matrix)
    yield 'frequency_weighted_iou', metrics.frequency_weighted_iou(matrix)
    if self.boundary is not None:
      by_class = metrics.boundary_iou(self.boundary)
      yield 'boundary_miou', metrics.mean_of_present(by_class)
    if self.oracle_confusion_matrix is not None:
      yield 'oracle_miou', metrics.miou(self.oracle_confusion_matrix)
    if self.given_background_confusion_matrix is not None:
      given = self.given_background_confusion_matrix
      yield 'given_background_miou', metrics.miou(given)
    if self.jaccard is not None:
      yield from _present('best_group_jaccard', self.best_group_jaccard)
    for name, value in zip(self.class_names, metrics.iou(matrix), strict=True):
      yield from _present(f'iou/{name}', float(value))
    yield 'images', float(self.images)
    yield 'skipped', float(len(self.skipped))


def _present(name: str, value: float) -> Iterator[tuple[str, float]]:
  if not np.isnan(value):
    yield name, value


class BenchmarkEvaluator:
  """Zero-shot segmentation of a labelled set; see `BenchmarkResult`.

  In a multi-process run every process calls it, takes every P-th image at its
  own pace, and gets the figures of the whole.

  Attributes:
    settings: see `Settings`.
    programs: what is compiled.
    resume_state: of the last or present pass; None before the first.
  """

  def __init__(
    self,
    examples: benchmark_inputs.LabelledSet,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    settings: Settings,
    *,
    mesh: Mesh | None = None,
    resume_path: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
  ):
    """Prepares the prompts.

    Args:
      examples: the labelled images; read in several threads.
      tokenizer: texts -> int32 [n, l].
      settings: see `Settings`.
      mesh: splits the batches over its axis 'data'.
      resume_path: file of the resume state; None keeps none. The file stays
        until `evaluator.resume_state.remove()`.
      progress: called with images done and in all, of this process.

    Raises:
      ValueError: a threshold without a background class, or the like.
      errors.SourceError: the set is empty.
    """
    if not len(examples):
      raise errors.SourceError(
        'The split to evaluate has no images; check its folder and lists.'
      )
    if settings.batch_size < 1:
      raise ValueError(
        f'batch_size must be at least 1, got {settings.batch_size}.'
      )
    config = settings.protocol.segment
    threshold = config.background_threshold is not None
    if threshold and not settings.background:
      raise ValueError(
        'background_threshold is set, but the labels have no background class; '
        'set it to None.'
      )
    self.settings = settings
    self.resume_state: ResumeState | None = None
    self._examples = examples
    self._resume_path = resume_path
    self._progress = progress or (lambda done, total: None)
    self._plan = sizes.plan(
      config, config.short_side or SHORT_SIDE, settings.patch_size
    )
    self._tokens = zero_shot.tokenize_classes(
      tokenizer,
      settings.class_names[int(threshold) :],
      settings.protocol.templates,
    )
    counter = Counter(
      config,
      len(settings.class_names),
      settings.background,
      settings.diagnosis,
      settings.boundary,
      settings.refine,
    )
    self.programs = Programs(
      counter,
      settings.batch_size,
      settings.patch_size,
      settings.grouping,
      sharding.local_mesh(mesh),
    )

  def run(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Evaluates and yields (name, figure); shares in 0..1."""
    yield from self.evaluate(predict_fns, variables).figures()

  def evaluate(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any
  ) -> BenchmarkResult:
    """One pass over the set, or the rest of one that was interrupted.

    Args:
      predict_fns: 'text', 'regions' and 'logit_scale'.
      variables: their first argument; on a mesh, whole on every device.

    Returns:
      The counts of all processes.

    Raises:
      errors.ImageError, errors.SourceError, OSError: an image that cannot be
        used, unless bad ones are skipped; none that can, or no pixel that
        counts.
      errors.WorkdirError: the resume state is of another evaluation.
    """
    variables = sharding.local_view(variables, self.programs.mesh)
    try:
      self.resume_state = self._open_state(variables)
      self._pass(predict_fns, variables)
    except Exception as error:
      # Sent to the other processes first, which else wait for ever.
      sharding.gather({'failure': str(error)})
      raise
    return self._result()

  def _pass(self, predict_fns, variables):
    classes = ClassEmbeddings(
      zero_shot.embed_tokens(predict_fns['text'], variables, self._tokens),
      jax.jit(predict_fns['logit_scale'])(variables),
    )
    mine = range(jax.process_index(), len(self._examples), jax.process_count())
    items = benchmark_inputs.read(
      functools.partial(
        benchmark_inputs.prepare,
        self._examples,
        plan=self._plan,
        num_classes=len(self.settings.class_names),
      ),
      [i for i in mine if i not in self.resume_state.done],
      self.settings.skip_bad,
    )
    regroups = self.programs.counter.config.regroup != 'none'
    encode = regrouping.regions_fn(predict_fns, regroups)
    Pass(
      functools.partial(self.programs.measure, encode, variables, classes),
      self.programs.together,
      self.resume_state,
      every=self.settings.resume_every,
      progress=lambda done: self._progress(done, len(mine)),
    ).run(items, self._examples.name)

  def _open_state(self, variables):
    path = self._resume_path
    if path is None:
      return ResumeState()
    settings = self.settings
    names = list(map(self._examples.name, range(len(self._examples))))
    grouping = re.sub(' at 0x[0-9a-f]+', '', repr(settings.grouping))
    return ResumeState(
      resume.process_path(path),
      {
        'protocol': dataclasses.asdict(settings.protocol),
        'classes': settings.class_names,
        'data': settings.data,
        'images': resume.fingerprint(names),
        'weights': resume.checksum(variables),
        'measures': [settings.diagnosis, settings.boundary],
        'grouping': grouping,
      },
    )

  def _result(self):
    """The counts of all processes together."""
    state = self.resume_state
    parts = sharding.gather(
      {
        'counts': {name: x.tolist() for name, x in state.counts.items()},
        'skipped': list(state.skipped.values()),
        'seconds': state.seconds,
      }
    )
    failed = [part['failure'] for part in parts if 'failure' in part]
    if failed:
      raise errors.SourceError(f'Another process failed: {failed[0]}')
    counts = summed([part['counts'] for part in parts])
    skipped = sorted(tuple(pair) for part in parts for pair in part['skipped'])
    if not counts:
      raise errors.SourceError(
        f'None of the {len(self._examples)} images can be used; the first: '
        f'{skipped[0][1]}'
      )
    images, blank = int(counts['images']), int(counts['blank'])
    if blank == images:
      raise errors.SourceError(
        f'No pixel of the {images} images counts: all of their labels are '
        f'{metrics.IGNORE}, which is ignored; check the label maps.'
      )
    if blank and not jax.process_index():
      warnings.warn(
        f'{blank} of {images} images have no pixel that counts: all of their '
        f'labels are {metrics.IGNORE}',
        stacklevel=2,
      )
    return BenchmarkResult(
      class_names=tuple(map(prompts.shown_name, self.settings.class_names)),
      background=self.settings.background,
      confusion_matrix=counts['confusion'],
      images=images,
      skipped=tuple(skipped),
      seconds=max(part['seconds'] for part in parts),
      given_background_confusion_matrix=counts.get('given_background'),
      oracle_confusion_matrix=counts.get('oracle'),
      jaccard=counts.get('jaccard'),
      boundary=counts.get('boundary'),
      blank=blank,
    )
