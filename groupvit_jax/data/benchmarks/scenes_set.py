"""`scenes` as a labelled set: drawn when asked for, nothing on disk.

The same scenes as those that training is evaluated with, at any size.
"""

import dataclasses

from groupvit_jax import scenes
from groupvit_jax.data.benchmarks.example import Example
from groupvit_jax.errors import SourceError

DEFAULTS = {'count': 1000, 'size': 224, 'seed': 0}
_SPLITS = ('train', 'validation', 'test')


class ScenesSet:
  """A `LabelledSet` of drawn scenes; every pixel has a class.

  Fields: as LabelledSet.
  """

  background = False

  def __init__(
    self,
    split: str = 'validation',
    *,
    count: int = DEFAULTS['count'],
    size: int = DEFAULTS['size'],
    seed: int = DEFAULTS['seed'],
  ):
    """Says which scenes.

    Args:
      split: 'validation' or 'test' (or 'train', to look at).
      count: how many; the first ones are the same for every count.
      size: side in pixels; the same scenes at every size.
      seed: another one gives other scenes.

    Raises:
      SourceError: an unknown split, or no scene.
    """
    if split not in _SPLITS:
      raise SourceError(
        f'scenes has the splits {", ".join(_SPLITS)}, not {split!r}.'
      )
    if count < 1 or size < 16:
      raise SourceError(
        f'scenes needs a count of at least 1 and a size of at least 16, not '
        f'{count} and {size}.'
      )
    self.class_names = scenes.CLASS_NAMES
    self._split, self._count, self._size = split, count, size
    self._seed = scenes.split_seed(split, seed)

  def __len__(self) -> int:
    return self._count

  def name(self, index: int) -> str:
    return f'{self._split}-{range(self._count)[index]:06d}'

  def __getitem__(self, index: int) -> Example:
    index = range(self._count)[index]
    image, _, label = scenes.generate(self._seed, index=index, size=self._size)
    return Example(self.name(index), image, label.astype('int32'))


class SceneThings(ScenesSet):
  """Scenes of which the things alone are asked for: a set with a background.

  Every ground is background (class 0). Nothing else differs, and no model is
  trained otherwise: it is the truth that is read in another way.

  Fields: as LabelledSet.
  """

  background = True

  def __init__(self, split: str = 'validation', **options: int):
    """Says which scenes; options as of `ScenesSet`."""
    super().__init__(split, **options)
    self.class_names = ('background', *scenes.THINGS)

  def __getitem__(self, index: int) -> Example:
    example = super().__getitem__(index)
    # Grounds come first among the classes of scenes.
    label = (example.label - len(scenes.GROUNDS) + 1).clip(0)
    return dataclasses.replace(example, label=label)
