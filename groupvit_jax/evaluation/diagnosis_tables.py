"""A diagnosis to read: tables for a terminal, Markdown or a page."""

import html
from collections.abc import Sequence

from groupvit_jax.evaluation.diagnosis import Diagnosis

_PARTS = ('part of the error', 'mIoU', 'which is')
_PAIRS = ('truth', 'called', 'of its pixels', 'of all errors', 'costs mIoU')


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


def _tables(diagnosis: Diagnosis):
  """(head, rows) of each table."""
  yield _PARTS, _parts(diagnosis)
  if diagnosis.confusions:
    yield (
      _PAIRS,
      [
        (
          pair.truth,
          pair.prediction,
          f'{_percent(pair.of_truth)} %',
          f'{_percent(pair.of_errors)} %',
          _percent(pair.cost),
        )
        for pair in diagnosis.confusions
      ],
    )


def _parts(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
  oracle, miou = _percent(diagnosis.oracle_miou), _percent(diagnosis.miou)
  found = [
    ('grouping', _percent(diagnosis.grouping), f'100 - oracle {oracle}'),
    ('labelling', _percent(diagnosis.labelling), f'oracle - mIoU {miou}'),
  ]
  if diagnosis.background is None:
    return found
  given = _percent(diagnosis.given_background_miou)
  shares = ', '.join(
    f'{name} {_percent(getattr(diagnosis, name))} %'
    for name in ('missed', 'invented', 'misnamed')
  )
  return [
    *found,
    (
      'background',
      _percent(diagnosis.background),
      f"mIoU {given} with the truth's background - mIoU",
    ),
    ('wrong pixels', '', shares),
  ]


def _percent(share: float) -> str:
  return f'{100 * share:.1f}'
