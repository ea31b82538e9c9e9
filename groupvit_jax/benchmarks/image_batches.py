"""Batches of centre crops for image-level evaluation, read ahead."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import numpy as np

from groupvit_jax import files, sharding
from groupvit_jax.data import images
from groupvit_jax.errors import ImageError, SourceError, UserError


class Batches:
  """Batches of images for image-level evaluators (`batches_fn`).

  In a run of several processes each takes every n-th image; all get the same
  number of batches.

  Attributes:
    skipped: (name, reason) of the images that the last pass left out; complete
      in all processes at its end.
  """

  def __init__(
    self,
    examples: Any,
    label: Callable[[int, Any], Any],
    size: tuple[int, int],
    batch_size: int,
    *,
    clip: bool = False,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
  ):
    """Reads nothing yet.

    Args:
      examples: by random access from any thread; each has name and image.
      label: from a position and its example to a label.
      size: (H, W) of the crops.
      batch_size: images in a batch of this process.
      clip: crop as CLIP does (`data.images.crop`).
      skip_bad: leave out images that cannot be read, instead of raising.
      progress: called with the number of images of this process that are done,
        and their total.
    """
    self.skipped: list[tuple[str, str]] = []
    self._examples = examples
    self._label = label
    self._size = size
    self._batch_size = batch_size
    self._clip = clip
    self._skip_bad = skip_bad
    self._progress = progress or (lambda done, total: None)

  def __call__(
    self, done: Collection[int] = ()
  ) -> Iterator[dict[str, np.ndarray]]:
    """A pass over all images but those that are done.

    Args:
      done: their positions; in a run of several processes none.

    Yields:
      image (uint8 b H W 3), label, position, mask (0 for padding).

    Raises:
      UserError, OSError: an image that cannot be read (without `skip_bad`);
        of several processes an ImageError in all of them, at the end.
      SourceError: with `skip_bad`, none that can.
    """
    self.skipped.clear()
    # -1 fills up, so that every process has as many batches as the first.
    total, processes = len(self._examples), jax.process_count()
    share = -(-(total - len(done)) // processes)
    count = -(-share // self._batch_size) * self._batch_size
    all_own = range(jax.process_index(), total, processes)
    own = [place for place in all_own if place not in done]
    places = [*own, *[-1] * (count - len(own))]
    ready = len(all_own) - len(own)
    for rows in files.ahead(self._read, places, self._batch_size):
      positions, crops, labels, mask, bad = zip(*rows, strict=True)
      self.skipped += [reason for reason in bad if reason]
      yield {
        'image': np.stack(crops),
        # Of several labels an image, padding has as many.
        'label': np.stack(np.broadcast_arrays(*labels)).astype(np.int32),
        'position': np.asarray(positions, np.int32),
        'mask': np.asarray(mask, np.float32),
      }
      ready = min(ready + self._batch_size, len(all_own))
      self._progress(ready, len(all_own))
    parts = sharding.gather(self.skipped)
    self.skipped = [(name, why) for part in parts for name, why in part]
    if self.skipped and not self._skip_bad:
      raise ImageError(self.skipped[0][1])
    if len(self.skipped) == total:
      raise SourceError(
        f'None of the {total} images can be used; the first: '
        f'{self.skipped[0][1]}'
      )

  def _read(
    self, place: int
  ) -> tuple[int, np.ndarray, Any, bool, tuple[str, str] | None]:
    """Place, image, label, whether it counts, (name, reason) if it is bad."""
    blank = np.zeros((*self._size, 3), np.uint8)
    if place < 0:
      return place, blank, 0, False, None
    try:
      example = self._examples[place]
      image = images.crop(example.image, self._size, clip=self._clip)
    except (UserError, OSError) as error:
      # Processes go in step: if one stopped here, the others would wait.
      if not self._skip_bad and jax.process_count() == 1:
        raise
      return place, blank, 0, False, (self._examples.name(place), str(error))
    return place, image, self._label(place, example), True, None
