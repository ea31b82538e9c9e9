"""`scenes` as a labelled set: drawn when asked for, nothing on disk.

The same scenes as those that training is evaluated with, at any size.
"""

from groupvit_jax.data import scenes
from groupvit_jax.data.benchmarks.example import Example
from groupvit_jax.errors import SourceError

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
    count: int = 1000,
    size: int = 224,
    seed: int = 0,
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
