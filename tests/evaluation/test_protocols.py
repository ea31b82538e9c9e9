"""Protocols by name: what was published, and what may be changed."""

import re

import pytest

from groupvit_jax.evaluation import config
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.text import prompts

SIZES = {
  'mode': 'slide',
  'short_side': 448,
  'long_side': 2048,
  'window': 448,
  'stride': 224,
}


@pytest.mark.parametrize(
  ('benchmark', 'threshold'),
  [
    ('voc21', 0.95),
    ('context60', 0.35),
    ('coco_object', 0.95),
    ('voc20', None),
    ('context59', None),
    ('ade20k', None),
  ],
)
def test_the_released_protocol(benchmark, threshold):
  protocol = config.make('groupvit', benchmark)
  assert protocol.segment == SegmentConfig(
    background_threshold=threshold, final_softmax=threshold is None, **SIZES
  )
  assert protocol.templates == ('a photo of a {}.',)
  assert protocol.names == 'groupvit' and protocol.refine == 'none'
  assert protocol.changed == () and '2202.11094' in protocol.source


def test_the_unified_protocol():
  for benchmark in ('voc21', 'context60', 'coco_object'):
    protocol = config.make('tcl', benchmark)
    assert protocol.segment == SegmentConfig(
      background_threshold=0.5,
      relative_threshold=False,
      constant_background=True,
      **SIZES,
    )
    refined = config.make('tcl', benchmark, refine='pamr')
    assert refined.segment.background_threshold == 0.4
    assert refined.refine == 'pamr' and refined.changed == ('refine',)
  assert config.make('tcl', 'ade20k').segment.background_threshold is None
  assert protocol.names == 'tcl' and '2212.00785' in protocol.source
  assert protocol.templates == (
    'itap of a {}.',
    'a bad photo of a {}.',
    'a origami {}.',
    'a photo of the large {}.',
    'a {} in a video game.',
    'art of the {}.',
    'a photo of the small {}.',
    'a photo of many {}.',
    'a photo of {}s.',
  )


def test_a_set_of_ones_own_has_a_background_if_one_says_so():
  for name, threshold in (('groupvit', 0.95), ('tcl', 0.5)):
    own = config.make(name, 'folder', background=True)
    assert own.segment.background_threshold == threshold
    assert config.make(name, 'folder').segment.background_threshold is None


def test_any_field_can_be_replaced():
  protocol = config.make(
    'groupvit',
    'voc21',
    top_k=None,
    templates='full',
    **{'segment.background_threshold': 0.5, 'names': 'tcl'},
  )
  assert protocol.segment.top_k is None
  assert protocol.segment.background_threshold == 0.5
  assert protocol.segment.window == 448
  assert protocol.templates == prompts.FULL
  assert protocol.names == 'tcl'
  assert protocol.changed == (
    'background_threshold',
    'names',
    'templates',
    'top_k',
  )
  own = config.make('tcl', 'voc21', templates='one {}')
  assert own.templates == ('one {}',)


@pytest.mark.parametrize(
  ('name', 'options', 'reason'),
  [
    ('mmseg', {}, "'mmseg'; choose one of groupvit, tcl"),
    ('tcl', {'treshold': 1}, "no field 'treshold'; it has .*top_k"),
    ('tcl', {'refine': 'crf'}, "refine is one of none, pamr, not 'crf'"),
    ('tcl', {'templates': 'nice'}, "templates='nice' is unknown; choose"),
    ('tcl', {'templates': ['a dog']}, "'a dog' has no '{}'"),
    ('tcl', {'top_k': 0}, 'top_k must be at least 1'),
  ],
)
def test_what_cannot_be(name, options, reason):
  with pytest.raises(ValueError, match=reason):
    config.make(name, 'voc21', **options)


@pytest.mark.parametrize(
  ('field', 'value', 'reason'),
  [
    ('top_k', 'abc', "top_k is a whole number or none, not 'abc'"),
    ('top_k', 1.5, 'top_k is a whole number or none, not 1.5'),
    ('top_k', True, 'top_k is a whole number or none, not True'),
    ('stride', 4.5, 'stride is a whole number'),
    ('one_hot', 'abc', "one_hot is true or false, not 'abc'"),
    ('background_threshold', 'abc', 'background_threshold is a number or none'),
    ('class_thresholds', 'abc', 'a number or numbers between commas or none'),
    ('scale', float('nan'), 'scale is a number or none, not nan'),
    ('templates', None, "templates are a name or a text with a '{}', not None"),
    ('names', 'foo', "names are those of groupvit or tcl, not 'foo'"),
  ],
)
def test_a_value_of_another_kind_is_refused(field, value, reason):
  with pytest.raises(ValueError, match=re.escape(reason)):
    config.make('groupvit', 'voc21', **{field: value})


def test_none_is_no_refinement():
  """As `--set refine=none` gives it."""
  for value in ('none', None):
    assert config.make('tcl', 'voc21', refine=value).refine == 'none'


def test_what_is_set_to_its_own_value_is_no_change():
  same = config.make('groupvit', 'voc21', top_k=5, templates='simple')
  assert same.changed == ()
  other = config.make('groupvit', 'voc21', top_k=5, stride=112)
  assert other.changed == ('stride',)


def test_sets_without_background_are_compared_after_a_softmax():
  """As mmsegmentation does; with a background it changes no label."""
  for name in ('groupvit', 'tcl'):
    assert config.make(name, 'voc20').segment.final_softmax
    assert not config.make(name, 'voc21').segment.final_softmax
