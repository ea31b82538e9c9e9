"""Class embeddings: prompts averaged and normalised, in static chunks."""

import jax
import numpy as np
import pytest

from groupvit_jax.evaluation import zero_shot

NAMES = ('cat', 'dog', 'zebra')
TEMPLATES = ('a {}.', 'many {}s')


def tokenizer(texts):
  tokens = np.zeros((len(texts), 40), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    row[: len(text)] = [ord(c) for c in text]
  return tokens


def text_fn(table, tokens):
  """The sum of random letter vectors: not of unit length."""
  return table[tokens].sum(1) * (tokens > 0).sum(1, keepdims=True)


@pytest.fixture
def table():
  table = jax.random.normal(jax.random.key(0), (128, 5))
  return table.at[0].set(0.0)


def test_is_the_normalised_mean_over_templates(table):
  got = zero_shot.class_embeddings(text_fn, table, tokenizer, NAMES, TEMPLATES)
  for name, vector in zip(NAMES, got, strict=True):
    tokens = tokenizer([t.format(name) for t in TEMPLATES])
    mean = np.asarray(text_fn(table, tokens)).mean(0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-5)


@pytest.mark.parametrize('batch_size', [1, 4, 5, 100])
def test_chunks_do_not_change_the_result(table, batch_size):
  tokens = zero_shot.tokenize_classes(tokenizer, NAMES, TEMPLATES)
  whole = zero_shot.embed_tokens(text_fn, table, tokens)
  chunked = zero_shot.embed_tokens(
    text_fn, table, tokens, batch_size=batch_size
  )
  np.testing.assert_allclose(chunked, whole, rtol=1e-5)


def test_text_is_encoded_in_one_static_shape_and_compiled_once(table):
  shapes = []

  def traced(variables, tokens):
    shapes.append(tokens.shape)
    return text_fn(variables, tokens)

  tokens = zero_shot.tokenize_classes(tokenizer, NAMES, TEMPLATES)
  for _ in range(3):
    zero_shot.embed_tokens(traced, table, tokens, batch_size=4)
  assert set(shapes) == {(4, 16)}  # 'many zebras', cut to a multiple of 8
  traces = len(shapes)
  zero_shot.embed_tokens(traced, table, tokens, batch_size=4)
  assert len(shapes) == traces


def test_padding_columns_are_cut_but_no_token_is():
  tokens = zero_shot.tokenize_classes(tokenizer, ('x' * 37,), ('{}',))
  assert tokens.shape == (1, 1, 40)
  full = zero_shot.tokenize_classes(tokenizer, ('x',), ('{}',))
  assert full.shape == (1, 1, 8)


def test_synonyms_stand_in_an_axis_of_their_own(table):
  names = ('cat|kitten|  old   cat', 'dog', 'zebra|horse')
  got = zero_shot.class_embeddings(text_fn, table, tokenizer, names, TEMPLATES)
  assert got.shape == (3, 3, 5)
  words = (
    ('cat', 'kitten', 'old cat'),
    ('dog', 'dog', 'dog'),
    ('zebra', 'horse', 'zebra'),
  )
  for row, expected in zip(got, words, strict=True):
    alone = zero_shot.class_embeddings(
      text_fn, table, tokenizer, expected, TEMPLATES
    )
    np.testing.assert_allclose(row, alone, rtol=1e-5)


def test_no_prompt_is_encoded_twice(table):
  rows = []

  def counted(variables, tokens):
    rows.append(len(tokens))
    return text_fn(variables, tokens)

  names = ('cat|kitten|tom|puss', *(f'thing {i}' for i in range(20)))
  zero_shot.class_embeddings(counted, table, tokenizer, names, ('{}',))
  assert set(rows) == {24}


def test_braces_in_a_class_name_are_harmless():
  tokens = zero_shot.tokenize_classes(tokenizer, ('a {0} b',), ('the {}',))
  assert bytes(tokens[0, 0][tokens[0, 0] > 0].tolist()) == b'the a {0} b'


def test_says_what_is_missing():
  with pytest.raises(ValueError, match="Template 'a cat' has no place"):
    zero_shot.tokenize_classes(tokenizer, NAMES, ('a cat',))
  with pytest.raises(ValueError, match='at least one class name'):
    zero_shot.tokenize_classes(tokenizer, (), TEMPLATES)
  with pytest.raises(ValueError, match='at least one class name'):
    zero_shot.tokenize_classes(tokenizer, NAMES, ())
  with pytest.raises(ValueError, match=r"'cat\|' is empty, or a part of it"):
    zero_shot.tokenize_classes(tokenizer, ('cat|', 'dog'), TEMPLATES)
