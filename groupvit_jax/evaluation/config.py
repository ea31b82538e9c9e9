"""Every step from regions to a label per pixel, as one config; protocols.

The defaults are the released steps; `scoring` and `labelling` take them.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from groupvit_jax.text import prompts

# A global threshold that refuses nothing itself: with 171 classes the best
# score is above 3e-5, and scores that other rules refuse are below 1e-9.
LOWEST = 1e-6

REGROUPINGS = ('none', 'kmeans')

# Steps that a model may want otherwise than released, as its run was evaluated.
OWN_STEPS = ('top_k', 'regroup', 'regroup_number', 'one_hot', 'mix_logits')

# Of what the network sees: attention to more would fill any memory.
MAX_SIDE = 16_384


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
  """From regions to a label per pixel; the defaults are the released.

  Attributes:
    top_k: only the k classes nearest to the embedding of the whole image may be
      named (the image-level gate); None lets all.
    group_softmax: P1, softmax of a region's similarity to all classes.
    gated_softmax: P2, the same over the classes that pass the gate. The score
      is P1 * P2; with neither, it is the cosine.
    regroup: 'kmeans' remakes the groups from the embeddings of the tokens that
      they were made of (`regrouping`); 'none' takes the learned groups.
    regroup_number: how many groups that makes; None for as many as the model
      has.
    regroup_rounds: of k-means.
    one_hot: each pixel belongs to its strongest region alone; False mixes the
      regions' scores by the soft maps.
    mix_logits: mix the logarithms of the scores instead, and make them sum to
      one: as if cosines were mixed before the softmax (exactly so without a
      gate). Only without one_hot.
    background_threshold: None for data without a background class. Otherwise
      class 0 is the background, has no prompt, and gets the pixels whose best
      score is below it (released: VOC .95, Context .35, COCO .95).
    relative_threshold: lower the threshold to the best score of the image, so
      that something is always found.
    constant_background: the background competes everywhere with the threshold
      as its score (TCL), instead of taking the pixels below it with a score of
      1 (released). Only where windows overlap or scores are upsampled do the
      two differ.
    class_thresholds: a threshold for each class, or a single one for all: a
      region whose best class is below its own is background too. This and the
      next two need a background_threshold (1e-6 refuses nothing itself) and
      one_hot.
    threshold_cosines: class_thresholds are cosines, which do not depend on the
      other classes asked for, instead of scores.
    learned_background: regions nearer to the learned background than to their
      best class are background too; only for models trained with it.
    background_prompts: class 0 is the background by its own prompts, as in
      'background|wall|sky': it always passes the gate, and takes no place.
    scale: multiplies the cosines before a softmax, above 0; None for the
      learned logit scale.
    final_softmax: compare the softmax over the classes of a pixel's scores, as
      mmsegmentation does. In float32 scores that are all below about 6e-8 then
      tie, and the first class wins.
    mode: 'whole' images (the released demo) or 'slide', windows whose scores
      are averaged where they overlap (the released benchmarks). This and the
      following are of inference and benchmarks: evaluation during training
      brings its own size.
    short_side: pixels that an image's shorter side is scaled to; None for the
      model's own (448 for the released weights).
    long_side: the most for the longer side; None for 2048 to a short_side of
      448, and in proportion.
    window: side of the windows; None for short_side.
    stride: from window to window; None for half a window.
  """

  top_k: int | None = 5
  group_softmax: bool = True
  gated_softmax: bool = True
  regroup: str = 'none'
  regroup_number: int | None = None
  regroup_rounds: int = 5
  one_hot: bool = True
  mix_logits: bool = False
  background_threshold: float | int | None = None
  relative_threshold: bool = True
  constant_background: bool = False
  class_thresholds: Sequence[float | int] | float | int | None = None
  threshold_cosines: bool = False
  learned_background: bool = False
  background_prompts: bool = False
  scale: float | int | None = None
  final_softmax: bool = False
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
    for name in ('top_k', 'regroup_number'):
      count = getattr(self, name)
      if count is not None and count < 1:
        raise ValueError(f'{name} must be at least 1, or None; got {count}.')
    if self.regroup not in REGROUPINGS:
      raise ValueError(
        f'regroup is one of {", ".join(REGROUPINGS)}, not {self.regroup!r}.'
      )
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
    if self.scale is not None and not self.scale > 0:  # refuses nan as well
      raise ValueError(
        f'scale must be above 0, or None for the learned one; got {self.scale}.'
      )
    self._check_background()

  @property
  def softmaxes(self) -> bool:
    """Whether scores are probabilities; else they are cosines."""
    return self.group_softmax or self.gated_softmax

  @property
  def floor(self) -> float:
    """The lowest score there is."""
    return 0.0 if self.softmaxes else -1.0

  def _check_background(self):
    threshold = self.background_threshold is not None
    thresholds: Any = self.class_thresholds
    refuses = thresholds is not None or self.learned_background
    if refuses and not (threshold and self.one_hot):
      raise ValueError(
        'class_thresholds and learned_background need one_hot and a '
        f'background_threshold, such as {LOWEST}, which refuses nothing itself.'
      )
    if self.learned_background and self.regroup != 'none':
      raise ValueError(
        "learned_background is of the model's own groups; set regroup to "
        "'none'."
      )
    if self.background_prompts and threshold:
      raise ValueError(
        'background_prompts gives the background prompts of its own; set '
        'background_threshold to None.'
      )
    if thresholds is None:
      return
    if not thresholds:
      raise ValueError('class_thresholds is empty; give one number, or None.')
    cosines = self.threshold_cosines or not self.softmaxes
    lowest, kind = (-1, 'cosines') if cosines else (0, 'scores')
    # Calibrated ones may be a rounding beyond.
    wrong = [x for x in thresholds if not lowest - 1e-6 <= x <= 1 + 1e-6]
    if wrong:
      raise ValueError(
        f'class_thresholds are {kind} in {lowest}..1; got {wrong[0]}.'
      )


# NVlabs/GroupViT segmentation/configs/_base_/datasets/*.py, `bg_thresh`: of the
# benchmarks whose first class is the background.
RELEASED_THRESHOLDS = {'voc21': 0.95, 'context60': 0.35, 'coco_object': 0.95}
# Its demo, for sets that the released code does not know.
RELEASED_THRESHOLD = 0.95
# kakaobrain/tcl segmentation/evaluation/tcl_seg.py, and configs/eval.yml where
# PAMR is on.
TCL_THRESHOLD, TCL_PAMR_THRESHOLD = 0.5, 0.4

REFINEMENTS = ('none', 'pamr')

_SIZES = {
  'mode': 'slide',
  'short_side': 448,
  'long_side': 2048,
  'window': 448,
  'stride': 224,
}


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One way to evaluate, resolved for one benchmark.

  Attributes:
    name: 'groupvit' or 'tcl'.
    benchmark: what it is resolved for.
    segment: sizes, windows, and the rule from groups to labels.
    templates: prompts of the class names, a '{}' each.
    names: which spelling of the class names goes with it.
    refine: post-processing of the scores: 'none' or 'pamr'.
    changed: fields that were overridden; empty for figures to be cited.
    source: where the steps come from.
  """

  name: str
  benchmark: str
  segment: SegmentConfig
  templates: tuple[str, ...]
  names: str
  refine: str
  changed: tuple[str, ...]
  source: str


def _groupvit(benchmark: str, background: bool, refine: str) -> dict[str, Any]:
  threshold = RELEASED_THRESHOLDS.get(benchmark, RELEASED_THRESHOLD)
  return {
    'segment': SegmentConfig(
      background_threshold=threshold if background else None,
      final_softmax=not background,
      **_SIZES,
    ),
    'templates': prompts.SIMPLE,
    'source': 'Xu et al. 2022, arXiv 2202.11094; NVlabs/GroupViT 13b7861',
  }


def _tcl(benchmark: str, background: bool, refine: str) -> dict[str, Any]:
  # Gate, softmaxes and hard groups stay: they are how GroupViT scores a pixel,
  # what TCL's code asks of a model (`generate_masks`), not of a protocol.
  threshold = TCL_PAMR_THRESHOLD if refine == 'pamr' else TCL_THRESHOLD
  return {
    'segment': SegmentConfig(
      background_threshold=threshold if background else None,
      relative_threshold=False,
      constant_background=True,
      final_softmax=not background,
      **_SIZES,
    ),
    'templates': prompts.TCL,
    'source': 'Cha et al. 2023, arXiv 2212.00785; khanrc/tcl e643d68',
  }


PROTOCOLS = {'groupvit': _groupvit, 'tcl': _tcl}


def make(
  name: str,
  benchmark: str,
  *,
  background: bool | None = None,
  **overrides: Any,
) -> Protocol:
  """A protocol for a benchmark, with any of its fields replaced.

  Args:
    name: a key of `PROTOCOLS`.
    benchmark: such as 'voc21'; one that is unknown gets the protocol's default.
    background: whether the labels have a background class; None knows it of the
      common benchmarks, and of no other.
    **overrides: values by field: 'templates' (a list, or a name in
      `prompts.TEMPLATES`), 'names', 'refine', or one of `SegmentConfig`, with
      or without 'segment.' before it.

  Returns:
    The protocol.

  Raises:
    ValueError: an unknown name or field, or a value that cannot be.
  """
  if name not in PROTOCOLS:
    raise ValueError(
      f'Unknown protocol {name!r}; choose one of {", ".join(PROTOCOLS)}.'
    )
  overrides = {
    key.removeprefix('segment.'): value for key, value in overrides.items()
  }
  if 'refine' in overrides:  # a command line's none is None
    overrides['refine'] = overrides['refine'] or 'none'
  _check_fields(overrides)
  if background is None:
    background = benchmark in RELEASED_THRESHOLDS
  own = {'names': name, 'refine': overrides.get('refine', 'none')}
  own |= PROTOCOLS[name](benchmark, background, own['refine'])
  steps = {field.name for field in dataclasses.fields(SegmentConfig)}
  segment = {key: overrides[key] for key in overrides if key in steps}
  own |= {key: overrides[key] for key in overrides if key not in steps}
  own['segment'] = dataclasses.replace(own['segment'], **segment)
  own['templates'] = prompts.find_templates(own['templates'])
  plain = {'names': name, 'refine': 'none'}
  plain |= PROTOCOLS[name](benchmark, background, 'none')
  changed = [key for key in overrides if _field(own, key) != _field(plain, key)]
  return Protocol(name, benchmark, changed=tuple(sorted(changed)), **own)


def _field(fields: Mapping[str, Any], key: str) -> Any:
  return fields[key] if key in fields else getattr(fields['segment'], key)


def _check_fields(overrides: Mapping[str, Any]) -> None:
  known = {field.name for field in dataclasses.fields(SegmentConfig)}
  known |= {'templates', 'names', 'refine'}
  unknown = sorted(overrides.keys() - known)
  if unknown:
    raise ValueError(
      f'A protocol has no field {unknown[0]!r}; it has '
      f'{", ".join(sorted(known))}.'
    )
  for field in dataclasses.fields(SegmentConfig):
    value = overrides.get(field.name)
    if value is not None and not _fits(value, field.type):
      raise ValueError(f'{field.name} is {_kind(field.type)}, not {value!r}.')
  templates = overrides.get('templates', ())
  if not isinstance(templates, str | list | tuple):
    raise ValueError(
      f"templates are a name or a text with a '{{}}', not {templates!r}."
    )
  names = overrides.get('names', 'groupvit')
  if names not in PROTOCOLS:
    raise ValueError(
      f'names are those of {" or ".join(PROTOCOLS)}, not {names!r}.'
    )
  if overrides.get('refine', 'none') not in REFINEMENTS:
    raise ValueError(
      f'refine is one of {", ".join(REFINEMENTS)}, not {overrides["refine"]!r}.'
    )


def _fits(value: Any, kind: Any) -> bool:
  """Whether a value is of an annotated kind; a bool is no number."""
  kinds = typing.get_args(kind) or (kind,)
  if isinstance(value, list | tuple):
    several = any(typing.get_origin(k) for k in kinds)
    return several and all(_fits(part, float | int) for part in value)
  if isinstance(value, bool):
    return bool in kinds
  if isinstance(value, numbers.Integral):
    return int in kinds
  if isinstance(value, numbers.Real):
    return float in kinds and math.isfinite(value)
  return type(value) in kinds


def _kind(kind: Any) -> str:
  """The values that a field may have, in words."""
  kinds = typing.get_args(kind) or (kind,)
  number = 'a number' if float in kinds else 'a whole number'
  words = {
    'true or false': bool in kinds,
    number: int in kinds,
    'numbers between commas': any(typing.get_origin(k) for k in kinds),
    'text': str in kinds,
    'none': types.NoneType in kinds,
  }
  return ' or '.join(word for word, may in words.items() if may)
