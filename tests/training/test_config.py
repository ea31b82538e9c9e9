"""The config argument grammar, and every variant pinned by its size."""

import functools
import pathlib

import jax
import ml_collections
import pytest
from ml_collections import config_flags

from configs.gvit_s import get_config
from groupvit_jax import errors
from groupvit_jax.models import ops
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import loop, state
from groupvit_jax.training import task as task_lib

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY = 49_408


def count_parameters(config) -> int:
  task = task_lib.make(config, VOCABULARY)
  batch = state.abstract_batch(config, 1)
  variables = jax.eval_shape(
    functools.partial(task.init, jax.random.key(0)),
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch),
  )
  return sum(x.size for x in jax.tree.leaves(variables['params']))


@pytest.mark.parametrize(
  ('arg', 'parameters'),
  [
    ('', 55_726_610),  # the original's 55,726,609, and the multi-label scale
    ('gcc_yfcc', 55_726_610),
    ('gcc_redcaps', 55_726_609),  # no multi-label loss, no second scale
    ('one_stage', 52_144_202),
    ('tied', 46_854_289),
    ('clip', 48_555_138),
    ('demo', 3_390_833),
    ('demo,clip', 3_338_498),
  ],
)
def test_variants_have_their_exact_size(arg, parameters):
  assert count_parameters(get_config(arg)) == parameters


def test_released_recipes_have_the_original_numbers():
  yfcc, redcaps = get_config('gcc_yfcc'), get_config('gcc_redcaps')
  assert (yfcc.num_steps, redcaps.num_steps) == (30 * 6997, 30 * 6326)
  assert (yfcc.optimizer.warmup_steps, redcaps.optimizer.warmup_steps) == (
    2 * 6997,
    2 * 6326,
  )
  assert (yfcc.loss.num_nouns, redcaps.loss.num_nouns) == (3, 0)
  for c in (yfcc, redcaps):
    assert c.batch_size == c.optimizer.reference_batch_size == 4096
    assert c.optimizer.learning_rate == 1.6e-3
    assert c.optimizer.warmup_init == 4e-6
    assert c.optimizer.end_learning_rate == 4e-5
    assert c.optimizer.weight_decay == 0.05
    assert c.optimizer.clip_norm == 5.0
    assert c.data.augment == 'deit'
    assert c.data.erase_probability == 0.25
    assert c.data.templates == 'full'
    assert c.data.word_kind == 'nouns_and_verbs'
    assert c.model.drop_path_rate == 0.1
    assert c.model.group_residual
    assert c.loss.noun_match == 'pooled'
    assert c.loss.multi_label_form == 'released'
    assert c.loss.balance_weight == c.loss.sharpness_weight == 0.0
    assert c.text.context_length == 77


def test_the_baseline_is_gated_by_the_image_that_nouns_train():
  assert get_config('demo').eval.top_k == 0
  assert get_config('demo,clip').eval.top_k == 5


def test_options_reach_fields_by_alias_and_by_path():
  config = get_config('demo,steps=7,lr=1e-3,depths=6x3x3,loss.share_nouns=true')
  assert config.num_steps == 7
  assert config.optimizer.learning_rate == 1e-3
  assert config.model.depths == (6, 3, 3)
  assert config.loss.share_nouns is True


def test_an_integer_is_taken_for_a_float_and_a_tuple_of_one_is_a_tuple():
  config = get_config('lr=1,depths=12')
  assert config.optimizer.learning_rate == 1.0
  assert config.model.depths == (12,)


def test_shards_are_given_as_plain_text():
  arg = 'data.shards=/path/train/a.tar'
  assert get_config(arg).data.shards == ('/path/train/a.tar',)
  arg = 'data.shards=/x/{00000..00009}.tar+/e/*.tar,seed=2'
  config = get_config(arg)
  assert config.data.shards == ('/x/{00000..00009}.tar', '/e/*.tar')
  assert config.seed == 2
  # Also where the variant has named some already.
  assert get_config('gcc_yfcc,data.shards=1x2.tar').data.shards == ('1x2.tar',)


def test_fields_that_do_not_exist_are_named():
  config = get_config('demo')
  unknown = config_lib.unknown_field
  assert unknown(config, 'data.shards') == unknown(config, 'data') == ''
  assert unknown(config, 'foo') == "unknown config field 'foo'"
  assert "(did you mean 'data.shards'?)" in unknown(config, 'data.shrds')
  assert "(did you mean 'seed'?)" in unknown(config, 'seed.x')


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('dmo', "unknown config variant 'dmo' .did you mean 'demo'"),
    ('demo,stps=4', "unknown config option 'stps' .did you mean 'steps'"),
    ('steps=many', "'steps' needs an integer such as 10000, not 'many'"),
    ('steps=1.5', "'steps' needs an integer"),
    ('loss.share_nouns=maybe', "'loss.share_nouns' needs true or false"),
    ('depths=axb', "'depths' needs a tuple such as 6x3x3, not 'axb'"),
    ('depths=6x1.5', "'depths' needs a tuple"),
    ('data.shards=/d/{a,b}.tar', r"cut at a comma.*join them by '\+'"),
  ],
)
def test_mistakes_are_named(arg, message):
  with pytest.raises(errors.ConfigError, match=message):
    get_config(arg)


@pytest.mark.parametrize(
  ('option', 'message'),
  [
    ('steps=-3', "'num_steps' is -3; it has to be at least 1"),
    ('run.log_every=0', "'run.log_every' is 0"),
    (
      'loss.noun_match=best-group',
      "'loss.noun_match' is 'best-group' .did you mean 'best_group'.*; choose "
      'one of pooled, best_group',
    ),
    ('loss.multi_label_form=papr', "'papr' .*'paper'.*released, paper"),
    ('model.assignment=sotf', "'sotf' .*'soft'.*hard, soft"),
    ('data.templates=x', "'x'; choose one of full, subset, simple, tcl"),
    ('data.source=tars', 'scenes, shards'),
    ('eval.regions=kmean', "'kmeans'"),
    ('loss.chunk_size=-4', "'loss.chunk_size' is -4; give"),
    ('optimizer.clip_norm=-1.0', "'optimizer.clip_norm' is -1.0; give"),
    ('nouns=0,loss.background_weight=1.0', 'learned from nouns'),
  ],
)
def test_a_value_that_cannot_be_used_is_named(option, message):
  config_lib.check(get_config('demo'))
  with pytest.raises(errors.ConfigError, match=message):
    config_lib.check(get_config(f'demo,{option}'))


def test_a_removed_option_is_known_by_its_name():
  with pytest.raises(errors.ConfigError, match='cluster_weight. was removed'):
    get_config('demo,loss.cluster_weight=1.0')
  stored = get_config()
  with stored.unlocked():
    stored.loss.update({'cluster_weight': 0.0, 'num_clusters': 4})
  ours, theirs = get_config().to_json(), stored.to_json()
  assert not config_lib.differences(ours, theirs)
  stored.loss.cluster_weight = 1.0
  assert config_lib.differences(ours, stored.to_json()) == [
    'loss.cluster_weight: 1.0 -> (removed: only 0.0 can be resumed)'
  ]


@pytest.mark.parametrize(
  ('value', 'default', 'message'),
  [
    (('abc',), (6, 3), r"needs a tuple of int .*\(6, 3\)., not 'abc'"),
    ((1.5,), (6, 3), 'not 1.5'),
    ((True, 2), [6, 3], r'not \(True, 2\)'),
    ((3,), (), r"a tuple of str such as .\('a.tar', 'b.tar'\)., not 3"),
  ],
)
def test_a_tuple_holds_what_its_default_holds(value, default, message):
  with pytest.raises(errors.ConfigError, match=f"'a.b'.* {message}"):
    config_lib.check_tuple('a.b', value, default)


def test_a_tuple_may_have_another_length_than_its_default():
  for value, default in (((), (1,)), ((1, 2), (3,)), (('x',), ())):
    config_lib.check_tuple('a.b', value, default)


def test_differences_names_fields_but_not_how_a_run_is_watched():
  ours = ml_collections.ConfigDict({'a': {'b': 1}, 'run': {'keep': 1}})
  theirs = ml_collections.ConfigDict({'a': {'b': 2}, 'run': {'keep': 9}})
  found = config_lib.differences(
    config_lib.to_json(ours), config_lib.to_json(theirs)
  )
  assert found == ['a.b: 2 -> 1']


@pytest.mark.parametrize(
  ('arg', 'wanted'),
  [
    ('', []),
    ('loss.part_weight=0.0', []),
    ('loss.part_weight=0.5', ['loss.part_weight: (absent), so 0.0 -> 0.5']),
    ('depths=6x3x3', []),
    ('depths=6x6', ['model.depths: (absent), so [6, 3, 3] -> [6, 6]']),
    # The variant turns it on: a run from before it had it off.
    (
      'tied',
      [
        'loss.part_weight: (absent), so 0.0 -> 1.0',
        'model.depths: (absent), so [6, 3, 3] -> [6, 3, 0]',
      ],
    ),
  ],
)
def test_a_field_that_an_old_config_lacks_was_as_in_the_base(arg, wanted):
  base, ours = get_config(), get_config(arg)
  stored = get_config(arg)
  with stored.unlocked():
    del stored.loss.part_weight, stored.model.depths
  found = config_lib.differences(*map(config_lib.to_json, (ours, stored, base)))
  assert found == wanted


def test_a_resumed_run_keeps_the_operands_that_were_measured():
  base, auto = get_config(), get_config('demo')
  chosen = get_config('demo,matmul_operands=bfloat16')
  other = get_config('demo,matmul_operands=float32')
  base, *texts = map(config_lib.to_json, (base, auto, chosen, other))
  changed = [config_lib.differences(text, texts[1], base) for text in texts]
  assert changed == [[], [], ['matmul_operands: bfloat16 -> float32']]
  for stored, operands in (
    (chosen.to_dict(), 'bfloat16'),
    ({}, 'float32'),  # of a run before there was a choice
  ):
    assert loop.choose_operands(auto, stored).matmul_operands == operands
  assert loop.choose_operands(auto, None).matmul_operands in ops.OPERANDS


def test_a_field_that_is_no_longer_known_is_told():
  base, stored = get_config(), get_config()
  with stored.unlocked():
    stored.loss.forgotten = 2
  texts = map(config_lib.to_json, (get_config(), stored, base))
  assert config_lib.differences(*texts) == ['loss.forgotten: 2 -> (absent)']


def test_without_a_base_a_field_that_an_old_config_lacks_is_told():
  found = config_lib.differences('{"a": 0}', '{}')
  assert found == ['a: (absent) -> 0']


def test_the_flag_loads_the_file_with_its_argument():
  config = config_flags.config_flags._ConfigFileParser(
    name='config', lock_config=True
  ).parse(f'{ROOT}/configs/gvit_s.py:demo,steps=3')
  assert config.num_steps == 3


def test_a_config_is_an_object():
  with pytest.raises(ValueError, match=r'a config is an object, not .\[1\]'):
    config_lib.differences('{}', '[1]')
