"""Counts of a batch of images, inside one compiled program.

Only counts leave the device. The oracle (labels of groups from the ground
truth) separates the two errors of text-supervised segmentation: wrong borders
of groups, and wrong classes for good groups.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from groupvit_jax.evaluation import labelling, metrics, regrouping, resize
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions
from groupvit_jax.evaluation.resize import Upsampling
from groupvit_jax.evaluation.scoring import (
  ClassEmbeddings,
  Scores,
  score,
  similarity,
)
from groupvit_jax.evaluation.sizes import Shapes

# Jaccard indices are summed as whole hundred-thousandths, so that no order of
# summing changes them; int32 holds 21,000 windows of a batch.
JACCARD_UNIT = 100_000


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


def effective_number(share: Array | np.ndarray) -> Array:
  """exp(entropy) of shares that sum to one over the last axis.

  1 if one group holds everything, g if g groups hold the same.
  """
  share = jnp.asarray(share)
  # xlogy(0, 0) is 0: a group that holds nothing does not count.
  return jnp.exp(-jax.scipy.special.xlogy(share, share).sum(-1))


class GroundTruth(NamedTuple):
  """The ground truth of b images at one padded shape.

  Attributes:
    label: integers b H W; 255 is ignored, and is the padding.
    sizes: int32 b 2, (h, w) of every image.
    widths: int32 b, of the bands along borders.
    output: from the scaled images to these sizes; None if they are equal.
    mask: b, 0 for images that are padding.
  """

  label: Any
  sizes: Any
  widths: Any
  output: Upsampling | None
  mask: Any


@dataclasses.dataclass(frozen=True)
class Measures:
  """Counts to take beside the confusion matrix.

  Attributes:
    boundary: pixels along borders, which costs time.
    diagnosis: what oracle labels and a given background would bring, and how
      well the best groups fit.
    comparisons: with a diagnosis, what the true list of classes would bring,
      and what tokens and learned groups reach by themselves. Each image is
      labelled once more for each of these, which takes half as long again.
    groups: how groups share images, and how well the pooled embedding names an
      image's classes.
  """

  boundary: bool = True
  diagnosis: bool = True
  comparisons: bool = True
  groups: bool = False

  @property
  def compared(self) -> bool:
    """Whether the comparisons are counted."""
    return self.diagnosis and self.comparisons


@dataclasses.dataclass(frozen=True)
class Counter:
  """How a batch is counted.

  Attributes:
    config: the rule; with a threshold class 0 is the background.
    num_classes: c, the background included.
    background: whether class 0 of the ground truth is the background.
    measures: what else is counted.
    refine: None, or (rgb b H W 3 in 0..1, scores b H W k, valid b H W) ->
      scores, at the size that the network saw.
  """

  config: SegmentConfig
  num_classes: int
  background: bool
  measures: Measures = Measures()
  refine: Callable[[Array, Array, Array], Array] | None = None

  def count(
    self,
    regions: Regions,
    classes: ClassEmbeddings,
    target: GroundTruth,
    shapes: Shapes,
    images: Array | None,
  ) -> dict[str, Array]:
    """Counts one batch.

    Args:
      regions: of b images.
      classes: without the background if the config has a threshold.
      target: of the same images.
      shapes: of the images; static.
      images: uint8 b H W 3, the scaled images; only `refine` needs them.

    Returns:
      int32 counts by name, that add up over batches: confusion (c c, ground
      truth against prediction), blank (images without a pixel that counts);
      given_background and oracle (c c), jaccard (2 c, `best_group_jaccard`),
      and the confusions of `_others`; boundary (3 c, `metrics.counts`); and the
      sums of `_shares`.
    """
    target = target._replace(label=target.label.astype(jnp.int32))

    def predict(regions, classes, config):
      scores = score(regions, classes, config)
      pixels = labelling.merge_windows(regions, scores, shapes, config)
      if self.refine is not None:
        refined = self._refined(pixels.scores, regions.places, images)
        pixels = pixels._replace(scores=refined, groups=None)
      return labelling.best_classes(
        pixels, target.output, config, background=self.background
      )

    learned, regions = regions, regrouping.apply(regions, self.config)
    label, foreground = predict(regions, classes, self.config)
    blank = (target.label == metrics.IGNORE).all((1, 2)) & (target.mask > 0)
    counts = {
      'confusion': self._confusion(target, label),
      'blank': blank.sum(dtype=jnp.int32),
    }
    measures = self.measures
    if measures.diagnosis or measures.groups:
      groups = self._group_counts(regions, target, shapes)
    if measures.diagnosis:
      if self.background:
        given = jnp.where(target.label == 0, 0, foreground)
        counts['given_background'] = self._confusion(target, given)
      best = self._oracle(regions, groups, target, shapes, self.config.one_hot)
      counts['oracle'] = self._confusion(target, best)
      counts['jaccard'] = best_group_jaccard(groups)
    if measures.compared:
      present = groups.any((1, 2))[:, -classes.vectors.shape[0] :]
      listed = classes._replace(valid=present)
      no_gate = dataclasses.replace(self.config, top_k=None)
      found, _ = predict(regions, listed, no_gate)
      counts['class_list'] = self._confusion(target, found)
      for name, rule in self._others(learned).items():
        others = regrouping.of_tokens(learned) if name == 'tokens' else learned
        found, _ = predict(others, classes, rule)
        counts[name] = self._confusion(target, found)
      if 'learned' in counts:
        groups_of = self._group_counts(learned, target, shapes)
        best = self._oracle(learned, groups_of, target, shapes, True)
        counts['learned_oracle'] = self._confusion(target, best)
    if measures.groups:
      counts |= _shares(groups, regions.image, classes.vectors)
    if measures.boundary:
      counts['boundary'] = metrics.counts(
        target.label,
        label,
        target.sizes,
        target.widths,
        self.num_classes,
        target.mask,
      )
    return counts

  def _others(self, learned: Regions) -> dict[str, SegmentConfig]:
    """Rules that a diagnosis compares with: of the tokens, of learned groups.

    Rules that refuse regions are of the regions that they were made for, so
    there tokens are not measured.
    """
    config, others = self.config, {}
    refuses = config.learned_background or config.class_thresholds is not None
    if learned.tokens is not None and not refuses:
      others['tokens'] = dataclasses.replace(
        config, regroup='none', one_hot=False, mix_logits=True
      )
    if config.regroup != 'none':
      others['learned'] = dataclasses.replace(
        config, regroup='none', one_hot=True
      )
    return others

  def _refined(self, scores, places, images):
    top, left, height, width = jnp.moveaxis(places, -1, 0)
    # Windows have no gaps between them.
    ends = (top + height).max(1), (left + width).max(1)
    y, x = (jnp.arange(side) for side in scores.shape[1:3])
    valid = (y < ends[0][:, None])[:, :, None] & (x < ends[1][:, None])[:, None]
    return self.refine(images.astype(jnp.float32) / 255, scores, valid)

  def _confusion(self, target, prediction):
    size = self.num_classes, self.num_classes
    tables = metrics.joint_counts(target.label, prediction, size, target.mask)
    return tables.sum(0)

  def _group_counts(self, regions, target, shapes):
    """Pixels of every true class in every group of every window, b n g c.

    A pixel of the ground truth counts for the group of the pixel nearest to it
    in the scaled image.
    """
    size = regions.embeddings.shape[2], self.num_classes

    def step(carry, window):
      groups, place = window
      groups, inside = labelling.place_window(
        groups.astype(jnp.int32), place, shapes.scaled
      )
      groups = jnp.where(inside, groups, -1)
      if target.output is not None:
        groups = resize.nearest(groups, target.output)
      return carry, metrics.joint_counts(
        groups, target.label, size, target.mask
      )

    maps = labelling.pixel_maps(regions, shapes.window)
    each = maps, jnp.moveaxis(regions.places, 1, 0)
    return jnp.moveaxis(labelling.scan(step, None, each)[1], 0, 1)

  def _oracle(self, regions, groups, target, shapes, one_hot):
    """Labels by the same steps, with groups labelled by the ground truth.

    Paper, section 4.3 ("oracle labels"; 73.7 mIoU on VOC against 52.3 by text).
    A tie goes to the lower class.
    """
    names = jax.nn.one_hot(groups.argmax(-1), self.num_classes)
    # A group without counted pixels has no name.
    names *= groups.any(-1, keepdims=True)
    # A window has as many names as groups at most.
    plain = SegmentConfig(top_k=names.shape[2], one_hot=one_hot)
    pixels = labelling.merge_windows(regions, Scores(names), shapes, plain)
    return labelling.best_classes(pixels, target.output, plain)[0]


def _shares(
  groups: Int[Array, 'b n g c'],
  image: Float[Array, 'b n e'],
  vectors: Float[Array, 'k *s e'],
) -> dict[str, Array]:
  """Sums over the windows that have a counted pixel.

  Returns:
    windows, their number; usage, g shares of a window's pixels; used, effective
    numbers of groups; recall, of a window's classes by its pooled embedding.
  """
  pixels = groups.sum(-1).astype(jnp.float32)
  share = pixels / jnp.maximum(pixels.sum(-1, keepdims=True), 1.0)
  counted = pixels.any(-1)
  # A background has no vector.
  present = (groups.sum(2) > 0)[..., -vectors.shape[0] :]
  recall = metrics.recall(
    similarity(image, vectors).reshape(-1, vectors.shape[0]),
    present.reshape(-1, vectors.shape[0]),
  )
  return {
    'windows': counted.sum(dtype=jnp.int32),
    'usage': share.sum((0, 1)),
    'used': (effective_number(share) * counted).sum(),
    'recall': (recall.reshape(counted.shape) * counted).sum(),
  }
