"""Background thresholds for a benchmark, from captioned images."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from groupvit_jax import benchmarks, files
from groupvit_jax.benchmarks import build, label_sets
from groupvit_jax.data import images as images_lib
from groupvit_jax.errors import ConfigError, explained_as
from groupvit_jax.evaluation import calibration, zero_shot
from groupvit_jax.evaluation import config as config_lib
from groupvit_jax.evaluation.evaluator import RunOptions

# Thresholds no longer change by then, and a folder may hold a million images.
MOST = 1000


def calibrate(
  spec: build.BenchmarkSpec,
  encoder: build.Encoder,
  predict_fns: Mapping[str, Callable[..., Any]],
  variables: Any,
  folder: str | os.PathLike,
  *,
  options: RunOptions = RunOptions(),
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
    options: how it runs; nothing is resumed or skipped.

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
  names = settings['class_names'][1:]
  tokens = zero_shot.tokenize_classes(
    encoder.tokenizer, names, settings['protocol']['templates']
  )
  evaluator = calibration.BestCosines(
    images,
    tokens,
    # The shorter side becomes that of a window, as there.
    functools.partial(images_lib.crop, size=(side, side), clip=True),
    options,
  )
  values = evaluator.evaluate(predict_fns, variables)
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
