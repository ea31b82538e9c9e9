"""What is counted of a batch of pictures, inside one compiled program.

Labels at the truth's size, and everything that is measured of them; only counts
leave the device.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from groupvit_jax.evaluation import metrics, resize
from groupvit_jax.evaluation import windows as windows_lib
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.metrics import Tally
from groupvit_jax.evaluation.scoring import region_scores
from groupvit_jax.evaluation.windows import Windows

# The oracle: how good the groups are when their labels come from the truth.
#
# Separates the two errors of text-supervised segmentation: where the borders of
# the groups are wrong, and where a good group gets the wrong word.

# Jaccard indices are summed as whole hundred-thousandths, so that no order of
# summing changes them; int32 holds 21,000 windows of a batch.
JACCARD_UNIT = 100_000


def group_class_counts(
  groups: Int[Array, 'b h w'],
  label: Int[Array, 'b h w'],
  num_groups: int,
  num_classes: int,
  mask: Array | None = None,
) -> Int[Array, 'b g c']:
  """How many pixels of each true class each group of each picture holds.

  Args:
    groups: the group of each pixel.
    label: the true class of each pixel; 255 and out of range count nothing.
    num_groups: g.
    num_classes: c.
    mask: b, 0 for padded examples, which count nothing.

  Returns:
    int32 counts.
  """
  return metrics.joint_counts(groups, label, (num_groups, num_classes), mask)


def oracle_confusion(counts: Int[Array, 'b g c']) -> Int[Array, 'c c']:
  """The confusion matrix if every group were named by its majority class.

  Paper, section 4.3 ("oracle labels"; 73.7 mIoU on VOC against 52.3 by text).
  A tie goes to the lower class; a group without counted pixels adds nothing.

  Args:
    counts: from `group_class_counts`.

  Returns:
    int32 [truth, prediction], summed over the batch.
  """
  name = jax.nn.one_hot(counts.argmax(-1), counts.shape[-1], dtype=jnp.int32)
  return jnp.einsum('bgt,bgp->tp', counts, name)


def best_group_jaccard(groups: Int[Array, 'b n g c']) -> Int[Array, '2 c']:
  """How well the best group of each window covers each class that it shows.

  Mask probing (the paper's C.2): the Jaccard index of a true mask and the group
  that fits it best.

  Args:
    groups: pixels of every true class in every group.

  Returns:
    int32: windows that show the class, and the sum of the indices in
    hundred-thousandths.
  """
  true = groups.sum(2, keepdims=True)
  union = groups.sum(3, keepdims=True) + true - groups
  best = _hundred_thousandths(groups, jnp.maximum(union, 1)).max(2)
  shown = true[:, :, 0] > 0
  total = jnp.where(shown, best, 0).sum((0, 1))
  return jnp.stack([shown.sum((0, 1), dtype=jnp.int32), total])


def _hundred_thousandths(
  part: Int[Array, '*n'], whole: Int[Array, '*n']
) -> Int[Array, '*n']:
  """The share of a part, half a unit rounded up.

  By long division in whole numbers: how a float is divided may depend on the
  shape of the batch. Exact up to 2^31 / 10 pixels.
  """
  share, rest = part // whole, part % whole
  unit = 1
  while unit < JACCARD_UNIT:
    share = 10 * share + 10 * rest // whole
    rest = 10 * rest % whole
    unit *= 10
  return share + (2 * rest >= whole)


def usage(counts: Int[Array, 'b g c']) -> Float[Array, 'b g']:
  """The share of each picture's counted pixels that each group holds."""
  pixels = counts.sum(-1).astype(jnp.float32)
  return pixels / jnp.maximum(pixels.sum(-1, keepdims=True), 1.0)


def effective_number(share: Array | np.ndarray) -> Array:
  """exp(entropy) of shares that sum to one over the last axis.

  1 if one group holds everything, g if g groups hold the same.
  """
  share = jnp.asarray(share)
  # xlogy(0, 0) is 0: a group that holds nothing does not count.
  return jnp.exp(-jax.scipy.special.xlogy(share, share).sum(-1))


class Truth(NamedTuple):
  """The truth of b pictures on one canvas.

  Attributes:
    label: integers b H W; 255 is ignored, and fills up.
    sizes: int32 b 2, (h, w) of every picture.
    widths: int32 b, of the bands along borders.
    rows, columns: from the scaled pictures to these sizes.
    mask: b, 0 for what fills the batch up.
  """

  label: Any
  sizes: Any
  widths: Any
  rows: resize.Taps
  columns: resize.Taps
  mask: Any


@flax.struct.dataclass
class BenchmarkCounts:
  """Counts that add up over batches, processes and interruptions.

  Attributes:
    confusion: c c, truth against prediction.
    images: pictures.
    blank: those of them that have no pixel that counts.
    given_background: c c, with the background taken from the truth.
    oracle: c c, with every group named by the truth.
    jaccard: 2 c, by true class: how many windows show it, and the sum of the
      Jaccard index of the best group there, in hundred-thousandths.
    boundary: 3 c, see `metrics.counts`.
  """

  confusion: Any
  images: Any
  blank: Any
  given_background: Any = None
  oracle: Any = None
  jaccard: Any = None
  boundary: Any = None

  def merge(self, other: 'BenchmarkCounts') -> 'BenchmarkCounts':
    """The counts of two disjoint sets of pictures."""
    return jax.tree.map(
      Tally.merge, self, other, is_leaf=lambda x: isinstance(x, Tally)
    )


@dataclasses.dataclass(frozen=True)
class Counter:
  """How a batch is counted.

  Attributes:
    config: the rule; with a threshold class 0 is the background.
    num_classes: c, the background included.
    background: whether class 0 of the truth is the background.
    diagnosis: also count oracle, given background and the best groups.
    boundary: also count along borders.
    refine: None, or (rgb b H W 3 in 0..1, scores b H W k, valid b H W) ->
      scores, at the size that the network saw.
  """

  config: SegmentConfig
  num_classes: int
  background: bool
  diagnosis: bool = True
  boundary: bool = True
  refine: Callable[[Array, Array, Array], Array] | None = None

  def count(
    self,
    said: Sequence[Mapping[str, Array]],
    words: tuple[Array, Array],
    places: Int[Array, 'b n 4'],
    truth: Truth,
    canvas: tuple[int, int],
    images: Array | None,
  ) -> BenchmarkCounts:
    """Counts one batch.

    Args:
      said: what the network said of each of the n windows: image (b e),
        embeddings (b g e) and pixels, see `Windows`; background (b g) if the
        model has learned one.
      words: class embeddings (c e), background left out, and the temperature.
      places: of the windows, see `Windows`.
      truth: of the same pictures.
      canvas: (H, W) that holds every scaled picture.
      images: uint8 b H W 3, the scaled pictures; only `refine` needs them.

    Returns:
      The counts.
    """
    truth = truth._replace(label=truth.label.astype(jnp.int32))
    said = jax.tree.map(lambda *each: jnp.stack(each), *said)
    _, scores = windows_lib.scan(
      lambda _, window: (None, region_scores(window, *words, self.config)),
      None,
      said,
    )
    windows = Windows(said['pixels'], jnp.moveaxis(scores, 0, 1), places)
    label, foreground = self.predict(windows, truth, canvas, images)
    real = truth.mask > 0
    blank = (truth.label == metrics.IGNORE).all((1, 2))
    found = {
      'confusion': self._confusion(truth, label),
      'images': real.sum(dtype=jnp.int32),
      'blank': (real & blank).sum(dtype=jnp.int32),
    }
    if self.diagnosis:
      if self.background:
        given = jnp.where(truth.label == 0, 0, foreground)
        found['given_background'] = self._confusion(truth, given)
      groups = _group_counts(windows, truth, canvas, self.num_classes)
      best = self._oracle(windows, groups, truth, canvas)
      found['oracle'] = self._confusion(truth, best)
      found['jaccard'] = best_group_jaccard(groups)
    if self.boundary:
      found['boundary'] = metrics.counts(
        truth.label,
        label,
        truth.sizes,
        truth.widths,
        self.num_classes,
        truth.mask,
      )
    return BenchmarkCounts(
      **{name: Tally.from_counts(value) for name, value in found.items()}
    )

  def predict(
    self,
    windows: Windows,
    truth: Truth,
    canvas: tuple[int, int],
    images: Array | None = None,
  ) -> tuple[Int[Array, 'b H W'], Int[Array, 'b H W']]:
    """Labels at the truth's size, and those without the background.

    Args:
      windows, truth, canvas, images: as in `count`.

    Returns:
      The best class of every pixel, and the best that is not the background
      (equal to it, for sets without one).
    """
    config = self.config
    threshold = config.background_threshold is not None
    cosines = not (config.group_softmax or config.gated_softmax)
    floor = -1.0 if cosines else 0.0
    # What is decided per pixel needs every class.
    top_k = config.top_k if config.one_hot else None
    kept = windows_lib.kept_classes(windows.scores, top_k, floor)
    tables = windows_lib.take_classes(windows.scores, kept, floor)
    if threshold:
      kept = jnp.pad(kept + 1, ((0, 0), (1, 0)))
      if config.one_hot:
        background = windows_lib.backgrounds(windows.scores, config)
        tables = jnp.concatenate([background, tables], -1)
    scores = windows_lib.mean_scores(windows, tables, canvas, config)
    if self.refine is not None:
      scores = self._refined(scores, windows, images)

    def best(scores):
      label = scores.argmax(-1)
      if not self.background or scores.shape[-1] == 1:
        return label, label
      return label, scores[..., 1:].argmax(-1) + 1

    return jax.tree.map(
      lambda index: _look_up(kept, index),
      resize.by_rows(best, scores, truth.rows, truth.columns),
    )

  def _refined(self, scores, windows, images):
    top, left, height, width = jnp.moveaxis(windows.places, -1, 0)
    # Windows have no gaps between them.
    ends = (top + height).max(1), (left + width).max(1)
    y, x = (jnp.arange(side) for side in scores.shape[1:3])
    valid = (y < ends[0][:, None])[:, :, None] & (x < ends[1][:, None])[:, None]
    return self.refine(images.astype(jnp.float32) / 255, scores, valid)

  def _confusion(self, truth, prediction):
    return metrics.confusion_counts(
      truth.label, prediction, self.num_classes, truth.mask
    )

  def _oracle(self, windows, groups, truth, canvas):
    """Labels by the same steps, had the truth named the groups."""
    names = jax.nn.one_hot(groups.argmax(-1), self.num_classes)
    # A group without counted pixels has no name.
    names *= groups.any(-1, keepdims=True)
    kept = windows_lib.kept_classes(names, names.shape[2], 0.0)
    tables = windows_lib.take_classes(names, kept, 0.0)
    plain = SegmentConfig(one_hot=self.config.one_hot)
    scores = windows_lib.mean_scores(windows, tables, canvas, plain)
    index = resize.by_rows(
      lambda scores: scores.argmax(-1), scores, truth.rows, truth.columns
    )
    return _look_up(kept, index)


def _look_up(kept: Int[Array, 'b k'], index: Array) -> Int[Array, 'b H W']:
  """The class that an index into the kept ones means."""
  return jax.vmap(lambda kept, index: kept[index])(kept, index)


def _group_counts(
  windows: Windows, truth: Truth, canvas: tuple[int, int], num_classes: int
) -> Int[Array, 'b n g c']:
  """Pixels of every true class in every group of every window.

  A pixel of the truth counts for the group of the pixel nearest to it in the
  scaled picture.
  """
  rows, columns = (
    jnp.where(taps.weight < 0.5, taps.first, taps.second)
    for taps in (truth.rows, truth.columns)
  )
  nearest = jax.vmap(lambda x, rows, columns: x[rows][:, columns])
  num_groups = windows.scores.shape[2]

  def step(carry, window):
    pixels, places = window
    groups = pixels.argmax(-1) if pixels.ndim == 4 else pixels
    groups, inside = windows_lib.on_canvas(
      groups.astype(jnp.int32), places, canvas
    )
    groups = nearest(jnp.where(inside, groups, -1), rows, columns)
    return carry, group_class_counts(
      groups, truth.label, num_groups, num_classes, truth.mask
    )

  each = windows.pixels, jnp.moveaxis(windows.places, 1, 0)
  return jnp.moveaxis(windows_lib.scan(step, None, each)[1], 0, 1)
