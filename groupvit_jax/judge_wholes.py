"""Benchmarks of whole pictures: classification and retrieval."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from groupvit_jax import judge_names, judge_pictures, judge_truth
from groupvit_jax.data import benchmarks
from groupvit_jax.errors import ConfigError
from groupvit_jax.evaluation import (
  benchmark_journal,
  classification,
  retrieval,
)
from groupvit_jax.judge_question import Encoder, Judge, Question
from groupvit_jax.text import prompts

IMAGENET = 'imagenet'


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
  _check(question)
  with_captions = question.benchmark == judge_names.CAPTIONS
  templates = _templates(question, with_captions)
  if with_captions:
    examples = benchmarks.open_captions(
      question.folder, question.split, limit=question.limit
    )
  else:
    examples = benchmarks.open_labelled_images(
      question.folder,
      question.split,
      class_names=question.class_names,
      limit=question.limit,
    )
  batches = judge_pictures.Batches(
    examples,
    (lambda i, _: i) if with_captions else (lambda _, example: example.label),
    encoder.image_size,
    batch_size,
    clip=encoder.clip,
    skip_bad=question.skip_bad,
    progress=progress,
  )
  settings: dict[str, Any] = {
    'templates': list(templates),
    'image_size': list(encoder.image_size),
    'crop': 'clip' if encoder.clip else 'released',
  }
  if with_captions:
    captions = [examples.captions(i) for i in range(len(examples))]
    settings['captions'] = sum(map(len, captions))
    evaluator = retrieval.RetrievalEvaluator(
      batches,
      captions,
      encoder.tokenizer,
      template=templates[0],
      mesh=mesh,
      open_journal=_opener(question, examples, settings, journal),
    )
  else:
    names = _names(question, examples)
    settings['class_names'] = list(names)
    evaluator = classification.ClassificationEvaluator(
      batches,
      names,
      encoder.tokenizer,
      templates,
      mesh=mesh,
      open_journal=_opener(question, examples, settings, journal),
    )
  return Judge(
    kind='retrieval' if with_captions else 'classification',
    evaluator=evaluator,
    total=len(examples),
    settings=settings,
    skipped=lambda: batches.skipped,
  )


def _opener(
  question: Question,
  examples: Any,
  settings: Mapping[str, Any],
  path: pathlib.Path | None,
) -> Callable[[Any], benchmark_journal.Journal]:
  """Opens what an interrupted run has left, once the weights are known.

  Processes go through whole pictures in step, and could not if one of them had
  fewer left: several keep nothing.
  """
  if path is None or jax.process_count() > 1:
    return benchmark_journal.in_memory
  names = [examples.name(i) for i in range(len(examples))]
  told = dict(settings) | {
    'data': question.origin,
    'pictures': benchmark_journal.fingerprint(names),
  }
  # Of captioned pictures vectors are kept, which no caption changes.
  if question.benchmark != judge_names.CAPTIONS:
    told['truth'] = judge_truth.of_labels(question, examples)

  def opened(variables):
    weights = benchmark_journal.checksum(variables)
    return benchmark_journal.Journal(path, told | {'weights': weights})

  return opened


def _check(question):
  name = question.benchmark
  if question.folder is None:
    raise ConfigError(f'{name} needs the folder of its data')
  if question.options:
    raise ConfigError(f'{name} has no option {next(iter(question.options))!r}')
  others = [key for key in question.overrides if key != 'templates']
  if others:
    raise ConfigError(
      f'{others[0]!r} is of segmentation; of {name} only templates can be set'
    )
  if question.regions != judge_names.MODEL:
    raise ConfigError(f'{name} is of whole pictures, without regions')
  if question.class_names and name == judge_names.CAPTIONS:
    raise ConfigError('captions have no classes; leave their names out')


def _templates(question, with_captions) -> tuple[str, ...]:
  """Released: CLIP's seven of ImageNet. Captions stand for themselves."""
  given = question.overrides.get('templates')
  if given is None:
    return ('{}',) if with_captions else prompts.SUBSET
  found = prompts.find_templates(given)
  if with_captions and len(found) > 1:
    raise ConfigError("captions go into one template, such as 'a photo of {}'")
  return found


def _names(question, examples):
  if question.class_names:
    return question.class_names
  named = tuple(examples.class_names) == tuple(benchmarks.IMAGENET_CLASSES)
  if question.benchmark == IMAGENET and not named:
    raise ConfigError(
      f'{question.folder} is not named by WordNet ids (n01440764, ...), as '
      "ImageNet is; for folders with other names take the benchmark 'classes'"
    )
  return examples.class_names
