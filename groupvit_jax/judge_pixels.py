"""Benchmarks of labelled pixels: segmentation under a protocol."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from groupvit_jax import judge_names
from groupvit_jax.data import benchmarks, label_sets
from groupvit_jax.errors import ConfigError
from groupvit_jax.evaluation import (
  background,
  benchmark_evaluator,
  canvases,
  grouping_baselines,
  protocols,
  refinement,
)
from groupvit_jax.judge_question import Encoder, Judge, Question
from groupvit_jax.text import prompts


def make(
  question: Question,
  encoder: Encoder,
  *,
  batch_size: int,
  mesh: Mesh | None,
  journal: pathlib.Path | None,
  progress: Callable[[int, int], None] | None,
) -> Judge:
  """Opens the data and prepares the evaluator; arguments of `judge.make`."""
  grouping = _grouping(question, encoder)
  examples = benchmarks.open_set(
    question.benchmark,
    question.folder,
    split=question.split,
    limit=question.limit,
    **question.options,
  )
  protocol = protocols.make(
    question.protocol,
    question.benchmark,
    background=examples.background,
    # So written, no field can be taken for another argument.
    **{f'segment.{key}': value for key, value in question.overrides.items()},
  )
  names = _names(question, protocol, examples)
  _check_background(question, protocol, examples)
  evaluator = benchmark_evaluator.BenchmarkEvaluator(
    examples,
    encoder.tokenizer,
    protocol,
    class_names=names,
    background=examples.background,
    patch_size=encoder.patch_size,
    grouping=grouping,
    refine=refinement.make() if protocol.refine == 'pamr' else None,
    batch_size=batch_size,
    mesh=mesh,
    data=question.origin,
    journal=journal,
    skip_bad=question.skip_bad,
    boundary=question.boundary,
    diagnosis=question.diagnosis,
    progress=progress,
  )
  return Judge(
    kind='segmentation',
    evaluator=evaluator,
    total=len(examples),
    settings={
      'protocol': describe(protocol),
      # What the protocol leaves to follow, followed.
      'sizes': dataclasses.asdict(
        canvases.plan(
          protocol.segment,
          protocol.segment.short_side or benchmark_evaluator.SHORT_SIDE,
          encoder.patch_size,
        )
      ),
      'class_names': list(names),
      'background': examples.background,
      'regions': question.regions,
      'num_groups': _num_groups(question),
      'options': question.read_options,
      'calibration': question.calibration,
    },
    skipped=lambda: (),  # the evaluator's result has them
  )


def describe(protocol: protocols.Protocol) -> dict[str, Any]:
  """A protocol as plain values, every step of it written out."""
  return dataclasses.asdict(protocol) | {
    'templates': list(protocol.templates),
    'changed': list(protocol.changed),
  }


def at_size(side: int) -> Mapping[str, Any]:
  """Overrides for pictures of another size: all that depends on it follows."""
  following = dict.fromkeys(('long_side', 'window', 'stride'))
  return {'short_side': side, **following}


def _num_groups(question):
  """Of groupings that are told it."""
  told = question.regions in judge_names.COUNTED
  return question.num_groups if told else None


def _grouping(question, encoder):
  """How patches are grouped; None for a model that groups by itself."""
  if question.regions == judge_names.MODEL:
    if not encoder.groups:
      raise ConfigError(
        'this model has no groups of its own; say how its patches are grouped: '
        f'regions can be {", ".join(grouping_baselines.GROUPINGS)}'
      )
    return None
  if encoder.groups:
    raise ConfigError(
      f'this model has groups of its own, so that regions={question.regions!r} '
      "is nothing to it; leave regions at 'model'"
    )
  return grouping_baselines.make(
    question.regions, num_groups=question.num_groups
  )


def _check_background(question, protocol, examples) -> None:
  """What depends on the classes, before anything runs."""
  segment = protocol.segment
  if segment.background_prompts and not examples.background:
    raise ConfigError(
      f'background_prompts takes the first class for the background, and '
      f'{question.benchmark} has none: its first is '
      f'{examples.class_names[0]!r}; leave it out'
    )
  # They need a background_threshold, which only data with a background take.
  if segment.class_thresholds is not None and examples.background:
    background.check_count(
      len(segment.class_thresholds), len(examples.class_names) - 1
    )


def _names(question, protocol, examples) -> Sequence[str]:
  """Class names as they are prompted, in label order."""
  known = question.benchmark in label_sets.BENCHMARK_SETS
  if 'names' in question.overrides and (question.class_names or not known):
    raise ConfigError(
      'names chooses how the classes of a benchmark are spelt, and these are '
      'your own; leave it out'
    )
  if question.class_names is None:
    if not known:
      return examples.class_names
    return label_sets.class_names(question.benchmark, protocol.names)
  names = tuple(question.class_names)
  prompts.check_distinct(names)
  if len(names) != len(examples.class_names):
    first = examples.class_names[0]
    raise ConfigError(
      f'{len(names)} class names were given, and {question.benchmark} has '
      f'{len(examples.class_names)} classes, the first being {first!r}: give '
      'one for each, in their order'
    )
  return names
