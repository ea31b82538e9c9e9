"""Protocols: what two papers must share for their figures to compare.

By name and benchmark, with their sources; docs/evaluation.md tells each step.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

from groupvit_jax.evaluation.segment_config import SegmentConfig
from groupvit_jax.text import prompts

# NVlabs/GroupViT segmentation/configs/_base_/datasets/*.py, `bg_thresh`.
RELEASED_THRESHOLDS = {'voc21': 0.95, 'context60': 0.35, 'coco_object': 0.95}
# Its demo, for sets that the released code does not know.
RELEASED_THRESHOLD = 0.95
# kakaobrain/tcl segmentation/evaluation/tcl_seg.py, and configs/eval.yml where
# PAMR is on.
TCL_THRESHOLD, TCL_PAMR_THRESHOLD = 0.5, 0.4

REFINEMENTS = ('none', 'pamr')

# Benchmarks whose first class is the background.
_WITH_BACKGROUND = frozenset(RELEASED_THRESHOLDS)

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
      background_threshold=threshold if background else None, **_SIZES
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
    background: whether the truth has a background class; None knows it of the
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
    background = benchmark in _WITH_BACKGROUND
  own = {'names': name, 'refine': overrides.get('refine', 'none')}
  own |= PROTOCOLS[name](benchmark, background, own['refine'])
  steps = {field.name for field in dataclasses.fields(SegmentConfig)}
  segment = {key: overrides[key] for key in overrides if key in steps}
  own |= {key: overrides[key] for key in overrides if key not in steps}
  own['segment'] = dataclasses.replace(own['segment'], **segment)
  _check_use(overrides, own['segment'])
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


def _check_use(overrides: Mapping[str, Any], segment: SegmentConfig) -> None:
  """Refuses what would do nothing: whoever sets it expects something."""
  without = {
    'background_threshold is none': (
      segment.background_threshold is None,
      ('relative_threshold', 'constant_background'),
    ),
    'mode is whole': (segment.mode == 'whole', ('window', 'stride')),
  }
  for reason, (holds, fields) in without.items():
    for name in fields:
      if holds and overrides.get(name) is not None:
        raise ValueError(f'{name} does nothing where {reason}; leave it out.')


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
  """What a field may be, in words."""
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
