"""Background thresholds for a benchmark, from captioned images."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from groupvit_jax import benchmarks, files, sharding
from groupvit_jax.benchmarks import build, image_batches, label_sets
from groupvit_jax.errors import ConfigError, explained_as
from groupvit_jax.evaluation import calibration, zero_shot
from groupvit_jax.evaluation import config as config_lib

# Thresholds no longer change by then, and a folder may hold a million images.
MOST = 1000


def calibrate(
  spec: build.BenchmarkSpec,
  encoder: build.Encoder,
  predict_fns: Mapping[str, Callable[..., Any]],
  variables: Any,
  folder: str | os.PathLike,
  *,
  batch_size: int = 8,
  progress: Callable[[int, int], None] | None = None,
) -> build.BenchmarkSpec:
  """Gives every class of a benchmark a cosine threshold of its own.

  Images are scaled as the benchmark's windows are; their captions say which
  classes they show (`evaluation.calibration`). They should be of another set.

  Args:
    spec: a benchmark with a background.
    encoder: properties of the model.
    predict_fns: 'text', 'regions' and 'logit_scale'.
    variables: their first argument.
    folder: captioned images, as `benchmarks.open_captions` takes them. The
      first 1,000 count.
    batch_size: images in a batch of this process.
    progress: called with the number of finished images and the total.

  Returns:
    The spec with the thresholds and their origin set.

  Raises:
    ConfigError: a benchmark without background, a model without groups, or
      thresholds that are set already; captions that name no class.
    SourceError: no images.
    ImageError: one that cannot be read.
  """
  _check(spec)
  settings = build.make(spec, encoder).settings
  if not settings['background']:
    raise ConfigError(
      f'{spec.benchmark} has no background, so that there is nothing to '
      'calibrate'
    )
  images = benchmarks.open_captions(folder, limit=MOST)
  captions = [images.captions(i) for i in range(len(images))]
  side = settings['sizes']['window']
  batches = image_batches.Batches(
    images,
    lambda place, _: place,
    (side, side),
    batch_size,
    clip=True,  # the shorter side becomes that of a window, as there
    progress=progress,
  )
  names = settings['class_names'][1:]
  tokens = zero_shot.tokenize_classes(
    encoder.tokenizer, names, settings['protocol']['templates']
  )
  text = zero_shot.embed_tokens(predict_fns['text'], variables, tokens)
  values = _values(batches, predict_fns, variables, text, len(images))
  with explained_as(ConfigError):
    named = calibration.mentions(captions, names)
    values = calibration.from_captions(values, named)
  thresholds = {
    'background_threshold': config_lib.LOWEST,
    'class_thresholds': values,
    'threshold_cosines': True,
  }
  origin = {
    'data': str(files.expanded(folder).resolve()),
    'images': len(images),
  }
  return dataclasses.replace(
    spec, overrides={**spec.overrides, **thresholds}, calibration=origin
  )


def _check(spec):
  if spec.benchmark in label_sets.IMAGE_LEVEL:
    raise ConfigError(f'{spec.benchmark} is of whole images: no threshold')
  if spec.regions != label_sets.MODEL:
    raise ConfigError('only models with groups of their own are calibrated')
  taken = {
    'background_threshold',
    'class_thresholds',
    'threshold_cosines',
    'background_prompts',
  } & spec.overrides.keys()
  if taken:
    raise ConfigError(
      f'calibration finds the background itself; leave {min(taken)} out'
    )


def _values(batches, predict_fns, variables, text, count):
  """A row for each image, those of other processes as well."""
  places = []

  def images():
    for batch in batches():
      places.extend(batch['position'].tolist())
      yield batch['image']

  values = calibration.best_cosines(predict_fns, variables, images(), text)
  mine = [[i, row] for i, row in zip(places, values.tolist(), strict=True)]
  rows = dict(row for part in sharding.gather(mine) for row in part)
  return np.asarray([rows[i] for i in range(count)], np.float32)
