"""What is to be measured, on which data, of what model."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupvit_jax import files, judge_names
from groupvit_jax.data import benchmarks


@dataclasses.dataclass(frozen=True)
class Question:
  """What is to be measured.

  Attributes:
    benchmark: one of `judge.NAMES`.
    folder: of its data; None for scenes.
    split: None for the one that figures are reported on.
    limit: the first so many pictures alone.
    protocol: 'groupvit' or 'tcl'; of segmentation.
    overrides: fields of the protocol that differ from it; of whole pictures,
      'templates' alone.
    options: of the reader (scenes: count, size, seed).
    class_names: in label order, in place of the protocol's; synonyms as in
      'person|man|woman'.
    regions: 'model' for a model that groups, or a key of
      `grouping_baselines.GROUPINGS`.
    num_groups: of those that are told how many.
    calibration: where thresholds in the overrides come from, for the report.
    skip_bad: pass over pictures that cannot be used, and list them.
    boundary: measure boundary mIoU too, which costs time.
    diagnosis: measure what oracle labels and a given background would bring,
      and the best groups.
  """

  benchmark: str
  folder: str | os.PathLike | None = None
  split: str | None = None
  limit: int | None = None
  protocol: str = 'groupvit'
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  class_names: Sequence[str] | None = None
  regions: str = judge_names.MODEL
  num_groups: int = judge_names.NUM_GROUPS
  calibration: Mapping[str, Any] | None = None
  skip_bad: bool = False
  boundary: bool = True
  diagnosis: bool = True

  @property
  def place(self) -> str | None:
    """The folder, from wherever one looks; None for scenes."""
    if self.folder is None:
      return None
    return str(files.expanded(self.folder).resolve())

  @property
  def read_split(self) -> str | None:
    """The split, also where it is left open; None for all there is."""
    known = benchmarks.BENCHMARKS.get(self.benchmark)
    return self.split or (known.split if known else None)

  @property
  def read_options(self) -> dict[str, Any]:
    """Options of the reader, also those that are left open."""
    known = benchmarks.BENCHMARKS.get(self.benchmark)
    return {**(known.options if known else {}), **self.options}

  @property
  def origin(self) -> list[Any]:
    """Tells pictures apart that have the same names, as scenes have."""
    return [self.benchmark, self.place, self.read_split, self.read_options]


@dataclasses.dataclass(frozen=True)
class Encoder:
  """What has to be known of a model, beside its `predict_fns`.

  Attributes:
    tokenizer: texts -> int32 [n, l].
    image_size: (h, w) that it was trained on.
    patch_size: side of a token.
    groups: whether its regions have maps.
    clip: whether pictures are cropped as for CLIP.
  """

  tokenizer: Callable[..., Any]
  image_size: tuple[int, int]
  patch_size: int
  groups: bool = True
  clip: bool = False


@dataclasses.dataclass(frozen=True)
class Judge:
  """A question made ready.

  Attributes:
    kind: 'segmentation', 'classification' or 'retrieval'.
    evaluator: conforms to `evaluation.evaluator.Evaluator`.
    total: how many pictures there are.
    settings: all that the figures depend on beside the model; plain values.
    skipped: returns (name, reason) of the pictures that were passed over.
  """

  kind: str
  evaluator: Any
  total: int
  settings: Mapping[str, Any]
  skipped: Callable[[], Sequence[tuple[str, str]]]
