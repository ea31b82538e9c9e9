"""From the name of a benchmark to its runner: data, protocol, evaluator.

`groupvit evaluate` and evaluation during training call `make`.
"""

import dataclasses
import functools
import os
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupvit_jax import benchmarks, files
from groupvit_jax.benchmarks import classification as image_labels
from groupvit_jax.benchmarks import clip_sets, label_sets, scene_sets
from groupvit_jax.benchmarks.label_sets import IMAGE_LEVEL
from groupvit_jax.data import images as images_lib
from groupvit_jax.errors import ConfigError, explained_as
from groupvit_jax.evaluation import benchmark as benchmark_lib
from groupvit_jax.evaluation import (
  clustering,
  config,
  image_level,
  pamr,
  scoring,
  zero_shot,
)
from groupvit_jax.evaluation.counts import Measures
from groupvit_jax.evaluation.evaluator import RunOptions
from groupvit_jax.text import prompts


@dataclasses.dataclass(frozen=True)
class BenchmarkSpec:
  """A benchmark and the options of its evaluation.

  Attributes:
    benchmark: one of `label_sets.BENCHMARK_NAMES`.
    folder: folder of its data; None for scenes.
    split: None for the split that figures are reported on.
    limit: use only the first `limit` images.
    protocol: 'groupvit' or 'tcl'; segmentation only.
    overrides: changed fields of the protocol; image-level benchmarks take
      'templates' and, for classification, 'prompt_average'.
    options: options of the reader (scenes: count, size, seed).
    class_names: in label order, in place of the protocol's; synonyms as in
      'person|man|woman'.
    regions: 'model' for a model that groups, or a key of
      `clustering.GROUPINGS`.
    num_groups: number of groups, for groupings that take one.
    calibration: origin of thresholds in the overrides, for the report.
    measures: see `evaluation.counts.Measures`.
    label_groups: see `evaluation.benchmark.Settings`.
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
  measures: Measures = Measures()
  label_groups: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def place(self) -> str | None:
    """Absolute path of the folder; None for scenes."""
    if self.folder is None:
      return None
    return str(files.expanded(self.folder).resolve())

  @property
  def read_split(self) -> str | None:
    """The split, defaults resolved; None for all images."""
    known = benchmarks.BENCHMARKS.get(self.benchmark)
    return self.split or (known.split if known else None)

  @property
  def read_options(self) -> dict[str, Any]:
    """Options of the reader, defaults included."""
    known = benchmarks.BENCHMARKS.get(self.benchmark)
    return {**(known.options if known else {}), **self.options}

  @property
  def origin(self) -> list[Any]:
    """Identity of the data: image names alone are the same for all scenes."""
    return [self.benchmark, self.place, self.read_split, self.read_options]


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Properties of a model that an evaluation needs beside `predict_fns`.

  Attributes:
    tokenizer: texts -> int32 [n, l].
    image_size: (h, w) of its training images.
    patch_size: side of a token in pixels.
    groups: whether the model has groups of its own.
    clip: whether images are cropped as for CLIP.
    own_steps: fields of `SegmentConfig` that the model wants otherwise than the
      protocol (`config.OWN_STEPS`); overrides come after them.
  """

  tokenizer: Callable[..., Any]
  image_size: tuple[int, int]
  patch_size: int
  groups: bool = True
  clip: bool = False
  own_steps: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Runner:
  """An evaluation that is ready to run.

  Attributes:
    kind: 'segmentation', 'classification' or 'retrieval'.
    evaluator: an `evaluation.evaluator.Evaluator`.
    total: number of images.
    settings: everything beside the model that the figures depend on, as plain
      values.
  """

  kind: str
  evaluator: Any
  total: int
  settings: Mapping[str, Any]


def make(
  spec: BenchmarkSpec,
  encoder: Encoder,
  options: RunOptions = RunOptions(),
  examples: Any = None,
) -> Runner:
  """Opens the data and prepares the evaluator.

  Args:
    spec: the benchmark and its options.
    encoder: properties of the model.
    options: how it runs; `origin` is set here.
    examples: the images, if they are open already; segmentation only.

  Returns:
    The runner.

  Raises:
    ConfigError: options that do not fit each other or the model.
    SourceError: data are missing or have another layout.
  """
  if spec.benchmark not in label_sets.BENCHMARK_NAMES:
    raise ConfigError(
      f'there is no benchmark {spec.benchmark!r}; choose one of '
      f'{", ".join(label_sets.BENCHMARK_NAMES)}'
    )
  options = dataclasses.replace(options, origin={'data': spec.origin})
  with explained_as(ConfigError):
    if spec.benchmark in IMAGE_LEVEL:
      runner = _make_image_level(spec, encoder, options)
    else:
      runner = _make_segmentation(spec, encoder, options, examples)
  common = {
    'benchmark': spec.benchmark,
    'kind': runner.kind,
    'data': spec.place,
    'split': spec.read_split,
    'limit': spec.limit,
    'skip_bad': options.skip_bad,
    'images': runner.total,
  }
  return dataclasses.replace(runner, settings=common | dict(runner.settings))


def _make_segmentation(
  spec: BenchmarkSpec, encoder: Encoder, options: RunOptions, examples: Any
) -> Runner:
  grouping = _grouping(spec, encoder)
  examples = examples or benchmarks.open_set(
    spec.benchmark,
    spec.folder,
    split=spec.split,
    limit=spec.limit,
    **spec.options,
  )
  protocol = config.make(
    spec.protocol,
    spec.benchmark,
    background=examples.background,
    # With the prefix, no field can be taken for another argument.
    **{f'segment.{key}': value for key, value in _overrides(spec, encoder)},
  )
  names = _prompted_names(spec, protocol, examples)
  _check_background(spec, protocol, examples)
  evaluator = benchmark_lib.BenchmarkEvaluator(
    examples,
    encoder.tokenizer,
    benchmark_lib.Settings(
      protocol,
      tuple(names),
      examples.background,
      patch_size=encoder.patch_size,
      grouping=grouping,
      refine=pamr.pamr if protocol.refine == 'pamr' else None,
      measures=spec.measures,
      label_groups=spec.label_groups,
    ),
    options,
  )
  used = spec.regions in label_sets.WITH_NUM_GROUPS
  settings = {
    'protocol': describe(protocol),
    # Sizes that the protocol leaves open, resolved.
    'sizes': dataclasses.asdict(evaluator.plan),
    'class_names': list(names),
    'background': examples.background,
    'regions': spec.regions,
    'num_groups': spec.num_groups if used else None,
    'options': spec.read_options,
    'calibration': spec.calibration,
  }
  return Runner('segmentation', evaluator, len(examples), settings)


def _overrides(spec, encoder):
  """The changed fields of the protocol: the model's own, then the spec's."""
  own = dict(encoder.own_steps)
  read = {'class_thresholds', 'learned_background'} & spec.overrides.keys()
  if any(spec.overrides[name] for name in read):
    # Thresholds are of the model's learned groups, each as a whole.
    own = {name: own[name] for name in own if name == 'top_k'}
  return (own | dict(spec.overrides)).items()


def describe(protocol: config.Protocol) -> dict[str, Any]:
  """A protocol as plain values, every step of it written out."""
  return dataclasses.asdict(protocol) | {
    'templates': list(protocol.templates),
    'changed': list(protocol.changed),
  }


def at_size(side: int) -> Mapping[str, Any]:
  """Overrides for images of another size: sizes that depend on it follow."""
  following = dict.fromkeys(('long_side', 'window', 'stride'))
  return {'short_side': side, **following}


def _grouping(
  spec: BenchmarkSpec, encoder: Encoder
) -> clustering.Grouping | None:
  """The grouping of patches; None for a model with groups of its own."""
  if spec.regions == label_sets.MODEL:
    if not encoder.groups:
      raise ConfigError(
        'this model has no groups of its own; choose how patches are grouped: '
        f'regions can be {", ".join(clustering.GROUPINGS)}'
      )
    return None
  if encoder.groups:
    raise ConfigError(
      f'this model has groups of its own and does not take regions='
      f"{spec.regions!r}; leave regions at 'model'"
    )
  return clustering.Grouping(spec.regions, spec.num_groups)


def _check_background(
  spec: BenchmarkSpec, protocol: config.Protocol, examples: Any
) -> None:
  """Checks options that depend on the classes, before anything runs."""
  segment = protocol.segment
  if segment.background_prompts and not examples.background:
    raise ConfigError(
      'background_prompts takes the first class for the background, and '
      f'{spec.benchmark} has none: its first is '
      f'{examples.class_names[0]!r}; leave it out'
    )
  # They need a background_threshold, which only data with a background take.
  thresholds = segment.class_thresholds
  if isinstance(thresholds, tuple) and examples.background:
    scoring.check_thresholds(len(thresholds), len(examples.class_names) - 1)


def _prompted_names(
  spec: BenchmarkSpec, protocol: config.Protocol, examples: Any
) -> Sequence[str]:
  """Class names for the prompts, in label order."""
  known = spec.benchmark in label_sets.BENCHMARK_SETS
  if spec.class_names is None:
    if not known:
      return examples.class_names
    return label_sets.class_names(spec.benchmark, protocol.names)
  names = tuple(spec.class_names)
  prompts.check_distinct(names)
  if len(names) != len(examples.class_names):
    first = examples.class_names[0]
    raise ConfigError(
      f'{len(names)} class names were given, and {spec.benchmark} has '
      f'{len(examples.class_names)} classes, the first being {first!r}: give '
      'one for each, in their order'
    )
  return names


def _make_image_level(
  spec: BenchmarkSpec, encoder: Encoder, options: RunOptions
) -> Runner:
  with_captions = spec.benchmark in label_sets.RETRIEVAL
  _check_image_level(spec, with_captions)
  if with_captions:
    karpathy = spec.benchmark in label_sets.KARPATHY
    # arXiv 2103.00020, section 3.1.4: one or two points better than none.
    templates = _templates(spec, ('a photo of {}' if karpathy else '{}',))
    examples = _open_captions(spec)
  else:
    known = clip_sets.find(spec.benchmark)
    templates = _templates(spec, known.templates)
    examples = clip_sets.open_labelled(
      spec.benchmark,
      spec.folder,
      spec.split,
      class_names=spec.class_names,
      limit=spec.limit,
      **spec.options,
    )
  crop = functools.partial(
    images_lib.crop, size=encoder.image_size, clip=encoder.clip
  )
  settings: dict[str, Any] = {
    'templates': list(templates),
    'image_size': list(encoder.image_size),
    'crop': 'clip' if encoder.clip else 'released',
  }
  if with_captions:
    captions = [examples.captions(i) for i in range(len(examples))]
    settings['captions'] = sum(map(len, captions))
    evaluator = image_level.RetrievalEvaluator(
      examples,
      captions,
      encoder.tokenizer,
      crop,
      template=templates[0],
      identity=settings,
      options=options,
    )
    return Runner('retrieval', evaluator, len(examples), settings)
  names = spec.class_names or examples.class_names
  # openai/CLIP averages unit vectors, the released GroupViT raw ones.
  default = 'unit' if encoder.clip else 'raw'
  average = spec.overrides.get('prompt_average', default)
  if average not in ('unit', 'raw'):
    raise ConfigError(f"prompt_average is 'unit' or 'raw', not {average!r}")
  settings |= {
    'class_names': list(names),
    'metric': known.metric,
    'prompt_average': average,
  }
  identity = dict(settings)
  if options.resume_path is not None:
    identity['labels'] = labels_fingerprint(spec, examples)
  kind = image_level.ClassificationEvaluator
  if known.metric != 'accuracy':
    kind = functools.partial(image_level.ScoreEvaluator, metric=known.metric)
  evaluator = kind(
    examples,
    zero_shot.tokenize_classes(encoder.tokenizer, names, templates),
    crop,
    normalize_each=average == 'unit',
    identity=identity,
    options=options,
  )
  return Runner('classification', evaluator, len(examples), settings)


def _open_captions(spec: BenchmarkSpec) -> Any:
  """The captioned images of a retrieval benchmark."""
  if spec.benchmark == label_sets.SCENE_CAPTIONS:
    return scene_sets.open_set(
      spec.benchmark, spec.split, spec.limit, spec.options
    )
  assert spec.folder is not None  # _check_image_level refuses it
  return benchmarks.open_captions(
    spec.folder,
    spec.split,
    limit=spec.limit,
    karpathy=spec.benchmark in label_sets.KARPATHY,
  )


def _check_image_level(spec: BenchmarkSpec, with_captions: bool) -> None:
  """Refuses unknown options: the figure would not be the one asked for."""
  name = spec.benchmark
  synthetic = name in label_sets.SYNTHETIC
  if spec.folder is None and not synthetic:
    raise ConfigError(f'{name} needs the folder of its data')
  if spec.options and name in label_sets.RETRIEVAL and not synthetic:
    raise ConfigError(f'{name} has no option {next(iter(spec.options))!r}')
  known = ['templates'] if with_captions else ['prompt_average', 'templates']
  others = [key for key in spec.overrides if key not in known]
  if others:
    raise ConfigError(
      f'{others[0]!r} is an option of segmentation; {name} takes '
      f'{" and ".join(known)}'
    )


def _templates(spec: BenchmarkSpec, default: Sequence[str]) -> Sequence[str]:
  """Prompt templates: the user's, or those of the benchmark."""
  given = spec.overrides.get('templates')
  if given is None:
    return default
  templates = prompts.find_templates(given)
  if spec.benchmark in label_sets.RETRIEVAL and len(templates) > 1:
    raise ConfigError("captions go into one template, such as 'a photo of {}'")
  return templates


def labels_fingerprint(spec: BenchmarkSpec, examples: Any) -> list[Any]:
  """Digest of a label set, so that a resumed evaluation notices new labels.

  Reads neither images nor shards.

  Returns:
    The checksum of labels.jsonl, the size and time of every shard. Empty for
    folders named after their class, where an image's name holds its label.
  """
  if spec.folder is None:
    return []
  names = (examples.name(i) for i in range(len(examples)))
  shards = sorted({name.rpartition('#')[0] for name in names if '#' in name})
  states: list[Any] = [_state(pathlib.Path(shard)) for shard in shards]
  root = files.expanded(spec.folder) / (spec.split or '')
  listed = root / image_labels.NAME
  if listed.is_file():
    states.append(zlib.crc32(listed.read_bytes()))
  return [state for state in states if state is not None]


def _state(path: pathlib.Path) -> list[int] | None:
  if not path.is_file():
    return None
  state = path.stat()
  return [state.st_size, state.st_mtime_ns]
