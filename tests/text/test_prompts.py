"""Prompt templates and the sampling of prompts."""

import collections
import hashlib
import importlib.util
import pathlib
import re

import numpy as np
import pytest

from groupvit_jax.text import prompts


def test_numbers_of_templates():
  assert len(set(prompts.FULL)) == len(prompts.FULL) == 80
  assert len(set(prompts.SUBSET)) == len(prompts.SUBSET) == 7
  assert set(prompts.SUBSET) < set(prompts.FULL)
  assert prompts.SIMPLE == ('a photo of a {}.',)
  assert all(t.count('{}') == 1 for t in prompts.FULL)
  assert prompts.FULL[0] == 'a bad photo of a {}.'
  assert prompts.SUBSET[1] == 'a bad photo of a {}.'  # CLIP's own: 'the'
  assert prompts.FULL[-1] == 'a tattoo of the {}.'


def test_templates_are_clips():
  # Of the list as open_clip_torch 3.3.0 has it; the next test compares live.
  digest = hashlib.sha256('\n'.join(prompts.FULL).encode()).hexdigest()
  assert (
    digest == '4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af'
  )


def test_templates_equal_open_clip():
  spec = importlib.util.find_spec('open_clip')
  if spec is None:
    pytest.skip('open_clip_torch is not installed')
  source = pathlib.Path(spec.origin).with_name('zero_shot_metadata.py')
  found = re.findall(r"lambda c: f'([^']*)'", source.read_text())
  found = tuple(text.replace('{c}', '{}') for text in found)
  assert found == prompts.FULL + prompts.SUBSET


def test_braces_in_a_name_are_text():
  assert prompts.fill('a {}.', '{} {0} {x}') == 'a {} {0} {x}.'


def test_templates_by_name_or_own():
  assert prompts.find_templates('subset') is prompts.SUBSET
  assert prompts.find_templates('a {}') == ('a {}',)
  assert prompts.find_templates(['a {}', 'the {}']) == ('a {}', 'the {}')


@pytest.mark.parametrize('templates', [['a photo'], ['a {}', 'x'], [], 'all'])
def test_unusable_templates(templates):
  with pytest.raises(ValueError, match='template'):
    prompts.find_templates(templates)


def sample(words, k, seed=0, templates=('<{}>',)):
  rng = np.random.default_rng(seed)
  return prompts.sample_prompts(rng, words, k, templates, 'raw')


@pytest.mark.parametrize('name', ['dog', 'dog|puppy', ' dog | puppy', 'dog|'])
def test_a_class_is_shown_by_the_first_of_its_names(name):
  assert prompts.shown_name(name) == 'dog'


def test_padded_with_the_raw_caption():
  assert sample([], 3) == ['raw'] * 3
  assert sample(['cat'], 3) == ['<cat>', 'raw', 'raw']
  assert sample(['cat'], 0) == []


@pytest.mark.parametrize('seed', range(5))
def test_without_replacement(seed):
  words = list('abcdef')
  drawn = sample(words, 4, seed)
  assert len(set(drawn)) == 4
  assert set(drawn) < {f'<{word}>' for word in words}
  assert sorted(sample(words, 6, seed)) == [f'<{word}>' for word in words]


def test_a_repeated_word_may_be_drawn_twice():
  assert sample(['cat', 'cat'], 2) == ['<cat>', '<cat>']


def test_draws_are_uniform():
  rng = np.random.default_rng(0)
  counts = collections.Counter()
  for _ in range(3000):
    counts.update(
      prompts.sample_prompts(rng, 'abcd', 2, ('1{}', '2{}', '3{}'), 'raw')
    )
  # 12 word-template pairs, each expected 500 times (standard deviation 20).
  assert len(counts) == 12
  assert all(400 < count < 600 for count in counts.values())


def test_same_seed_same_prompts():
  words = list('abcdef')
  first = sample(words, 3, 7, prompts.FULL)
  assert first == sample(words, 3, 7, prompts.FULL)
  assert first != sample(words, 3, 8, prompts.FULL)


@pytest.mark.parametrize(
  ('names', 'word'),
  [
    (['dog', 'cat'], None),
    (['dog', 'hot dog'], None),
    (['dog', 'cat|Dog'], 'Dog'),
    (['palm tree', 'grass| palm  tree'], 'palm tree'),
    (['dog|dog'], 'dog'),
  ],
)
def test_names_that_stand_twice(names, word):
  assert prompts.repeated(names) == word
  if word is None:
    prompts.check_distinct(names)
  else:
    with pytest.raises(ValueError, match=f"^x: class name '{word}' stands twi"):
      prompts.check_distinct(names, 'x: ')
