"""Every step from groups and words to a label per pixel, as one config.

The defaults are the released steps; `segmentation` takes them.
"""

import dataclasses
from collections.abc import Sequence

from groupvit_jax.evaluation import background

# Of what the network sees: attention to more would fill any memory.
MAX_SIDE = 16_384
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
  """From groups and words to a label per pixel; the defaults are the released.

  Attributes:
    top_k: only the k classes nearest to the whole picture's embedding may be
      named (the image-level gate); None lets all.
    group_softmax: P1, softmax of a group's similarity to all classes.
    gated_softmax: P2, the same over the classes that pass the gate. The score
      is P1 * P2; with neither, it is the cosine.
    one_hot: each pixel belongs to its strongest group alone; False mixes the
      groups' scores by the soft maps.
    background_threshold: None for data without a background class. Otherwise
      class 0 is the background, has no prompt, and gets the pixels whose best
      score is below it (released: VOC .95, Context .35, COCO .95).
    relative_threshold: lower the threshold to the best score of the picture, so
      that something is always found.
    constant_background: the background competes everywhere with the threshold
      as its score (TCL), instead of taking the pixels below it with a score of
      1 (released). Only where windows overlap or scores are enlarged do the two
      differ.
    class_thresholds: a threshold for each class, or a single one for all: a
      group whose best class is below its own is background too. This and the
      next two need a background_threshold (`config_with` sets one
      that refuses nothing) and one_hot.
    threshold_cosines: class_thresholds are cosines, which do not depend on the
      other classes asked for, instead of scores.
    learned_background: groups nearer to what the model has learned as
      background than to their best class are background too; only for models
      trained with it.
    background_prompts: class 0 is the background by the words it is given, as
      in 'background|wall|sky': it always passes the gate, and takes no place.
    scale: multiplies the cosines before a softmax, above 0; None for the
      learned temperature.
    mode: 'whole' pictures (the released demo) or 'slide', windows whose scores
      are averaged where they overlap (the released benchmarks). This and what
      follows is inference's (`Model.segment`): evaluators bring their own size.
    short_side: pixels that a picture's shorter side is scaled to; None for the
      model's own (448 for the released weights).
    long_side: the most for the longer side; None for 2048 to a short_side of
      448, and in proportion.
    window: side of the windows; None for short_side.
    stride: from window to window; None for half a window.
  """

  top_k: int | None = 5
  group_softmax: bool = True
  gated_softmax: bool = True
  one_hot: bool = True
  background_threshold: float | int | None = None
  relative_threshold: bool = True
  constant_background: bool = False
  class_thresholds: Sequence[float | int] | float | int | None = None
  threshold_cosines: bool = False
  learned_background: bool = False
  background_prompts: bool = False
  scale: float | int | None = None
  mode: str = 'whole'
  short_side: int | None = None
  long_side: int | None = None
  window: int | None = None
  stride: int | None = None

  def __post_init__(self):
    if self.mode not in ('whole', 'slide'):
      raise ValueError(f"mode is 'whole' or 'slide', not {self.mode!r}.")
    for name in ('short_side', 'long_side', 'window', 'stride'):
      pixels = getattr(self, name)
      if pixels is not None and not 1 <= pixels <= MAX_SIDE:
        raise ValueError(
          f'{name} is in pixels, 1 to {MAX_SIDE}, or None; got {pixels}.'
        )
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(f'top_k must be at least 1, or None; got {self.top_k}.')
    threshold = self.background_threshold
    if threshold is not None and not 0.0 <= threshold <= 1.0:
      raise ValueError(
        f'background_threshold is a share in 0..1, or None for data without a '
        f'background class; got {threshold}.'
      )
    if self.class_thresholds is not None:
      # Of a JSON file they are a list, which no compiled program is kept by;
      # of a command line a number.
      given = self.class_thresholds
      given = (given,) if isinstance(given, int | float) else given
      thresholds = tuple(map(float, given))
      object.__setattr__(self, 'class_thresholds', thresholds)
    self._check_scale()
    self._check_background()
    self._check_class_thresholds()

  @property
  def refuses(self) -> bool:
    """Whether a rule beside the global threshold finds the background."""
    return self.class_thresholds is not None or self.learned_background

  def _check_scale(self):
    if self.scale is None:
      return
    if not self.scale > 0:  # so written, it refuses nan as well
      raise ValueError(
        f'scale must be above 0, or None for the learned one; got {self.scale}.'
      )
    if not (self.group_softmax or self.gated_softmax):
      raise ValueError(
        'scale does nothing where group_softmax and gated_softmax are off; '
        'leave it out.'
      )

  def _check_background(self):
    threshold = self.background_threshold is not None
    if self.refuses and not (threshold and self.one_hot):
      raise ValueError(
        'class_thresholds and learned_background need one_hot and a '
        f'background_threshold, such as {background.LOWEST}, which '
        'refuses nothing itself.'
      )
    if self.background_prompts and threshold:
      raise ValueError(
        'background_prompts gives the background words of its own; set '
        'background_threshold to None.'
      )

  def _check_class_thresholds(self):
    given = self.class_thresholds
    if given is None:
      if self.threshold_cosines:
        raise ValueError(
          'threshold_cosines says what class_thresholds are; give those too, '
          'or leave it out.'
        )
      return
    if not given:
      raise ValueError('class_thresholds is empty; give one number, or None.')
    softmax = self.group_softmax or self.gated_softmax
    cosines = self.threshold_cosines or not softmax
    lowest, kind = (-1, 'cosines') if cosines else (0, 'scores')
    # Calibrated ones may be a rounding beyond.
    wrong = [x for x in given if not lowest - _ROUNDING <= x <= 1 + _ROUNDING]
    if wrong:
      raise ValueError(
        f'class_thresholds are {kind} in {lowest}..1; got {wrong[0]}.'
      )


def config_with(
  config: SegmentConfig,
  thresholds: Sequence[float | int] | float | int | None = None,
  *,
  cosines: bool = True,
  learned: bool = False,
) -> SegmentConfig:
  """A config that finds the background by these rules alone.

  Args:
    config: the other steps.
    thresholds: of every class, in their order without the background, or one
      for all; None for none.
    cosines: thresholds are cosines instead of scores.
    learned: by the model's learned background.

  Returns:
    The config, its global threshold so low that it refuses nothing itself.
  """
  return dataclasses.replace(
    config,
    background_threshold=background.LOWEST,
    class_thresholds=thresholds,
    threshold_cosines=cosines and thresholds is not None,
    learned_background=learned,
  )
