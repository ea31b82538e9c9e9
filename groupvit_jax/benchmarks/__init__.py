"""Labelled sets: readers of the benchmarks' layouts, checked and uniform.

    from groupvit_jax import benchmarks

    examples = benchmarks.open_set('voc21', '/data/VOCdevkit/VOC2012')
    example = examples[0]  # name, image [h w 3], label [h w]

Only evaluation sees them: masks never reach training.
"""

from groupvit_jax import IGNORE
from groupvit_jax.benchmarks.base import Example, LabelledSet
from groupvit_jax.benchmarks.captions import (
  CaptionedImage,
  CaptionSet,
  open_captions,
)
from groupvit_jax.benchmarks.classification import (
  IMAGENET_CLASSES,
  IMAGENET_IDS,
  LabelledImage,
  LabelledImages,
  open_labelled_images,
)
from groupvit_jax.benchmarks.layouts import BENCHMARKS, Benchmark, open_set
from groupvit_jax.benchmarks.own import ScenesSet

__all__ = [
  'BENCHMARKS',
  'IGNORE',
  'IMAGENET_CLASSES',
  'IMAGENET_IDS',
  'Benchmark',
  'CaptionSet',
  'CaptionedImage',
  'Example',
  'LabelledImage',
  'LabelledImages',
  'LabelledSet',
  'ScenesSet',
  'open_captions',
  'open_labelled_images',
  'open_set',
]
