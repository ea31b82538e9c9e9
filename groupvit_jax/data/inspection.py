"""Looks at pairs before they are trained on: what is there, what is bad."""

import collections
import concurrent.futures
import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt64
from PIL import Image

from groupvit_jax import processes
from groupvit_jax.data import augment, sampling
from groupvit_jax.data import captions as captions_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.data.reading import Source
from groupvit_jax.text import nouns

# Bits of 64 in which hashes of near-duplicates differ at most.
_NEAR = 4
_SHEET = 8, 12  # rows and columns of the contact sheet
_TILE = 128  # pixels


class _Look(NamedTuple):
  """Record of a sample: `reason` if it is bad, else the rest."""

  reason: str = ''
  size: tuple[int, int] = (0, 0)
  bytes: int = 0
  captions: tuple[str, ...] = ()
  hash: int = 0
  tile: Image.Image | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
  """Statistics of some pairs of a source.

  Fields:
    total: pairs of the source.
    looked: pairs that were read.
    bad: counts by reason.
    sides: short and long side in pixels of each good image.
    sizes: bytes of each good image.
    words: words of each caption.
    captions: captions of each good image.
    nouns: the most frequent ones, with their counts.
    near_duplicates: good images that nearly equal an earlier one.
    sheet: contact sheet, uint8.
  """

  total: int
  looked: int
  bad: dict[str, int]
  sides: Float[np.ndarray, 'n 2']
  sizes: Float[np.ndarray, 'n']
  words: Float[np.ndarray, 'm']
  captions: Float[np.ndarray, 'n']
  nouns: list[tuple[str, int]]
  near_duplicates: int
  sheet: UInt8[np.ndarray, 'h w 3']

  def figures(self) -> dict[str, Any]:
    """The figures, fit for JSON; spreads are 5, 50 and 95 %."""
    return {
      'pairs': self.total,
      'looked_at': self.looked,
      'bad': self.bad,
      'share_bad': sum(self.bad.values()) / max(1, self.looked),
      'short_side': _spread(self.sides[:, 0]),
      'long_side': _spread(self.sides[:, 1]),
      'image_kilobytes': _spread(self.sizes / 1000),
      'captions_per_image': _spread(self.captions),
      'words_per_caption': _spread(self.words),
      'nouns': dict(self.nouns),
      'near_duplicates': self.near_duplicates,
    }


def inspect(source: Source, limit: int | None = 10_000) -> Inspection:
  """Reads pairs of a source, spread evenly at random.

  Args:
    source: any source.
    limit: how many pairs are read; None for all.
  """
  total = len(source)
  count = min(total, limit or total)
  order = sampling.EpochShuffle(total, 0)(np.arange(count)).tolist()
  tiles = _SHEET[0] * _SHEET[1]
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    work = pool.map(
      lambda job: _look(source, job[1], keep=job[0] < 2 * tiles),
      enumerate(order),
    )
    bar = processes.Bar(work, 'inspect', count, unit=' pairs', leave=False)
    looks = list(bar)
  good = [look for look in looks if not look.reason]
  bad = collections.Counter(look.reason for look in looks if look.reason)
  captions = [text for look in good for text in look.captions]
  words = collections.Counter(
    word for text in captions for word in set(nouns.extract(text, 'nouns'))
  )
  return Inspection(
    total=total,
    looked=count,
    bad=dict(bad.most_common()),
    sides=np.array([sorted(look.size) for look in good]).reshape(-1, 2) * 1.0,
    sizes=np.array([look.bytes for look in good], float),
    words=np.array([len(text.split()) for text in captions], float),
    captions=np.array([len(look.captions) for look in good], float),
    nouns=words.most_common(20),
    near_duplicates=int(
      near_duplicates(np.array([look.hash for look in good], np.uint64)).sum()
    ),
    sheet=_sheet([look.tile for look in good if look.tile][:tiles]),
  )


def _look(source, index, keep):
  try:
    sample = source[index]
    captions = captions_lib.clean_captions(sample['caption'])
    image = images_lib.decode(sample['image'], max_pixels=augment.MAX_PIXELS)
  except BadSampleError as error:
    return _Look(error.reason)
  data = sample['image']
  tile = None
  if keep:
    tile = image.copy()
    tile.thumbnail((_TILE, _TILE))
  bytes_ = data.nbytes if isinstance(data, np.ndarray) else len(data)
  return _Look('', image.size, bytes_, captions, difference_hash(image), tile)


def difference_hash(image: Image.Image) -> int:
  """64 bits: whether each of 8 x 8 cells is darker than its right neighbour.

  Scaling and compression change few of them (Krawetz 2013, the "dHash").
  """
  small = image.convert('L').resize((9, 8), Image.Resampling.BOX)
  grey = np.asarray(small, np.int16)
  return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes())


def near_duplicates(hashes: UInt64[np.ndarray, 'n']) -> Bool[np.ndarray, 'n']:
  """Which hashes differ in at most 4 of 64 bits from an earlier one."""
  found = np.zeros(len(hashes), bool)
  for start in range(0, len(hashes), 256):
    part = hashes[start : start + 256]
    differ = np.bitwise_count(part[:, None] ^ hashes[None, : start + len(part)])
    earlier = (
      np.arange(start + len(part)) < start + np.arange(len(part))[:, None]
    )
    found[start : start + len(part)] = ((differ <= _NEAR) & earlier).any(1)
  return found


def _sheet(tiles):
  rows, columns = _SHEET
  sheet = Image.new('RGB', (columns * _TILE, rows * _TILE), 'white')
  for i, tile in enumerate(tiles):
    row, column = divmod(i, columns)
    left = column * _TILE + (_TILE - tile.width) // 2
    sheet.paste(tile, (left, row * _TILE + (_TILE - tile.height) // 2))
  return np.asarray(sheet)


def _spread(values):
  if not len(values):
    return []
  return [round(float(x), 1) for x in np.percentile(values, (5, 50, 95))]
