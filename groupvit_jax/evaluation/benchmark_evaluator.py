"""Zero-shot segmentation of a benchmark by a protocol, counted on the device.

Pictures of all sizes, in windows, at static shapes; the host only decodes. What
is counted are whole numbers, so that neither devices, processes nor
interruptions change a figure. The network's floats may be rounded otherwise in
batches of another size: then a pixel whose two best groups or classes are equal
but for that may change.
"""

import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from groupvit_jax import errors, metrics, sharding_processes
from groupvit_jax.evaluation import (
  benchmark_journal,
  benchmark_pass,
  benchmark_pictures,
  canvases,
  zero_shot,
)
from groupvit_jax.evaluation import evaluator as evaluator_lib
from groupvit_jax.evaluation.benchmark_counts import Counter
from groupvit_jax.evaluation.benchmark_journal import Journal
from groupvit_jax.evaluation.benchmark_programs import Programs
from groupvit_jax.evaluation.benchmark_result import BenchmarkResult
from groupvit_jax.evaluation.protocols import Protocol
from groupvit_jax.text import prompts

# Of the released protocol, where a protocol leaves it open.
SHORT_SIDE = 448


class BenchmarkEvaluator:
  """Zero-shot segmentation of a labelled set; see `BenchmarkResult`.

  In a multi-process run every process calls it, takes every P-th picture at its
  own pace, and gets the figures of the whole.

  Attributes:
    protocol: how it evaluates.
    class_names: in the order of the labels, synonyms as in 'person|man'.
    programs: what is compiled.
    journal: of the last or present pass; None before the first.
  """

  def __init__(
    self,
    examples: benchmark_pictures.LabelledSet,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    protocol: Protocol,
    *,
    class_names: Sequence[str],
    background: bool,
    batch_size: int = 8,
    patch_size: int = 16,
    mesh: Mesh | None = None,
    grouping: Callable[..., Any] | None = None,
    refine: Callable[[Array, Array, Array], Array] | None = None,
    boundary: bool = True,
    diagnosis: bool = True,
    skip_bad: bool = False,
    data: Any = None,
    journal: str | os.PathLike | None = None,
    journal_every: int = 50,
    progress: Callable[[int, int], None] | None = None,
  ):
    """Prepares the prompts.

    Args:
      examples: the labelled pictures; asked for in several threads.
      tokenizer: texts -> int32 [n, l].
      protocol: from `protocols.make`.
      class_names: c names, the background first if there is one. It gets no
        prompt if the protocol has a threshold for it, and its own otherwise.
      background: whether class 0 is the background.
      batch_size: pictures that go together on each device at most.
      patch_size: of the model, in pixels.
      mesh: splits the batches over its axis 'data'.
      grouping: for models without groups (see `grouping_baselines`).
      refine: see `benchmark_counts.Counter`.
      boundary: also measure along borders.
      diagnosis: also measure what oracle labels and a given background would
        bring, and how well the best groups fit.
      skip_bad: count and list pictures that cannot be used instead of stopping.
      data: plain values that tell the examples from others of the same names
        (their folder, a seed); a journal of others is refused.
      journal: path of a file to go on from after a crash; None keeps none. It
        stays until `evaluator.journal.remove()`.
      journal_every: pictures from one writing of it to the next.
      progress: called with pictures done and in all, of this process.

    Raises:
      ValueError: a threshold without a background class, or the like.
      errors.SourceError: the set is empty.
    """
    if not len(examples):
      raise errors.SourceError(
        'The split to evaluate has no pictures; check its folder and lists.'
      )
    if batch_size < 1:
      raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
    config = protocol.segment
    threshold = config.background_threshold is not None
    if threshold and not background:
      raise ValueError(
        'background_threshold is set, but the truth has no background class; '
        'set it to None.'
      )
    self.protocol, self.class_names = protocol, tuple(class_names)
    self.journal: Journal | None = None
    self._examples, self._background = examples, background
    self._skip_bad, self._progress = skip_bad, progress
    self._data = data
    self._journal_path, self._journal_every = journal, journal_every
    short_side = config.short_side or SHORT_SIDE
    self._plan = canvases.plan(config, short_side, patch_size)
    self._tokens = zero_shot.tokenize_classes(
      tokenizer, self.class_names[int(threshold) :], protocol.templates
    )
    count = len(self.class_names)
    self.programs = Programs(
      Counter(config, count, background, diagnosis, boundary, refine),
      batch_size,
      patch_size,
      sharding_processes.local_mesh(mesh),
      grouping,
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
      predict_fns: 'text', 'regions' and 'scale'.
      variables: their first argument; on a mesh, whole on every device.

    Returns:
      All that was counted, in all processes.

    Raises:
      errors.ImageError, errors.SourceError, OSError: a picture that cannot be
        used, unless bad ones are skipped; none that can, or no pixel that
        counts.
      errors.WorkdirError: the journal is of another evaluation.
    """
    variables = sharding_processes.local_view(variables, self.programs.mesh)
    try:
      self.journal = self._open_journal(variables)
      self._pass(predict_fns, variables)
    except Exception as error:
      # Told to the other processes first, which else wait for ever.
      sharding_processes.gather({'failure': str(error)})
      raise
    return self._result()

  def _pass(self, predict_fns, variables):
    text = zero_shot.embed_tokens(predict_fns['text'], variables, self._tokens)
    words = text, jax.jit(predict_fns['scale'])(variables)
    mine = range(jax.process_index(), len(self._examples), jax.process_count())
    items = benchmark_pictures.read(
      functools.partial(
        benchmark_pictures.prepare,
        self._examples,
        plan=self._plan,
        num_classes=len(self.class_names),
      ),
      [i for i in mine if i not in self.journal.done],
      self._skip_bad,
    )
    tell = self._progress or (lambda done, total: None)
    benchmark_pass.Pass(
      functools.partial(
        self.programs.measure, predict_fns['regions'], variables, words
      ),
      self.programs.together,
      self.journal,
      every=self._journal_every,
      progress=lambda done: tell(done, len(mine)),
    ).run(items, self._examples.name)

  def _open_journal(self, variables):
    path = self._journal_path
    if path is None:
      return Journal(None, {})
    names = list(map(self._examples.name, range(len(self._examples))))
    counter = self.programs.counter
    grouping = re.sub(' at 0x[0-9a-f]+', '', repr(self.programs.grouping))
    settings = {
      'protocol': dataclasses.asdict(self.protocol),
      'classes': self.class_names,
      'data': self._data,
      'pictures': benchmark_journal.fingerprint(names),
      'weights': benchmark_journal.checksum(variables),
      'measures': [counter.diagnosis, counter.boundary],
      'grouping': grouping,
    }
    return Journal(benchmark_journal.part(path), settings)

  def _result(self):
    """What all processes found together."""
    journal = self.journal
    parts = sharding_processes.gather(
      {
        'counts': {name: x.tolist() for name, x in journal.counts.items()},
        'skipped': list(journal.refused.values()),
        'seconds': journal.seconds,
      }
    )
    failed = [part['failure'] for part in parts if 'failure' in part]
    if failed:
      raise errors.SourceError(f'Another process failed: {failed[0]}')
    counts = benchmark_pass.summed([part['counts'] for part in parts])
    skipped = sorted(tuple(pair) for part in parts for pair in part['skipped'])
    if not counts:
      raise errors.SourceError(
        f'None of the {len(self._examples)} pictures can be used; the first: '
        f'{skipped[0][1]}'
      )
    images, blank = int(counts['images']), int(counts['blank'])
    if blank == images:
      raise errors.SourceError(
        f'No pixel of the {images} pictures counts: all of their truth is '
        f'{metrics.IGNORE}, which is ignored; check the label maps.'
      )
    if blank and not jax.process_index():
      warnings.warn(
        f'{blank} of {images} pictures have no pixel that counts: all of their '
        f'truth is {metrics.IGNORE}',
        stacklevel=2,
      )
    return BenchmarkResult(
      class_names=tuple(map(prompts.shown_name, self.class_names)),
      background=self._background,
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
