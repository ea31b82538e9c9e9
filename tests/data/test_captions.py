"""Captions: cleaned or refused; token rows, drawn by position."""

import pickle

import numpy as np
import pytest

from groupvit_jax.data.captions import CaptionBatcher, clean_captions
from groupvit_jax.data.images import BadSampleError
from groupvit_jax.text import prompts
from groupvit_jax.text.clip import ClipTokenizer

CAPTIONS = [
  'a red apple next to two fish on the sand',
  'A man rides a bicycle near the water.',
  '',
  'cat',
  'a dog and a cat sit on the grass with a ball',
]


@pytest.fixture(scope='module')
def tok():
  return ClipTokenizer()


@pytest.fixture(scope='module')
def batcher(tok):
  return CaptionBatcher(tok, 3, 'nouns', prompts.FULL, seed=1)


def test_shape_and_caption_rows(tok, batcher):
  tokens = batcher(CAPTIONS, np.arange(5))
  assert tokens.shape == (5, 4, 77) and tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens[:, 0], tok(CAPTIONS))


def test_prompts_are_of_the_captions_nouns(tok):
  batcher = CaptionBatcher(tok, 3, 'nouns', ['the {} here'], seed=0)
  rows = batcher([CAPTIONS[0]], [5])[0, 1:].tolist()
  prompted = [f'the {noun} here' for noun in ('apple', 'fish', 'sand')]
  assert sorted(rows) == sorted(tok(prompted).tolist())


def test_padded_with_the_caption(tok, batcher):
  tokens = batcher(['cat', ''], [0, 1])
  assert (tokens[0, 1] != tokens[0, 0]).any()
  np.testing.assert_array_equal(tokens[0, 2:], tokens[0, [0, 0]])
  np.testing.assert_array_equal(tokens[1], tok([''] * 4))


def test_no_nouns(tok):
  tokens = CaptionBatcher(tok, 0)(CAPTIONS, range(5))
  np.testing.assert_array_equal(tokens, tok(CAPTIONS)[:, None])


def test_rows_depend_on_position_alone(tok, batcher):
  positions = np.array([70, 3, 2**40, 11, 0])
  whole = batcher(CAPTIONS, positions)
  fresh = CaptionBatcher(tok, 3, 'nouns', prompts.FULL, seed=1)
  for i in [4, 0, 2, 1, 3]:
    alone = fresh(CAPTIONS[i : i + 1], positions[i : i + 1])
    np.testing.assert_array_equal(alone[0], whole[i])


def test_positions_and_seeds_change_the_draws(tok, batcher):
  caption = [CAPTIONS[4]] * 20
  tokens = batcher(caption, np.arange(20))
  assert len(np.unique(tokens[:, 1:].reshape(20, -1), axis=0)) == 20
  other = CaptionBatcher(tok, 3, 'nouns', prompts.FULL, seed=2)
  assert (other(caption, np.arange(20)) != tokens).any((1, 2)).all()


def test_the_cache_is_not_handed_out(batcher):
  first = batcher(CAPTIONS, np.arange(5))
  kept = first.copy()
  first[:] = -1
  np.testing.assert_array_equal(batcher(CAPTIONS, np.arange(5)), kept)


def test_pickles(batcher):
  copy = pickle.loads(pickle.dumps(batcher))
  np.testing.assert_array_equal(
    copy(CAPTIONS, np.arange(5)), batcher(CAPTIONS, np.arange(5))
  )


def test_bad_captions(tok, batcher):
  captions = ['x' * 10_000, 'cat dog ' * 1250, '🐕', '猫', '\x00', '&amp;']
  tokens = batcher(captions, np.arange(6))
  assert (tokens[..., 0] == tok.sot_id).all()
  assert (tokens.max(-1) == tok.eot_id).all()


def test_empty_batch(batcher):
  assert batcher([], []).shape == (0, 4, 77)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_nouns': -1}, 'num_nouns must not be negative'),
    ({'seed': -1}, 'seed must not be negative'),
    ({'word_kind': 'words'}, 'word kind must be one of'),
    ({'templates': ['a photo']}, "has no '{}'"),
  ],
)
def test_bad_options(tok, options, message):
  with pytest.raises(ValueError, match=message):
    CaptionBatcher(tok, **options)


@pytest.mark.parametrize(
  ('raw', 'clean'),
  [
    (' a dog\n', 'a dog'),
    ('číslo'.encode(), 'číslo'),
    (b'\xef\xbb\xbfa dog', 'a dog'),
    ('\ufeffa \u200bdog', 'a dog'),
    ('a dog, un été'.encode('utf-16'), 'a dog, un été'),
    (b'\xfe\xff' + 'a dog'.encode('utf-16-be'), 'a dog'),
    (b'a dog\0\0', 'a dog'),  # padded
    (b'caf\xe9', 'caf\ufffd'),
    ('क्\u200dष', 'क्\u200dष'),  # joiners are part of some scripts
    ('x' * 20_000, 'x' * 10_000),
  ],
)
def test_captions_are_cleaned(raw, clean):
  assert clean_captions(raw) == (clean,)


def test_the_good_of_several_are_taken():
  assert clean_captions(['a', ' ', b'b']) == ('a', 'b')


@pytest.mark.parametrize(
  ('raw', 'message'),
  [
    ('', 'no visible character'),
    ((), 'no visible character'),
    (b'\0', 'no visible character'),
    ('\ufeff \u200b\u200d\x07', 'no visible character'),
    ('\u3164\u2800\ufe0f', 'no visible character'),
    ('一只狗'.encode('gbk'), 'another encoding'),
    ('a dog'.encode('utf-16-le'), 'NUL characters .UTF-16 without'),
    (b'a\0dog\0', 'NUL characters'),
  ],
)
def test_captions_without_words_are_bad_samples(raw, message):
  with pytest.raises(BadSampleError, match=message) as error:
    clean_captions(raw)
  assert error.value.reason == 'caption'
