"""Pictures of which nothing is known: any folder of them."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from groupvit_jax.data import images
from groupvit_jax.data.benchmarks import folders
from groupvit_jax.errors import SourceError


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture alone.

  Fields:
    name: its path in the folder.
    image: RGB pixels, upright.
  """

  name: str
  image: UInt8[np.ndarray, 'h w 3']


class Pictures:
  """Pictures by random access, from any thread.

  `pictures[i]` raises ImageError, naming the file, for one that cannot be read.
  """

  def __init__(self, root: pathlib.Path, names: Sequence[str]):
    self._root, self._names = root, tuple(names)

  def __len__(self) -> int:
    return len(self._names)

  def name(self, index: int) -> str:
    return self._names[index]

  def __getitem__(self, index: int) -> Picture:
    name = self._names[index]
    return Picture(name, images.open_image(self._root / name))


def open_pictures(
  folder: str | os.PathLike, *, limit: int | None = None
) -> Pictures:
  """Opens all pictures in a folder and below it.

  Args:
    folder: where they are.
    limit: the first so many alone, by name.

  Raises:
    SourceError: no such folder, or no picture in it.
  """
  root = folders.existing(folder)
  names = [
    path.relative_to(root).as_posix()
    for path in folders.files_below(root)
    if path.suffix.lower() in folders.PICTURES
  ]
  if not names:
    raise SourceError(
      f'{root} holds no picture ({", ".join(folders.PICTURES)}).'
    )
  return Pictures(root, names[:limit])
