"""Reads the sample of a position and stands a good one in for a bad one.

The stand-in depends on (seed, position, attempt) only, so that a resumed run
replaces the same samples by the same others.
"""

import dataclasses
import threading

import numpy as np
from absl import logging

from groupvit_jax.data import images as images_lib
from groupvit_jax.data import order
from groupvit_jax.errors import SourceError

MAX_CAPTION = 10_000  # characters; what is beyond is cut
_WARNINGS = 5
_MAX_ATTEMPTS = 100
# The share of bad samples is judged between these numbers of reads.
_JUDGE_FROM, _JUDGE_UNTIL = 200, 2000


class BadSourceError(SourceError, ValueError):
  """Most of a source is unusable; the message names it."""


@dataclasses.dataclass(frozen=True)
class Sample:
  """One usable sample.

  Fields:
    position: global position that it serves.
    attempt: how many samples were rejected before it.
    image: bytes of an encoded image, or uint8 array [h, w, 3].
    size: (height, width).
    caption: str, not empty.
  """

  position: int
  attempt: int
  image: bytes | np.ndarray
  size: tuple[int, int]
  caption: str


class Reader:
  """Random access by position over a source, past its bad samples.

  Fields:
    source: a random-access source (see `sources`).
    shuffle: the EpochShuffle that orders it.
    seed: int.
    max_pixels: larger images are bad.
    bad: bad samples met so far, by any thread.
  """

  def __init__(self, source, seed, max_pixels=images_lib.MAX_PIXELS):
    self.source = source
    self.seed = seed
    self.max_pixels = max_pixels
    self.shuffle = order.EpochShuffle(len(source), seed)
    self.bad = 0
    self._reads = 0
    self._lock = threading.Lock()

  def read_many(self, positions):
    """Reads the samples of int positions [b].

    Args:
      positions: int array [b], global positions.

    Returns:
      List of Sample, whose headers, sizes and captions are good.

    Raises:
      BadSourceError: too much of the source is bad.
    """
    indices = self.shuffle(positions).tolist()
    return [
      self._read(position, index, 0)
      for position, index in zip(positions.tolist(), indices, strict=True)
    ]

  def after(self, sample, reason):
    """Counts a sample that did not decode and reads its stand-in."""
    position, attempt = sample.position, sample.attempt
    self._count(self._index(position, attempt), attempt, reason)
    attempt += 1
    return self._read(position, self._index(position, attempt), attempt)

  def _read(self, position, index, attempt):
    while True:
      with self._lock:
        self._reads += 1
      try:
        return self._check(self.source[index], position, attempt)
      except images_lib.BadSampleError as error:
        self._count(index, attempt, error)
        attempt += 1
        index = self._index(position, attempt)

  def _index(self, position, attempt):
    if not attempt:
      return int(self.shuffle(np.array([position]))[0])
    bits = order.hash64(self.seed, order.REPLACE, np.array([position]), attempt)
    return int(bits[0] % np.uint64(len(self.source)))

  def _check(self, raw, position, attempt):
    image = raw['image']
    if isinstance(image, bytes):
      size = images_lib.encoded_size(image)
      images_lib.check_size(size, self.max_pixels)
      if images_lib.is_jpeg(image) and images_lib.looks_cut(image):
        images_lib.decode_pil(image)  # raises if it is
    else:
      if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise images_lib.BadSampleError(
          f'the image is {image.dtype} {image.shape}, not uint8 [h, w, 3]'
        )
      size = image.shape[:2]
      images_lib.check_size(size, self.max_pixels)
    caption = pick_caption(raw['caption'], self.seed, position)
    return Sample(position, attempt, image, size, caption)

  def _count(self, index, attempt, reason):
    with self._lock:
      self.bad += 1
      bad, reads = self.bad, self._reads
    name = source_name(self.source)
    if bad <= _WARNINGS:
      more = ' (no more such warnings)' if bad == _WARNINGS else ''
      logging.warning('%s: sample %d skipped: %s%s', name, index, reason, more)
    judged = _JUDGE_FROM <= reads <= _JUDGE_UNTIL
    if attempt + 1 >= _MAX_ATTEMPTS or (judged and bad > reads / 2):
      raise BadSourceError(
        f'{name}: {bad} of the first {reads} samples are unusable (the last '
        f'one: {reason}). Check how this data was prepared.'
      )


def source_name(source):
  """What messages call a source."""
  return getattr(source, 'name', type(source).__name__)


def clean_captions(captions):
  """Returns the usable captions of a sample.

  Args:
    captions: str or bytes, or a sequence of them.

  Returns:
    Tuple of str, stripped, each with 1 to MAX_CAPTION characters.

  Raises:
    BadSampleError: there is no caption that has a visible character.
  """
  if isinstance(captions, (str, bytes)):
    captions = (captions,)
  good = tuple(c for c in map(_clean, captions) if c)
  if not good:
    raise images_lib.BadSampleError('the caption is empty')
  return good


def pick_caption(captions, seed, position):
  """Takes one usable caption of a sample, by chance of its position."""
  good = clean_captions(captions)
  if len(good) == 1:
    return good[0]
  bits = order.hash64(seed, order.CAPTION, np.array([position]))
  return good[int(bits[0] % np.uint64(len(good)))]


def _clean(caption):
  if isinstance(caption, bytes):
    caption = caption.decode('utf-8', 'replace')
  return caption.strip()[:MAX_CAPTION]
