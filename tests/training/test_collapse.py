"""The detector of collapse: by numbers, and in a run that collapses."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.gvit_s import get_config
from groupvit_jax.losses import assignment
from groupvit_jax.training import collapse, config, loop
from groupvit_jax.training import state as state_lib
from groupvit_jax.training import task as task_lib

G = 8
HEALTHY = {
  'largest_share': 0.3,
  'groups_in_use': 6.0,
  'groups_per_image': 2.5,
  'entropy': 0.8,
}
ONE = HEALTHY | {
  'largest_share': 0.97,
  'groups_in_use': 1.1,
  'groups_per_image': 1.1,
}
EACH = HEALTHY | {'groups_per_image': 1.1}
NONE = HEALTHY | {'entropy': 0.96 * math.log(G)}
UNIFORM = HEALTHY | {'entropy': math.log(G)}


def row(step, statistics, place='train'):
  return {'step': step, **{f'{place}/{k}': v for k, v in statistics.items()}}


def monitor(*rows, groups=G, grace=100, arg=None):
  flat = config.flatten(get_config(arg))
  return collapse.CollapseMonitor(groups, flat, grace=grace, rows=rows)


@pytest.mark.parametrize(
  ('statistics', 'kind'),
  [
    (HEALTHY, None),
    (ONE, collapse.ONE_GROUP),
    (EACH, collapse.ONE_PER_IMAGE),
    (NONE, collapse.UNDECIDED),
    # Who wins where nothing is decided says nothing.
    (ONE | {'entropy': 0.96 * math.log(G)}, collapse.UNDECIDED),
    ({k: v for k, v in ONE.items() if k != 'entropy'}, collapse.ONE_GROUP),
    # Just inside of each limit.
    (HEALTHY | {'largest_share': 0.94}, None),
    (HEALTHY | {'groups_per_image': 1.21}, None),
    (HEALTHY | {'entropy': 0.949 * math.log(G)}, None),
  ],
)
def test_each_kind_is_events_from_the_others(statistics, kind):
  assert collapse.diagnose(statistics, G) is kind


def test_little_noise_needs_little_preference():
  assert collapse.diagnose(NONE, G, noise=0.5) is None
  some = HEALTHY | {'entropy': 0.98 * math.log(G)}
  assert collapse.diagnose(some, G, noise=0.5) is None
  assert collapse.diagnose(some, G, noise=0.7) is collapse.UNDECIDED
  assert collapse.diagnose(NONE, G, noise=2.0) is collapse.UNDECIDED
  assert collapse.diagnose(UNIFORM, G, noise=0.1) is collapse.UNDECIDED
  assert not monitor(row(200, NONE), arg='model.gumbel_noise=0.5').events
  soft = 'model.gumbel_noise=0.5,model.assignment=soft'
  assert monitor(row(200, NONE), arg=soft).events


@pytest.mark.parametrize('noise', [0.3, 1.0])
def test_preference_is_measured_against_the_noise(noise):
  """The entropy of the noisy winners, against what the limit stands for."""
  rng = np.random.default_rng(0)
  small = 0.4 * noise * rng.normal(size=(20_000, G))

  def preference(logits):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return 1 + np.mean(np.sum(p * np.log(p), 1)) / np.log(G)

  drawn = preference(small / noise)
  np.testing.assert_allclose(preference(small), drawn * noise**2, rtol=0.1)


def maps(winners, sharpness=20.0):
  """Assignments `b g n` with these winners, b n."""
  one_hot = np.eye(G)[np.asarray(winners)].swapaxes(1, 2)
  weights = np.exp(sharpness * one_hot)
  return jnp.asarray(weights / weights.sum(1, keepdims=True), jnp.float32)


@pytest.mark.parametrize(
  ('soft', 'kind'),
  [
    (maps([[3] * 20, [3] * 19 + [1]]), collapse.ONE_GROUP),
    (maps([[3] * 20, [5] * 20]), collapse.ONE_PER_IMAGE),
    (maps([[3] * 20, [3] * 20], 0.1), collapse.UNDECIDED),
    (maps([[3] * 10 + [1] * 10, [5] * 10 + [1] * 10]), None),
  ],
  ids=['one', 'each', 'undecided', 'healthy'],
)
def test_the_statistics_of_training_lead_to_each_kind(soft, kind):
  statistics = assignment.assignment_statistics(soft)
  values = {name: float(value) for name, value in statistics.items()}
  assert collapse.diagnose(values, G) is kind


def test_it_warns_once_and_says_when_it_is_over():
  w = monitor()
  assert w.update(row(125, HEALTHY)) is None
  begun = w.update(row(150, ONE))
  assert 'step 150: grouping collapse, one group takes every' in begun.message
  assert 'largest share 97 %, 1.1 of 8 groups in use' in begun.message
  assert begun.end is None
  assert begun.period == 'from step 150 on'
  assert w.update(row(175, ONE)) is None
  # Between the two limits it lasts.
  assert w.update(row(200, HEALTHY | {'largest_share': 0.92})) is None
  over = w.update(row(225, HEALTHY))
  assert 'step 225: grouping collapse is over, one group' in over.message
  assert over.period == 'steps 150 to 225'
  assert w.update(row(250, HEALTHY | {'largest_share': 0.92})) is None
  assert w.update(row(275, ONE)).begin == 275
  assert [(s.begin, s.end) for s in w.events] == [(150, 225), (275, None)]


def test_one_kind_may_turn_into_another():
  w = monitor(row(150, NONE))
  turned = w.update(row(175, EACH))
  assert turned.kind is collapse.ONE_PER_IMAGE
  assert [(s.kind, s.begin, s.end) for s in w.events] == [
    (collapse.UNDECIDED, 150, 175),
    (collapse.ONE_PER_IMAGE, 175, None),
  ]


def test_nothing_is_events_before_the_grace_is_over():
  w = monitor(row(25, NONE), row(100, ONE), grace=100)
  assert not w.events
  assert w.update(row(125, ONE)).begin == 125


def test_a_model_without_groups_is_not_watched():
  assert not monitor(row(200, ONE), groups=0).events
  assert not monitor(row(200, ONE), groups=1).events


def test_rows_that_say_nothing_of_groups_change_nothing():
  w = monitor(row(150, ONE))
  assert w.update({'step': 160, 'train/loss': 1.0}) is None
  assert w.update(row(170, HEALTHY | {'largest_share': None})) is None
  assert w.update(row(180, HEALTHY | {'largest_share': math.nan})) is None
  assert w.events[-1].end is None


def pixels(statistics):
  return {k: v for k, v in statistics.items() if k != 'entropy'}


def test_the_validation_shows_what_the_last_stage_does_not():
  w = monitor(row(150, HEALTHY))
  begun = w.update(row(150, pixels(ONE), 'eval'))
  assert begun.kind is collapse.ONE_GROUP
  assert 'entropy' not in begun.message
  assert w.update(row(175, HEALTHY)) is None
  assert w.update(row(300, pixels(HEALTHY), 'eval')).end == 300


def test_what_training_shows_is_not_ended_by_the_validation():
  w = monitor(row(150, NONE))
  assert w.update(row(150, pixels(HEALTHY), 'eval')) is None
  assert w.update(row(200, pixels(ONE), 'eval')) is None
  assert w.events[-1].kind is collapse.UNDECIDED
  # Seen by both, it is reported once, and is training's to end.
  w = monitor(row(150, pixels(ONE), 'eval'))
  assert w.update(row(175, ONE)) is None
  assert w.update(row(200, HEALTHY)).end == 200


def test_a_resumed_run_goes_on_where_it_was():
  rows = [row(150, ONE), row(175, ONE), row(200, HEALTHY), row(225, EACH)]
  whole = monitor(*rows)
  resumed = monitor(*rows[:2])
  events = [resumed.update(r) for r in rows[2:]]
  assert [s is not None for s in events] == [True, True]
  assert resumed.events == whole.events
  assert monitor(*rows[:1]).update(rows[1]) is None  # no second warning


def advice(kind, arg):
  statistics = {'one group takes everything': ONE, 'undecided': UNIFORM}
  w = monitor(arg=arg)
  return w.update(row(200, statistics.get(kind.name, EACH))).helps.split(', ')


def test_advice_names_options_by_what_is_in_force():
  # The released model: width 384, nothing of ours is on.
  assert advice(collapse.ONE_GROUP, None) == [
    'loss.balance_weight above 0',
    'model.group_residual=False',
    'model.init_std=0.051',
    'model.gumbel_noise below 1',
    'optimizer.learning_rate below 0.0016',
  ]
  assert 'loss.noun_match=best_group' in advice(collapse.ONE_PER_IMAGE, None)
  assert advice(collapse.UNDECIDED, None) == [
    'model.init_std=0.051',
    'model.gumbel_noise below 1',
    'loss.sharpness_weight above 0',
  ]


def test_advice_leaves_out_what_is_done():
  done = 'tied,model.gumbel_noise=0,loss.balance_weight=0.3'
  assert advice(collapse.ONE_GROUP, done) == [
    'loss.balance_weight above 0.3',
    'optimizer.learning_rate below 0.0016',
  ]
  assert advice(collapse.ONE_PER_IMAGE, done) == [
    'loss.sharpness_weight below 0.03',
    'optimizer.learning_rate below 0.0016',
  ]
  assert not any(
    'noun_match' in a for a in advice(collapse.ONE_PER_IMAGE, 'nouns=0')
  )
  assert not any(
    'gumbel' in a for a in advice(collapse.UNDECIDED, 'model.assignment=soft')
  )


@pytest.mark.parametrize(
  'kind', [collapse.ONE_GROUP, collapse.ONE_PER_IMAGE, collapse.UNDECIDED]
)
def test_advice_can_be_followed(kind):
  """Every option that is named exists, and takes the value that is named."""
  flat = config.flatten(get_config())
  for words in advice(kind, None):
    path, _, value = words.replace(' above ', '=').partition('=')
    path = path.partition(' below ')[0]
    assert path in flat
    if ' ' not in words:
      followed = config.flatten(get_config(f'{path}={value}'))
      assert followed[path] != flat[path]
      assert words not in advice(kind, f'{path}={value}')


@pytest.mark.parametrize(
  ('arg', 'groups'),
  [
    ('demo,groups=5x0', 5),
    ('demo,depths=1x1x0,tokens=6x3x0,groups=6x3x0', 3),
    ('demo,clip', 0),
  ],
)
def test_how_many_groups_a_task_makes(arg, groups):
  c = get_config(arg)
  task = task_lib.make(c, 50, None)
  batch = state_lib.abstract_batch(c, 1)
  variables = jax.eval_shape(task.init, jax.random.key(0), batch)
  state = types.SimpleNamespace(variables=variables)
  assert state_lib.number_of_groups(task, state, c) == groups


def collapses(caplog):
  return [
    (r.levelname, r.getMessage())
    for r in caplog.records
    if 'grouping collapse' in r.getMessage()
  ]


# Kernels of nearly zero leave every patch without preference. Eight virtual
# devices share each batch (see conftest.py).
UNDECIDED = (
  'demo,matmul_operands=float32,steps=4,batch=8,examples=24,size=16,patch=8,'
  'width=16,depths=1x0,'
  'tokens=3x0,groups=3x0,model.num_heads=2,text.width=16,text.depth=1,'
  'text.num_heads=2,text.context_length=16,joint.embed_dim=16,eval.source=,'
  'run.log_every=1,model.init_std=1e-4,lr=1e-9,optimizer.warmup_init=0,'
  'optimizer.warmup_steps=1'
)


def test_a_run_that_collapses_says_so_in_log_summary_and_report(
  tmp_path, caplog
):
  workdir = tmp_path / 'run'
  arg = f'{UNDECIDED},data.cache={tmp_path / "cache"}'
  summary = loop.train_and_evaluate(get_config(arg), workdir)
  ((level, message),) = collapses(caplog)
  assert level == 'WARNING'
  assert 'step 2: grouping collapse, undecided' in message
  assert 'entropy 1.10 of 1.10' in message
  assert 'model.init_std=0.25' in message
  assert 'group_residual' not in message
  assert summary['collapses'] == [
    {'name': 'undecided', 'begin': 2, 'end': None}
  ]
  assert json.loads((workdir / 'summary.json').read_text()) == summary
  page = (workdir / 'report' / 'index.html').read_text()
  assert 'Grouping collapse: undecided</b>, from step 2 on' in page
  assert 'fill: var(--wrong)' in page
