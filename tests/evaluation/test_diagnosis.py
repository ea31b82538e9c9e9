"""The parts of an error, each against what it means."""

import json

import numpy as np
import pytest

from groupvit_jax.evaluation import diagnosis, metrics
from groupvit_jax.evaluation.benchmark import BenchmarkResult

NAMES = ('background', 'cat', 'dog', 'bird')


def random_matrix(seed=0, classes=4, absent=()):
  counts = np.random.default_rng(seed).integers(0, 90, (classes, classes))
  counts[list(absent)] = 0
  return counts


def result(class_names=NAMES, background=True, **changes):
  counts = {
    'confusion': random_matrix(0),
    'oracle': random_matrix(1) + np.diag([900] * 4),
    'given_background': random_matrix(2),
    'class_list': random_matrix(4) + np.diag([60] * 4),
    'tokens': np.diag([9, 9, 9, 9]) + 1,
  }
  counts = {k: v for k, v in (counts | changes).items() if v is not None}
  return BenchmarkResult(class_names, background, counts, images=1)


def test_the_parts_are_differences_of_mious():
  given = result()
  found = diagnosis.of_result(given)
  miou, oracle, told = (
    metrics.miou(m)
    for m in (
      given.confusion_matrix,
      given.counts['oracle'],
      given.counts['given_background'],
    )
  )
  assert found.grouping == 1 - oracle
  assert found.labelling == oracle - miou
  assert found.background == told - miou
  assert found.grouping + found.labelling == pytest.approx(1 - miou)
  kinds = found.missed, found.invented, found.misnamed
  assert sum(kinds) == pytest.approx(1)
  wrong = given.confusion_matrix.copy()
  np.fill_diagonal(wrong, 0)
  assert found.missed == pytest.approx(wrong[1:, 0].sum() / wrong.sum())


def test_other_rules_stand_beside_the_measured_one():
  matrix = np.diag([50, 50, 0, 0])
  matrix[2, 1] = 20  # dogs are all called cats, and there are no birds
  given = result(confusion=matrix)
  found = diagnosis.of_result(given)
  assert found.zero_classes == pytest.approx(1 / 3)
  # Each class: 10 right, 3 of it and 3 others wrong.
  assert found.tokens_miou == pytest.approx(10 / 16)
  want = metrics.miou(given.counts['class_list'])
  assert found.class_list_miou == want
  assert found.learned_miou is None and found.learned_oracle_miou is None
  text = diagnosis.as_text(found)
  assert '| mIoU, single tokens | 62.5 | Every token' in text
  assert '| classes never found | 33.3 |' in text
  assert 'learned groups' not in text
  remade = result(learned=matrix, learned_oracle=matrix)
  found = diagnosis.of_result(remade)
  assert found.learned_miou == found.learned_oracle_miou == metrics.miou(matrix)
  assert 'Their oracle: ' in diagnosis.as_html(found)


@pytest.mark.parametrize('absent', [(), (2,)])
def test_the_cost_of_a_pair_is_what_mending_it_brings(absent):
  matrix = random_matrix(3, absent=absent)
  if absent:  # predicted in one place only: mended, the class is gone
    matrix[:, 2] = 0
    matrix[1, 2] = 5
  costs = diagnosis.confusion_costs(matrix)
  for t in range(4):
    for p in range(4):
      mended = matrix.copy()
      if t != p:
        mended[t, t] += mended[t, p]
        mended[t, p] = 0
      want = metrics.miou(mended) - metrics.miou(matrix)
      assert costs[t, p] == pytest.approx(want, abs=1e-12)


def test_pairs_come_by_their_cost():
  matrix = np.diag([50, 50, 50, 50])
  matrix[1, 2], matrix[3, 0] = 40, 20
  found = diagnosis.of_result(result(confusion=matrix))
  first, second = found.confusions
  assert (first.label, first.prediction, first.pixels) == ('cat', 'dog', 40)
  assert first.of_label == pytest.approx(40 / 90)
  assert first.of_errors == pytest.approx(40 / 60)
  assert (second.label, second.prediction) == ('bird', 'background')
  assert first.cost > second.cost > 0


def test_without_a_background_there_is_no_such_error():
  found = diagnosis.of_result(result(background=False, given_background=None))
  assert found.background is None and found.missed is None
  assert found.misnamed == 1
  assert 'background |' not in diagnosis.as_text(found).split('\n\n')[0]


def test_it_reads_what_it_writes_and_says_it_in_words():
  given = result()
  found = diagnosis.of_result(given)
  stored = json.loads(json.dumps(found.as_json()))
  assert stored['labelling_error'] == found.labelling
  assert stored['confusions'][0]['label'] == found.confusions[0].label
  on_disk = json.loads(json.dumps(diagnosis.stored(given)))
  assert diagnosis.of_result(on_disk) == found
  text = diagnosis.as_text(found)
  assert f'| grouping | {100 * found.grouping:.1f} |' in text
  worst = found.confusions[0]
  assert f'| {worst.label} | {worst.prediction} |' in text


def test_names_cannot_break_a_page():
  names = ('background', '<b>cat</b>', 'dog', 'bird')
  page = diagnosis.as_html(diagnosis.of_result(result(class_names=names)))
  assert '<td>&lt;b&gt;cat&lt;/b&gt;</td>' in page and '<b>' not in page
  assert page.count('<table') == page.count('</table>') == 3


def test_a_perfect_segmentation_has_nothing_to_say():
  perfect = np.diag([5, 5, 5, 0])
  names = 'confusion', 'oracle', 'given_background'
  found = diagnosis.of_result(result(**dict.fromkeys(names, perfect)))
  assert found.labelling == found.background == 0
  assert not found.confusions
  assert diagnosis.confusion_costs(np.zeros((2, 2), int)).sum() == 0


def test_what_was_not_measured_is_asked_for():
  with pytest.raises(
    ValueError, match='no oracle_confusion_matrix; evaluate again'
  ):
    diagnosis.of_result(result(oracle=None))
  with pytest.raises(ValueError, match='no given_background_confusion_matrix'):
    diagnosis.of_result(result(given_background=None))
