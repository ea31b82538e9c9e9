"""Labelled pictures in memory, and evaluators of them, for several tests."""

import dataclasses

import numpy as np
from stub_models import NAMES, Stub, tokenizer

from groupvit_jax.errors import ImageError
from groupvit_jax.evaluation import config
from groupvit_jax.evaluation.benchmark import BenchmarkEvaluator, Settings


@dataclasses.dataclass(frozen=True)
class Example:
  name: str
  image: np.ndarray
  label: np.ndarray


class Examples:
  """A labelled set; counts what was read, and fails where it is told to.

  Attributes:
    bad: positions that cannot be read.
    read: positions that were asked for.
  """

  def __init__(self, examples, bad=()):
    self._examples, self.bad, self.read = list(examples), set(bad), []

  def __len__(self):
    return len(self._examples)

  def name(self, i):
    return self._examples[i].name

  def __getitem__(self, i):
    self.read.append(i)
    if i in self.bad:
      raise ImageError(f'{self.name(i)} is not an image: give another.')
    return self._examples[i]


def bands(count=9, seed=0, shift=0, widths=(8, 11, 12)):
  """Bands of up to three classes in pictures of several sizes, 8 px high.

  What `stub_models.Stub` sees in them is what they hold.
  """
  rng = np.random.default_rng(seed)
  examples = []
  for i in range(count):
    width = widths[i % len(widths)]
    classes = (i + rng.permutation(3)) % len(NAMES)
    label = np.repeat(classes, -(-width // 3))[:width]
    label = np.broadcast_to(label, (8, width)).astype(np.int32)
    if i % 5 == 2:  # portrait
      label = label.T
    image = np.repeat(label[..., None], 3, -1).astype(np.uint8)
    examples.append(Example(f'picture {i}', image, label + shift))
  return examples


SMALL = {
  'short_side': 8,
  'long_side': 40,
  'window': 8,
  'stride': 4,
}


def evaluator(examples=None, *, options=None, **kwargs):
  """An evaluator of windows of 8 px for the stub, whose patches are pixels."""
  examples = bands() if examples is None else examples
  if isinstance(examples, list):
    examples = Examples(examples)
  background = kwargs.get('background', False)
  settings = SMALL | (options or {})
  protocol = config.make('groupvit', 'test', background=background, **settings)
  arguments = {
    name: kwargs.pop(name)
    for name in ('mesh', 'resume_path', 'progress')
    if name in kwargs
  }
  fields = {
    'class_names': ('background', *NAMES) if background else NAMES,
    'background': background,
    'batch_size': 2,
    'patch_size': 1,
  }
  return BenchmarkEvaluator(
    examples, tokenizer, Settings(protocol, **fields | kwargs), **arguments
  )


class PaddedStub(Stub):
  """A stub that pictures smaller than their canvas can be given to."""

  def _regions(self, variables, images, sizes=None):
    regions = super()._regions(variables, images)
    return regions if sizes is None else {**regions, 'grids': sizes}
