"""Benchmarks of labelled pixels: segmentation under a protocol."""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from groupvit_jax import benchmarks, files
from groupvit_jax.benchmarks import classification as image_labels
from groupvit_jax.benchmarks import image_batches, label_sets
from groupvit_jax.benchmarks.label_sets import IMAGE_LEVEL
from groupvit_jax.errors import ConfigError, explained_as
from groupvit_jax.evaluation import benchmark as benchmark_lib
from groupvit_jax.evaluation import (
  classification,
  clustering,
  config,
  pamr,
  resume,
  retrieval,
  scoring,
  sizes,
)
from groupvit_jax.text import prompts

# What is to be measured, on which data, of what model.


@dataclasses.dataclass(frozen=True)
class Question:
  """What is to be measured.

  Attributes:
    benchmark: one of `label_sets.BENCHMARK_NAMES`.
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
      `clustering.GROUPINGS`.
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
  regions: str = label_sets.MODEL
  num_groups: int = label_sets.NUM_GROUPS
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


def make_segmentation(
  question: Question,
  encoder: Encoder,
  *,
  batch_size: int,
  mesh: Mesh | None,
  resume_path: pathlib.Path | None,
  progress: Callable[[int, int], None] | None,
) -> Judge:
  """Opens the data and prepares the evaluator; arguments of `build.make`."""
  grouping = _grouping(question, encoder)
  examples = benchmarks.open_set(
    question.benchmark,
    question.folder,
    split=question.split,
    limit=question.limit,
    **question.options,
  )
  protocol = config.make(
    question.protocol,
    question.benchmark,
    background=examples.background,
    # So written, no field can be taken for another argument.
    **{f'segment.{key}': value for key, value in question.overrides.items()},
  )
  names = _names(question, protocol, examples)
  _check_background(question, protocol, examples)
  evaluator = benchmark_lib.BenchmarkEvaluator(
    examples,
    encoder.tokenizer,
    benchmark_lib.Settings(
      protocol,
      tuple(names),
      examples.background,
      batch_size=batch_size,
      patch_size=encoder.patch_size,
      grouping=grouping,
      refine=pamr.make() if protocol.refine == 'pamr' else None,
      boundary=question.boundary,
      diagnosis=question.diagnosis,
      skip_bad=question.skip_bad,
      data=question.origin,
    ),
    mesh=mesh,
    resume_path=resume_path,
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
        sizes.plan(
          protocol.segment,
          protocol.segment.short_side or benchmark_lib.SHORT_SIDE,
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


def describe(protocol: config.Protocol) -> dict[str, Any]:
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
  told = question.regions in label_sets.WITH_NUM_GROUPS
  return question.num_groups if told else None


def _grouping(question, encoder):
  """How patches are grouped; None for a model that groups by itself."""
  if question.regions == label_sets.MODEL:
    if not encoder.groups:
      raise ConfigError(
        'this model has no groups of its own; say how its patches are grouped: '
        f'regions can be {", ".join(clustering.GROUPINGS)}'
      )
    return None
  if encoder.groups:
    raise ConfigError(
      f'this model has groups of its own, so that regions={question.regions!r} '
      "is nothing to it; leave regions at 'model'"
    )
  return clustering.make(question.regions, num_groups=question.num_groups)


def _check_background(question, protocol, examples):
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
    scoring.check_thresholds(
      len(segment.class_thresholds), len(examples.class_names) - 1
    )


def _names(question, protocol, examples):
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


# What tells labels from corrected ones of the same pictures.
#
# Nothing is decoded, and no shard is read: an evaluation that goes on looks at
# it before it starts.


def of_labels(question: Question, examples: Any) -> list[Any]:
  """Plain values that change when labelled pictures get other labels.

  Args:
    question: about which folder.
    examples: as they were opened.

  Returns:
    Of labels.jsonl its checksum, of shards each one's state. Nothing for
    folders named after their class: there the names of pictures tell it.
  """
  names = (examples.name(i) for i in range(len(examples)))
  shards = sorted({name.rpartition('#')[0] for name in names if '#' in name})
  states = [_state(pathlib.Path(shard)) for shard in shards]
  root = files.expanded(question.folder) / (question.split or '')
  listed = root / image_labels.NAME
  if listed.is_file():
    states.append(zlib.crc32(listed.read_bytes()))
  return [state for state in states if state is not None]


def _state(path: pathlib.Path) -> list[int] | None:
  if not path.is_file():
    return None
  state = path.stat()
  return [state.st_size, state.st_mtime_ns]


# Benchmarks of whole pictures: classification and retrieval.

IMAGENET = 'imagenet'


def make_image_level(
  question: Question,
  encoder: Encoder,
  *,
  batch_size: int,
  mesh: Mesh | None,
  resume_path: pathlib.Path | None,
  progress: Callable[[int, int], None] | None,
) -> Judge:
  """Opens the data and prepares the evaluator; arguments of `build.make`."""
  _check(question)
  with_captions = question.benchmark == label_sets.CAPTIONS
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
  batches = image_batches.Batches(
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
      open_state=_opener(question, examples, settings, resume_path),
    )
  else:
    names = _class_words(question, examples)
    settings['class_names'] = list(names)
    # openai/CLIP averages unit vectors, the released GroupViT raw ones.
    default = 'unit' if encoder.clip else 'raw'
    average = question.overrides.get('prompt_average', default)
    if average not in ('unit', 'raw'):
      raise ConfigError(f"prompt_average is 'unit' or 'raw', not {average!r}")
    settings['prompt_average'] = average
    evaluator = classification.ClassificationEvaluator(
      batches,
      names,
      encoder.tokenizer,
      templates,
      normalize_each=average == 'unit',
      mesh=mesh,
      open_state=_opener(question, examples, settings, resume_path),
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
) -> Callable[[Any], resume.ResumeState]:
  """Opens what an interrupted run has left, once the weights are known.

  Processes go through whole pictures in step, and could not if one of them had
  fewer left: several keep nothing.
  """
  if path is None or jax.process_count() > 1:
    return lambda variables: resume.ResumeState()
  names = [examples.name(i) for i in range(len(examples))]
  settings = dict(settings) | {
    'data': question.origin,
    'images': resume.fingerprint(names),
  }
  # Of captioned pictures vectors are kept, which no caption changes.
  if question.benchmark != label_sets.CAPTIONS:
    settings['labels'] = of_labels(question, examples)

  def opened(variables):
    weights = resume.checksum(variables)
    return resume.ResumeState(path, settings | {'weights': weights})

  return opened


def _check(question):
  name = question.benchmark
  if question.folder is None:
    raise ConfigError(f'{name} needs the folder of its data')
  if question.options:
    raise ConfigError(f'{name} has no option {next(iter(question.options))!r}')
  known = {'templates'}
  if name != label_sets.CAPTIONS:
    known.add('prompt_average')
  others = [key for key in question.overrides if key not in known]
  if others:
    raise ConfigError(
      f'{others[0]!r} is of segmentation; of {name} only templates can be set'
    )
  if question.regions != label_sets.MODEL:
    raise ConfigError(f'{name} is of whole pictures, without regions')
  if question.class_names and name == label_sets.CAPTIONS:
    raise ConfigError('captions have no classes; leave their names out')


def _templates(question, with_captions):
  """Released: CLIP's seven of ImageNet. Captions stand for themselves."""
  given = question.overrides.get('templates')
  if given is None:
    return ('{}',) if with_captions else prompts.SUBSET
  found = prompts.find_templates(given)
  if with_captions and len(found) > 1:
    raise ConfigError("captions go into one template, such as 'a photo of {}'")
  return found


def _class_words(question, examples):
  if question.class_names:
    return question.class_names
  named = tuple(examples.class_names) == tuple(benchmarks.IMAGENET_CLASSES)
  if question.benchmark == IMAGENET and not named:
    raise ConfigError(
      f'{question.folder} is not named by WordNet ids (n01440764, ...), as '
      "ImageNet is; for folders with other names take the benchmark 'classes'"
    )
  return examples.class_names


# From a benchmark's name to what measures it: data, protocol, evaluator.
#
# Shared by `groupvit evaluate` and by training runs, each of which has a model.

__all__ = [
  'IMAGE_LEVEL',
  'Encoder',
  'Judge',
  'Question',
  'at_size',
  'make',
]


def make(
  question: Question,
  encoder: Encoder,
  *,
  batch_size: int = 8,
  mesh: Mesh | None = None,
  resume_path: pathlib.Path | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Judge:
  """Opens the data and prepares the evaluator.

  Args:
    question: what is to be measured.
    encoder: whose pictures they are.
    batch_size: pictures or windows of this process that go together.
    mesh: splits batches over its axis 'data'.
    resume_path: file of the resume state; None keeps none.
    progress: told how many pictures are done, and how many there are.

  Returns:
    The judge.

  Raises:
    ConfigError: a question that cannot be asked.
    SourceError: data that are not there, or lie otherwise than they must.
  """
  if question.benchmark not in label_sets.BENCHMARK_NAMES:
    raise ConfigError(
      f'there is no benchmark {question.benchmark!r}; choose one of '
      f'{", ".join(label_sets.BENCHMARK_NAMES)}'
    )
  options = {
    'batch_size': batch_size,
    'mesh': mesh,
    'resume_path': resume_path,
    'progress': progress,
  }
  with explained_as(ConfigError):
    if question.benchmark in IMAGE_LEVEL:
      judge = make_image_level(question, encoder, **options)
    else:
      judge = make_segmentation(question, encoder, **options)
  asked = {
    'benchmark': question.benchmark,
    'kind': judge.kind,
    'data': question.place,
    'split': question.read_split,
    'limit': question.limit,
    'skip_bad': question.skip_bad,
    'images': judge.total,
  }
  return dataclasses.replace(judge, settings=asked | dict(judge.settings))
