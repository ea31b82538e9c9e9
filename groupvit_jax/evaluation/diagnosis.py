"""Where errors come from: borders, labels or background, and which labels.

Computed from the confusion matrices of one evaluation, so a result on disk is
enough.
"""

import dataclasses
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from groupvit_jax.evaluation import metrics

Matrix = Integer[np.ndarray, 'c c']

_MOST_PAIRS = 10  # that are confused, of a diagnosis
# Confusion matrices among a result's counts, as measured and under other rules,
# and what files call them.
MATRICES = {
  'confusion': 'confusion_matrix',
  'oracle': 'oracle_confusion_matrix',
  'given_background': 'given_background_confusion_matrix',
  'class_list': 'class_list_confusion_matrix',
  'tokens': 'tokens_confusion_matrix',
  'learned': 'learned_confusion_matrix',
  'learned_oracle': 'learned_oracle_confusion_matrix',
}


@dataclasses.dataclass(frozen=True)
class Confusion:
  """Pixels of one class that were given to another.

  Attributes:
    label, prediction: names of the true and the predicted class.
    pixels: how many.
    of_label: their share in the pixels of the true class.
    of_errors: their share in all wrong pixels.
    cost: mIoU that would be gained if they were right.
  """

  label: str
  prediction: str
  pixels: int
  of_label: float
  of_errors: float
  cost: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """The components of a segmentation error; shares in 0..1.

  Grouping error: pixels that stay wrong even if every group got its best label.
  Labelling error: pixels that a better label for their group would fix. Both
  add up to 1 - mIoU. The background error can exceed the labelling error: a
  given background also corrects the borders of objects.

  Attributes:
    miou: as measured.
    oracle_miou: with every group labelled by the ground truth.
    given_background_miou: with the background taken from the ground truth; None
      without that class.
    class_list_miou: with only the classes that each image shows competing for
      it. The rest of the labelling error is confusion among them. This and the
      next three are None if they were not measured.
    tokens_miou: with every token labelled by itself, without groups.
    learned_miou, learned_oracle_miou: of the learned groups, each pixel in one
      of them; None unless the groups were remade from tokens.
    zero_classes: share of the classes in the ground truth whose IoU is 0.
    missed: wrong pixels of an object that were called background, as a share of
      all wrong pixels; None without that class.
    invented: the same of background that was called an object.
    misnamed: the same of an object that was called another.
    confusions: the pairs that cost most, first.
  """

  miou: float
  oracle_miou: float
  given_background_miou: float | None
  class_list_miou: float | None
  tokens_miou: float | None
  learned_miou: float | None
  learned_oracle_miou: float | None
  zero_classes: float
  missed: float | None
  invented: float | None
  misnamed: float
  confusions: tuple[Confusion, ...]

  @property
  def grouping(self) -> float:
    """Error that stays even if every group got its best label."""
    return 1 - self.oracle_miou

  @property
  def labelling(self) -> float:
    """Error that better labels for the groups would fix."""
    return self.oracle_miou - self.miou

  @property
  def background(self) -> float | None:
    """Gain in mIoU from a given background; None without that class."""
    given = self.given_background_miou
    return None if given is None else given - self.miou

  def as_json(self) -> dict[str, Any]:
    """Everything, in mappings and lists of plain values."""
    parts = ('grouping', 'labelling', 'background')
    return dataclasses.asdict(self) | {
      f'{name}_error': getattr(self, name) for name in parts
    }


def stored(result: Any) -> dict[str, Any]:
  """Classes and matrices of a `BenchmarkResult`, as files hold them."""
  return {
    'class_names': result.class_names,
    'background': result.background,
    **{
      key: result.counts[name].tolist()
      for name, key in MATRICES.items()
      if name in result.counts
    },
  }


def of_result(result: Any) -> Diagnosis:
  """Splits the error of an evaluation.

  Args:
    result: a `BenchmarkResult`, or a mapping with what is `stored` of one.

  Raises:
    ValueError: it was evaluated without what a diagnosis needs.
  """
  fields = result if isinstance(result, Mapping) else stored(result)
  background: bool = fields['background']
  matrices = {
    name: np.asarray(fields[key], np.int64)
    for name, key in MATRICES.items()
    if fields.get(key) is not None
  }
  for name in list(MATRICES)[: 2 + background]:
    if name not in matrices:
      raise ValueError(
        f'This evaluation has no {MATRICES[name]}; evaluate again with '
        'measures=Measures(diagnosis=True).'
      )
  mious = {name: metrics.miou(matrix) for name, matrix in matrices.items()}
  confusion = matrices['confusion']
  wrong = confusion - np.diag(np.diag(confusion))
  total = max(int(wrong.sum()), 1)
  objects = slice(int(background), None)
  names = tuple(fields['class_names'])
  return Diagnosis(
    miou=mious['confusion'],
    oracle_miou=mious['oracle'],
    given_background_miou=mious['given_background'] if background else None,
    **{
      f'{name}_miou': mious.get(name)
      for name in ('class_list', 'tokens', 'learned', 'learned_oracle')
    },
    zero_classes=zero_classes(confusion),
    missed=float(wrong[1:, 0].sum() / total) if background else None,
    invented=float(wrong[0, 1:].sum() / total) if background else None,
    misnamed=float(wrong[objects, objects].sum() / total),
    confusions=_confusions(names, confusion, wrong, total),
  )


def zero_classes(confusion: Matrix) -> float:
  """The share of the classes in the ground truth whose IoU is 0."""
  shown = np.asarray(confusion).any(1)
  return float((np.diag(confusion)[shown] == 0).mean()) if shown.any() else 0.0


def _confusions(names, confusion, wrong, total):
  cost = confusion_costs(confusion)
  order = np.argsort(-cost, axis=None, kind='stable')[:_MOST_PAIRS]
  pixels_of = np.maximum(confusion.sum(1), 1)
  confusions = []
  for t, p in zip(*np.unravel_index(order, cost.shape), strict=True):
    if wrong[t, p]:
      pixels = int(wrong[t, p])
      shares = pixels / int(pixels_of[t]), pixels / total
      confusions.append(
        Confusion(names[t], names[p], pixels, *shares, float(cost[t, p]))
      )
  return tuple(confusions)


def confusion_costs(confusion: Matrix) -> np.ndarray:
  """The mIoU that each pair would bring if its pixels were right, c c.

  Moving n pixels from (t, p) to (t, t) leaves the union of t as it is and
  takes n from that of p; a class that is then in neither labels nor prediction
  leaves the mean.
  """
  confusion = np.asarray(confusion, np.float64)
  hit = np.diag(confusion)
  union = confusion.sum(0) + confusion.sum(1) - hit
  present = union > 0
  if not present.any():
    return np.zeros_like(confusion)
  iou = np.divide(hit, union, out=np.zeros_like(hit), where=present)
  moved = confusion - np.diag(hit)
  gained = moved / np.maximum(union, 1)[:, None]
  rest = union[None, :] - moved
  left = rest > 0
  other = np.divide(hit[None, :], rest, out=np.zeros_like(rest), where=left)
  total = iou.sum() + gained + other - iou[None, :]
  gone = (present[None, :] & ~left).astype(np.float64)
  count = np.maximum(present.sum() - gone, 1)
  return np.where(moved > 0, total / count - iou.sum() / present.sum(), 0)


_PARTS = ('part of the error', 'mIoU', 'which is')
_OTHERS = ('measured otherwise', '%', 'which means')
_PAIRS = (
  'ground truth',
  'called',
  'of its pixels',
  'of all errors',
  'costs mIoU',
)


def as_text(diagnosis: Diagnosis) -> str:
  """Tables for a terminal, or Markdown."""
  return '\n\n'.join(
    '\n'.join([_line(head), '|' + '---|' * len(head), *map(_line, rows)])
    for head, rows in _tables(diagnosis)
  )


def as_html(diagnosis: Diagnosis) -> str:
  """The same as HTML tables, every name escaped; a part of a page."""
  return ''.join(
    f'<table class="table"><thead>{_row(head, "th")}</thead>'
    f'<tbody>{"".join(_row(row, "td") for row in rows)}</tbody></table>'
    for head, rows in _tables(diagnosis)
  )


def _line(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


def _row(cells: Sequence[str], tag: str) -> str:
  inner = ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)
  return f'<tr>{inner}</tr>'


def _tables(diagnosis: Diagnosis) -> Iterator[tuple[Sequence[str], list]]:
  """(head, rows) of each table."""
  yield _PARTS, _parts(diagnosis)
  yield _OTHERS, _others(diagnosis)
  if diagnosis.confusions:
    yield (
      _PAIRS,
      [
        (
          pair.label,
          pair.prediction,
          f'{_percent(pair.of_label)} %',
          f'{_percent(pair.of_errors)} %',
          _percent(pair.cost),
        )
        for pair in diagnosis.confusions
      ],
    )


def _parts(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
  oracle, miou = _percent(diagnosis.oracle_miou), _percent(diagnosis.miou)
  rows = [
    ('grouping', _percent(diagnosis.grouping), f'100 - oracle {oracle}'),
    ('labelling', _percent(diagnosis.labelling), f'oracle - mIoU {miou}'),
  ]
  if diagnosis.background is None:
    return rows
  given = _percent(diagnosis.given_background_miou)
  shares = ', '.join(
    f'{name} {_percent(getattr(diagnosis, name))} %'
    for name in ('missed', 'invented', 'misnamed')
  )
  return [
    *rows,
    (
      'background',
      _percent(diagnosis.background),
      f'mIoU {given} with the true background - mIoU',
    ),
    ('wrong pixels', '', shares),
  ]


def _others(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
  learned = diagnosis.learned_oracle_miou
  oracle = '' if learned is None else f' Their oracle: {_percent(learned)}.'
  rows = {
    'mIoU, true class list': (
      diagnosis.class_list_miou,
      'Only the classes that an image shows compete for its pixels: the gain '
      'over mIoU is what confusion with absent classes costs.',
    ),
    'mIoU, single tokens': (
      diagnosis.tokens_miou,
      'Every token is labelled by itself: above mIoU, the groups lose what the '
      'tokens know.',
    ),
    'mIoU, learned groups': (
      diagnosis.learned_miou,
      'Pixels belong to the groups that the model has learned, not to those '
      f'remade from its tokens.{oracle}',
    ),
    'classes never found': (
      diagnosis.zero_classes,
      'The share of the classes in the ground truth whose IoU is 0.',
    ),
  }
  return [
    (name, _percent(value), meaning)
    for name, (value, meaning) in rows.items()
    if value is not None
  ]


def _percent(share: float | None) -> str:
  return '' if share is None else f'{100 * share:.1f}'
