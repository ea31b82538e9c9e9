"""Pictures and class numbers in webdataset shards, by random access.

A sample is a picture and `cls`, a text file with a number.
"""

import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from groupvit_jax.data import shards
from groupvit_jax.errors import ImageError, SourceError

_NO_NUMBER = (1 << 31) - 1
_MOST_DIGITS = 16


class LabelShards:
  """Labelled pictures of tar shards.

  Fields:
    names: one for each picture: its shard, and its place there.
  """

  def __init__(self, patterns: str | os.PathLike | Sequence):
    """Indexes shards, or reads the indices of earlier runs.

    Args:
      patterns: path or pattern (`{000000..000049}.tar`, `*.tar`), or several.

    Raises:
      SourceError: a shard is missing or no tar, or no labelled picture.
    """
    self._paths = _paths(patterns)
    try:
      self._shard, self._table = shards.build_index(self._paths, scan, 'labels')
    except ValueError as error:
      raise SourceError(str(error)) from error
    if not len(self._table):
      raise SourceError(
        f'{patterns}: no sample has a picture ({", ".join(shards.IMAGES)}) '
        'and a cls.'
      )
    self._files = shards.Files(self._paths)
    counts = np.bincount(self._shard, minlength=len(self._paths)).tolist()
    self.names = [
      f'{path}#{i}'
      for path, count in zip(self._paths, counts, strict=True)
      for i in range(count)
    ]

  def read(self, index: int, classes: int) -> tuple[bytes, int]:
    """The encoded picture and its label.

    Raises:
      ImageError: the label is no number below `classes`.
    """
    at, size, label = self._table[index].tolist()
    if label >= classes:
      said = 'is no number' if label == _NO_NUMBER else f'is {label}'
      raise ImageError(
        f'{self.names[index]}: its cls {said}, and there are {classes} classes '
        '(0 is the first); give the class names that belong to these shards.'
      )
    data = self._files.read(self._shard[index], at * shards.BLOCK, size)
    return data, label


def _paths(patterns):
  """All of the shards: a set without some of them is another set."""
  missing = shards.absent(patterns)
  if missing:
    pattern, path = missing[0]
    of = '' if path == pattern else f' of {pattern}'
    more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
    raise SourceError(
      f'{path}{more}{of}: there is no such shard; give a path or a pattern of '
      "those that are there, such as '/data/imagenet-val-{000000..000049}.tar'."
    )
  return shards.expand(patterns)


def scan(path: str) -> np.ndarray:
  """Indexes the labelled pictures of one shard.

  Returns:
    int64 [n, 3]: the 512-byte block where the picture starts, its size in
    bytes, and its label.
  """
  rows, left_out = [], 0
  with open(path, 'rb', buffering=0) as file:
    for parts in shards.samples(path):
      image = next((parts[e] for e in shards.IMAGES if e in parts), None)
      if image is None or 'cls' not in parts:
        left_out += 1
        continue
      block, size = parts['cls']
      text = os.pread(
        file.fileno(), min(size, _MOST_DIGITS), block * shards.BLOCK
      )
      rows.append((*image, _number(text)))
  if left_out:
    logging.warning(
      '%s: %d samples lack a picture or a cls and are left out', path, left_out
    )
  return np.array(rows, np.int64).reshape(-1, 3)


def _number(text):
  text = text.strip()
  return min(int(text), _NO_NUMBER) if text.isdigit() else _NO_NUMBER
