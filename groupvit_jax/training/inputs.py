"""From a config to what a run reads: tokenizer, training batches, evaluators.

The only place where the `data` and `eval` fields of a config are interpreted.
"""

import collections
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from PIL import Image

from groupvit_jax import benchmarks, errors, files, sharding
from groupvit_jax.benchmarks import build, label_sets
from groupvit_jax.data import (
  captions,
  pipeline,
  reading,
  records,
  remote,
  sampling,
  sources,
  tar,
)
from groupvit_jax.data import images as images_lib
from groupvit_jax.evaluation.counts import Measures
from groupvit_jax.evaluation.evaluator import RunOptions
from groupvit_jax.models import resnet
from groupvit_jax.text import make_tokenizer, prompts
from groupvit_jax.training import clip, texts
from groupvit_jax.training import config as config_lib

_WINDOWS = 8  # of a benchmark's images in a device's batch, at most


class Evaluation:
  """Evaluation during training: on scenes, or on a benchmark.

  By the evaluators of `groupvit evaluate`, in the same process and on the same
  weights.

  Attributes:
    evaluator: see `evaluation.evaluator.Evaluator`.
    segments: whether it labels pixels.
    class_names: for display; () for image-level benchmarks.
  """

  def __init__(
    self,
    config: config_lib.Config,
    tokenizer: Callable[..., Any] | None = None,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Opens it.

    Args:
      config: of the run.
      tokenizer: None for the config's.
      mesh: None for all devices.

    Raises:
      ConfigError, SourceError: there is no such benchmark, or no data.
    """
    self._side = config.image_size
    self._spec = _spec(config)
    scenes = config.eval.source == 'scenes'
    self._examples = _Scenes(config) if scenes else None
    runner = build.make(
      self._spec,
      _encoder(config, tokenizer or _tokenizer(config)),
      RunOptions(
        batch_size=_batch_size(config, self._spec),
        mesh=mesh or sharding.make_mesh(),
      ),
      self._examples,
    )
    self.evaluator = runner.evaluator
    self.segments = runner.kind == 'segmentation'
    names = runner.settings['class_names'] if self.segments else ()
    self.class_names = tuple(map(prompts.shown_name, names))

  def report_images(self, count: int) -> dict[str, Any]:
    """The first usable images as squares of the training size, and labels."""
    if not (self.segments and count):
      return {}
    examples = self._examples or benchmarks.open_set(
      self._spec.benchmark,
      self._spec.folder,
      **self._spec.options,
    )
    arrays = {'image': [], 'label': [], 'caption': []}
    for i in range(len(examples)):
      if len(arrays['image']) == count:
        break
      try:
        example = examples[i]
      except errors.ImageError:
        continue  # reported when it is evaluated
      arrays['image'].append(_square(example.image, self._side, 'BILINEAR'))
      label = example.label.astype(np.uint8)  # 171 classes and 255 at most
      arrays['label'].append(_square(label, self._side, 'NEAREST'))
      caption = self._examples.caption(i) if self._examples else example.name
      arrays['caption'].append(caption)
    return {
      name: values if name == 'caption' else np.stack(values)
      for name, values in arrays.items()
    }


class _Scenes:
  """The validation scenes of a run, kept in memory or on disk."""

  class_names = label_sets.LABEL_SETS['scenes']
  background = False

  def __init__(self, config: config_lib.Config):
    with errors.explained_as(errors.SourceError):
      self._source = _scenes('validation', config.eval.examples, config)

  def __len__(self) -> int:
    return len(self._source)

  def name(self, index: int) -> str:
    return f'scene {index}'

  def caption(self, index: int) -> str:
    caption = self._source[index]['caption']
    return caption if isinstance(caption, str) else caption[0]

  def __getitem__(self, index: int) -> benchmarks.Example:
    sample = self._source[index]
    image = np.asarray(images_lib.decode(sample['image']))
    return benchmarks.Example(
      self.name(index), image, sample['mask'].astype(np.int32)
    )


def _spec(config: config_lib.Config) -> build.BenchmarkSpec:
  name, _, folder = config.eval.source.partition(':')
  spec = build.BenchmarkSpec(
    benchmark=name,
    folder=folder or None,
    limit=config.eval.examples or None,
    protocol=config.eval.protocol,
    regions=config.eval.regions,
    num_groups=num_groups(config),
    measures=Measures(boundary=False),
  )
  if name in build.IMAGE_LEVEL:
    return dataclasses.replace(spec, regions='model')
  if config.eval.source != 'scenes':
    side = config.eval.short_side or config.image_size
    return dataclasses.replace(spec, overrides=build.at_size(side))
  return dataclasses.replace(
    spec,
    overrides={
      **build.at_size(config.image_size),
      'mode': 'whole',
      'final_softmax': False,
      'templates': prompts.TEMPLATES[config.eval.templates],
    },
    measures=Measures(boundary=False, groups=True),
    label_groups={
      'things': label_sets.LABEL_SETS['scenes_things'],
      'grounds': label_sets.LABEL_SETS['scenes_grounds'],
    },
  )


def num_groups(config: config_lib.Config) -> int:
  """As many groups as GroupViT of the same config would make."""
  groups = config.model.get('num_output_groups', (label_sets.NUM_GROUPS,))
  return [n for n in groups if n][-1]


def _encoder(
  config: config_lib.Config, tokenizer: Callable[..., Any]
) -> build.Encoder:
  return build.Encoder(
    tokenizer=tokenizer,
    image_size=(config.image_size, config.image_size),
    patch_size=config.model.get('patch_size', resnet.ClipResNet.patch_size),
    groups=config.task == 'groupvit',
    clip=config.task in clip.TITLES,
    own_steps=config_lib.own_steps(config.eval),
  )


def _batch_size(config: config_lib.Config, spec: build.BenchmarkSpec) -> int:
  """Images that go together on each device."""
  each = max(1, config.eval.batch_size // jax.device_count())
  if spec.measures.groups or spec.benchmark in build.IMAGE_LEVEL:
    return each
  # Scores have the size of the ground truth, not of training images.
  return min(_WINDOWS, each)


def _square(pixels, side, resample):
  image = Image.fromarray(pixels)
  return np.asarray(image.resize((side, side), Image.Resampling[resample]))


# Up to this size, decoded images are kept.
IN_MEMORY_BYTES = 4 * 2**30

# Where a step waits for its batches.
ADVICE = (
  'give the machine more cores, or its cores less work: '
  'data.augment_on=device, images with a short side of 256 (groupvit data '
  'convert --short-side 256), or data.augment=light'
)

# What keeping scenes on disk imports; not every machine can have all of it.
ON_DISK_NEEDS = (
  'tensorflow',
  'tensorflow_datasets',
  'array_record',
  'importlib_resources',
)


class Inputs:
  """Input of a run; a context manager that stops its threads.

  Attributes:
    tokenizer: texts -> int32 [n, l].
    evaluation: what the run is evaluated on; None for nothing.
  """

  def __init__(self, config: config_lib.Config, mesh: jax.sharding.Mesh):
    """Opens the training data; missing ones are an error here, not later."""
    self._config = config
    self._mesh = mesh
    self.tokenizer = _tokenizer(config)
    with errors.explained_as(errors.SourceError):
      self._train_source = _train_source(config)
    with errors.explained_as(errors.ConfigError):
      self._order = sources.order_of(
        self._train_source, config.seed, _ordering(config)
      )
    self._iterator = None
    # Bad samples: of this process, and of those before it.
    self._bad: collections.Counter[str] = collections.Counter()
    self._bad_before: collections.Counter[str] = collections.Counter()
    self.evaluation = None
    if config.eval.source:
      self.evaluation = Evaluation(config, self.tokenizer, mesh)

  def __enter__(self) -> 'Inputs':
    return self

  def __exit__(self, *unused: object) -> None:
    if self._iterator is not None:
      self._iterator.close()

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """Tells the training data apart (see `Source.identity`)."""
    return self._train_source.identity()

  def bad_samples(self) -> collections.Counter[str]:
    """Bad samples that others have replaced in the run so far, by reason.

    Of all processes, which have to call it together.
    """
    parts = map(collections.Counter, sharding.gather(self._bad))
    return sum(parts, self._bad_before)

  def sample_names(self, start: int, count: int) -> list[str]:
    """Names of the samples at positions, before bad ones were replaced."""
    indices = self._order(np.arange(start, start + count)).tolist()
    return [self._train_source.describe(i) for i in indices]

  def as_meta(self) -> dict[str, Any]:
    """Identity of the data, and values for `resume`."""
    return {'data': self.identity, 'bad_samples': dict(self.bad_samples())}

  def resume(self, meta: Mapping[str, Any]) -> None:
    """Adds the bad samples that earlier processes of the run have met."""
    self._bad_before.update(meta.get('bad_samples', {}))

  def metrics(self) -> dict[str, float]:
    """Figures of the input so far, of this process.

    Returns:
      `bad_samples` of all processes, and `bad_samples/REASON`; `share_NAME`:
      of the samples, by the source that they come from; `waiting`: share of
      the time since the last call that no step ran for want of data.
    """
    batches = self._iterator
    if batches is None:
      return {}
    now = time.monotonic()
    marked, waited = self._mark
    self._mark = now, batches.waited
    bad = self.bad_samples()
    values = {
      'bad_samples': float(bad.total()),
      **{f'bad_samples/{reason}': float(n) for reason, n in bad.items()},
      'waiting': (batches.waited - waited) / max(now - marked, 1e-9),
    }
    total = batches.seen.total()
    values |= {f'share_{n}': k / total for n, k in batches.seen.items()}
    return values

  def train_batches(
    self,
    start: int,
    used_rows: np.ndarray | None = None,
    busy: Callable[[], bool] = lambda: False,
  ) -> Iterator[dict[str, jax.Array]]:
    """Yields global batches from sample `start` on, one ahead of the step.

    Args:
      start: position of the first sample.
      used_rows: see `texts.Texts`.
      busy: tells whether the last step still runs, so that it loses nothing by
        waiting for data.
    """
    config = self._config
    with errors.explained_as(errors.ConfigError):
      batcher = captions.CaptionBatcher(
        self.tokenizer,
        num_nouns=config.loss.get('num_nouns', 0),
        word_kind=config.data.get('word_kind', 'nouns'),
        templates=prompts.TEMPLATES[config.data.get('templates', 'simple')],
        seed=config.seed,
      )
      self._iterator = pipeline.train_batches(
        reading.Reader(self._train_source, config.seed, self._order),
        batcher,
        sampling.Positions.of_process(
          config.batch_size // jax.process_count(), start
        ),
        image_size=config.image_size,
        augment=config.data.augment,
        backend=config.data.backend,
        augment_on=config.data.get('augment_on', 'host'),
      )
    self._iterator.busy = busy
    self._mark = time.monotonic(), 0.0
    complete = texts.Texts(self._mesh, used_rows, config.get('accumulate', 1))

    def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
      batch = complete(batch)
      rows = {k: batch.pop(k) for k in ('rows',) if k in batch}
      placed = sharding.shard_batch(batch, self._mesh)
      return placed | sharding.replicate(rows, self._mesh)

    bad = self._iterator.bad_samples
    # What is bad in the batch ahead does not count yet.
    batches = ((place(batch), bad.copy()) for batch in self._iterator)
    for batch, self._bad in _one_ahead(batches):
      yield batch


def _tokenizer(config):
  with errors.explained_as(errors.ConfigError):
    return make_tokenizer(config.data.tokenizer, config.text.context_length)


def _train_source(config):
  data = config.data
  if data.source == 'scenes':
    return _scenes('train', data.train_examples, config)
  if data.source == 'tfds':
    if not data.tfds:
      raise errors.ConfigError(
        'data.source=tfds needs the name of a data set, such as '
        'data.tfds=coco_captions:train'
      )
    return sources.open_named(data.tfds, functools.partial(_tfds, data))
  cache = remote.ShardCache(
    files.expanded(data.cache) / 'remote_shards', int(data.cache_gb * 1e9)
  )

  def open_shards(patterns, name):
    if data.source == 'shards':
      return tar.TarSource(patterns, name, cache)
    return records.open_records(
      patterns,
      name,
      cache,
      image_key=data.image_feature,
      caption_key=data.caption_feature,
    )

  return sources.open_named(data.shards, open_shards)


def _tfds(data, entries, unused_name):
  """The TFDS data set of an entry BUILDER or BUILDER:SPLIT."""
  if len(entries) > 1:
    raise errors.ConfigError(
      f'each data set of data.tfds needs a name of its own: {entries}'
    )
  builder, _, split = entries[0].partition(':')
  return sources.TFDSSource(
    builder,
    split or 'train',
    data.tfds_dir or None,
    image_key=data.image_feature or 'image',
    caption_key=data.caption_feature or None,
  )


def _ordering(config):
  """How the config's samples are ordered and mixed."""
  data, weights = config.data, {}
  for entry in data.weights:
    name, _, weight = entry.partition('=')
    try:
      weights[name] = float(weight)
    except ValueError:
      raise errors.ConfigError(
        f"data.weights needs entries such as cc3m=1, not '{entry}'"
      ) from None
  return sources.Ordering(
    data.order, data.streams, data.window, config.batch_size, weights
  )


def _scenes(split, count, config):
  """The embedded data: by TFDS on disk, or drawn into memory without it."""
  size, seed = config.image_size, config.data.seed
  if absent := [x for x in ON_DISK_NEEDS if not importlib.util.find_spec(x)]:
    masks = split == 'validation'
    if not masks:  # one message is enough
      logging.info(
        'scenes are drawn into memory and not kept on disk; for that '
        "pip install 'groupvit_jax[train]' brings what is missing: %s",
        ', '.join(absent),
      )
    return sources.SceneSource(split, count, size, seed, masks=masks)
  cache = files.expanded(config.data.cache)
  try:
    on_disk = sources.scenes_tfds(split, count, size, seed, data_dir=cache)
  except OSError as error:
    raise errors.SourceError(
      f'cannot keep scenes in {cache}: {error.strerror or error}; choose '
      'another folder with data.cache'
    ) from error
  if count * size * size * 3 > IN_MEMORY_BYTES:
    return on_disk
  return sources.InMemory(on_disk, size, name=f'scenes {split}')


def _one_ahead(batches: Iterator[Any]) -> Iterator[Any]:
  """Starts the transfer of a batch while the step before it runs."""
  current = next(batches, None)
  while current is not None:
    following = next(batches, None)
    yield current
    current = following
