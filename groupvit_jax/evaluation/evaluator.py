"""Base class of the evaluators: one pass over a labelled set, resumable.

An evaluator sees pure functions of (variables, inputs), never a model, so the
same one evaluates a GroupViT and a CLIP ViT. Subclasses define how an example
is prepared, how a batch is measured, and what the totals mean.
"""

import abc
import dataclasses
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from groupvit_jax import errors, files, sharding
from groupvit_jax.evaluation import resume

PredictFns = Mapping[str, Callable[..., Any]]

# Figures of the evaluators that are not shares in 0..1.
COUNTS = (
  'groups_in_use',
  'groups_winning',
  'groups_per_image',
  'images',
  'captions',
  'skipped',
)

_AHEAD = 3 * min(16, os.cpu_count() or 1)
# Batches that may be under way: the host must not run far ahead of the device,
# since what waits there fills memory.
_UNDER_WAY = 2


def to_percent(figures: Mapping[str, float]) -> dict[str, float]:
  """The same figures with shares in 0..100, as papers and summary.json say."""
  return {
    name: value if name.rsplit('/', 1)[-1] in COUNTS else 100.0 * value
    for name, value in figures.items()
  }


@runtime_checkable
class LabelledSet(Protocol):
  """The data of an evaluation: examples by position, read in several threads.

  `examples[i]` has `name`, `image` (uint8 h w 3) and, where it is needed,
  `label`; it may raise a UserError or OSError that names the file.
  """

  def __len__(self) -> int: ...

  def name(self, index: int) -> str:
    """Name of an image; known without reading it."""
    ...

  def __getitem__(self, index: int) -> Any: ...


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """How an evaluation runs; none of it changes a figure.

  Attributes:
    batch_size: images that go together on each device at most.
    mesh: splits batches over the devices of this process that are in it.
    resume_path: file of the resume state; None keeps none. The file stays
      until `evaluator.resume_state.remove()`.
    resume_every: images from one writing of the resume state to the next.
    progress: called with images done and in all, of this process.
    skip_bad: skip and list images that cannot be used instead of stopping.
    origin: plain values by name that tell the examples from others of the same
      names (their folder, a seed); a resume state of others is refused.
  """

  batch_size: int = 8
  mesh: Mesh | None = None
  resume_path: str | os.PathLike | None = None
  resume_every: int = 50
  progress: Callable[[int, int], None] = lambda done, total: None
  skip_bad: bool = False
  origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Item(NamedTuple):
  """An example that is ready; those of one key make a batch."""

  key: Hashable
  value: Any


class Output(NamedTuple):
  """Counts and vectors of a batch; the arrays may still be computed.

  Attributes:
    counts: numbers by name, which add up.
    rows: a vector for each image, padding last; None for none.
  """

  counts: Mapping[str, Any]
  rows: Any = None


class Totals(NamedTuple):
  """Sums and vectors over all images and processes.

  Attributes:
    counts: int64 (or float64) arrays by name.
    rows: vectors of the images by position, in its order.
    images: images that counted.
    skipped: sorted (name, reason) of those that could not be used.
    seconds: all that it took, earlier attempts included.
  """

  counts: Mapping[str, np.ndarray]
  rows: Mapping[int, np.ndarray]
  images: int
  skipped: tuple[tuple[str, str], ...]
  seconds: float


class Evaluator(abc.ABC):
  """Measures a labelled set; sub-classes say what.

  In a run of several processes every process calls it, takes every P-th image
  at its own pace, and gets the figures of the whole.

  Attributes:
    options: see `RunOptions`.
    mesh: of this process's devices; None for one.
    resume_state: of the last or present pass; None before the first.
  """

  def __init__(self, examples: LabelledSet, options: RunOptions):
    if not len(examples):
      raise errors.SourceError(
        'The split to evaluate has no images; check its folder and lists.'
      )
    if options.batch_size < 1:
      raise ValueError(
        f'batch_size must be at least 1, got {options.batch_size}.'
      )
    self.options = options
    self.mesh = sharding.local_mesh(options.mesh)
    self.resume_state: resume.ResumeState | None = None
    self._examples = examples

  @abc.abstractmethod
  def _identity(self) -> Mapping[str, Any]:
    """Plain values that the counts depend on, beside data and weights."""

  @abc.abstractmethod
  def _prepare(self, position: int) -> Item:
    """Reads one example; called in several threads."""

  @abc.abstractmethod
  def _measurer(
    self, predict_fns: PredictFns, variables: Any
  ) -> Callable[[Sequence[Any]], Output]:
    """Returns what starts a batch, of the values of items of one key."""

  @abc.abstractmethod
  def _result(
    self, totals: Totals, predict_fns: PredictFns, variables: Any
  ) -> Any:
    """An object with figures(), images, skipped and seconds."""

  def _together(self, key: Hashable) -> int:
    """Images of a key that make a batch, over all devices."""
    del key
    return self.options.batch_size * (self.mesh.size if self.mesh else 1)

  def run(
    self, predict_fns: PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Evaluates and yields (name, figure); shares in 0..1."""
    yield from self.evaluate(predict_fns, variables).figures()

  def evaluate(self, predict_fns: PredictFns, variables: Any) -> Any:
    """One pass over the set, or the rest of one that was interrupted.

    Args:
      predict_fns: pure functions by name ('image', 'text', 'regions',
        'logit_scale'). Pass the same function objects each time: a new one
        compiles anew.
      variables: the flax dict that they take first; on a mesh, whole on every
        device.

    Returns:
      The result of all processes: figures(), images, skipped, seconds.

    Raises:
      errors.ImageError, errors.SourceError, OSError: an image that cannot be
        used, unless bad ones are skipped; none that can, or no pixel that
        counts.
      errors.WorkdirError: the resume state is of another evaluation.
    """
    variables = sharding.local_view(variables, self.mesh)
    try:
      self.resume_state = self._open_state(variables)
      self._pass(self.resume_state, self._measurer(predict_fns, variables))
    except Exception as error:
      # Sent to the other processes first, which else wait for ever.
      sharding.gather({'failure': str(error)})
      raise
    return self._result(self._totals(), predict_fns, variables)

  def _open_state(self, variables: Any) -> resume.ResumeState:
    path = self.options.resume_path
    if path is None:
      return resume.ResumeState()
    names = list(map(self._examples.name, range(len(self._examples))))
    return resume.ResumeState(
      resume.process_path(path),
      {
        **self._identity(),
        **self.options.origin,
        'images': resume.fingerprint(names),
        'weights': resume.checksum(variables),
      },
    )

  def _pass(
    self,
    state: resume.ResumeState,
    measure: Callable[[Sequence[Any]], Output],
  ) -> None:
    """Measures a batch whenever one is full; stopped, the state is written."""
    mine = range(jax.process_index(), len(self._examples), jax.process_count())
    under_way: list[tuple[list[int], Output]] = []
    waiting: dict[Hashable, list[tuple[int, Any]]] = {}

    def start(batch):
      positions, values = map(list, zip(*batch, strict=True))
      under_way.append((positions, measure(values)))
      if len(under_way) > _UNDER_WAY:
        jax.block_until_ready(under_way[-1 - _UNDER_WAY])
      if sum(len(positions) for positions, _ in under_way) >= every:
        _save(state, under_way)
      tell()

    def tell():
      done = sum(len(positions) for positions, _ in under_way)
      done += len(state.done) + len(state.skipped)
      self.options.progress(done, len(mine))

    every = self.options.resume_every
    remaining = [i for i in mine if i not in state.done]
    try:
      for position, item in self._read(remaining):
        if isinstance(item, Item):
          batch = waiting.setdefault(item.key, [])
          batch.append((position, item.value))
          if len(batch) == self._together(item.key):
            start(waiting.pop(item.key))
        else:
          state.skipped[position] = self._examples.name(position), item
          tell()
      for batch in waiting.values():
        start(batch)
    finally:
      _save(state, under_way)
    tell()

  def _read(self, positions: Sequence[int]) -> Iterator[tuple[int, Item | str]]:
    """Examples in order, prepared ahead by threads; a reason for a bad one."""

    def prepared(position):
      try:
        return position, self._prepare(position)
      except (errors.UserError, OSError) as error:
        if not self.options.skip_bad:
          raise
        return position, str(error)

    return files.results_ahead(prepared, positions, _AHEAD)

  def _totals(self) -> Totals:
    state = self.resume_state
    parts = sharding.gather(
      {
        'counts': state.counts,
        'rows': list(state.rows.items()),
        'images': len(state.done),
        'skipped': list(state.skipped.values()),
        'seconds': state.seconds,
      }
    )
    failed = [part['failure'] for part in parts if 'failure' in part]
    if failed:
      raise errors.SourceError(f'Another process failed: {failed[0]}')
    counts = {}
    for part in parts:
      counts = resume.added(counts, part['counts'])
    skipped = sorted(tuple(pair) for part in parts for pair in part['skipped'])
    images = sum(part['images'] for part in parts)
    if not images:
      raise errors.SourceError(
        f'None of the {len(self._examples)} images can be used; the first: '
        f'{skipped[0][1]}'
      )
    rows = {i: row for part in parts for i, row in part['rows']}
    return Totals(
      counts,
      {i: np.array(rows[i], np.float32) for i in sorted(rows)},
      images,
      tuple(skipped),
      max(part['seconds'] for part in parts),
    )


def _save(
  state: resume.ResumeState, under_way: list[tuple[list[int], Output]]
) -> None:
  """Fetches the outputs and keeps them, with the images that they are of.

  Ctrl-C may come between any two lines: whoever calls this again with the same
  batches counts none twice.
  """
  if not under_way:
    return
  counts, rows, done = {}, [], []
  for positions, output in under_way:
    output = jax.device_get(output)
    counts = resume.added(counts, output.counts)
    if output.rows is not None:
      rows.append(output.rows[: len(positions)])
    done += positions
  state.add(counts, done, np.concatenate(rows) if rows else None)
  under_way.clear()
