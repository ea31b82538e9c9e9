"""Class names to embeddings: what lists are refused, synonyms, templates."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.evaluation import scoring
from groupvit_jax.inference import text
from groupvit_jax.inference.text import LabelError, TextEncoder, read_classes
from groupvit_jax.text import clip, prompts

TOKENIZER = clip.ClipTokenizer()
TABLE = np.random.default_rng(0).normal(size=(49408, 6)).astype(np.float32)


class Encode:
  """Embeds a text as the sum of its tokens, and remembers the shapes."""

  def __init__(self):
    self.shapes = []

  def __call__(self, tokens):
    self.shapes.append(tokens.shape)
    return np.where((tokens != 0)[..., None], TABLE[tokens], 0).sum(1)


def expected(word, templates):
  tokens = TOKENIZER([prompts.fill(template, word) for template in templates])
  vector = Encode()(tokens).mean(0)
  return vector / np.linalg.norm(vector)


def test_a_class_may_have_several_names():
  found = read_classes(['dog', ' person|man |  old   woman', 'sky'])
  assert found == (('dog',), ('person', 'man', 'old woman'), ('sky',))


def test_background_as_first_name_is_the_background():
  names = ['background', 'dog']
  assert read_classes(names, background=True) == (('dog',),)
  assert read_classes(names) == (('background',), ('dog',))


@pytest.mark.parametrize(
  ('names', 'background', 'reason'),
  [
    ([], False, 'list of class names is empty'),
    (['background'], True, 'list of class names is empty'),
    (['dog', ''], False, "Class name '' is empty"),
    (['dog', '  '], False, "Class name '  ' is empty"),
    (['cat|', 'dog'], False, r"Class name 'cat\|' is empty, or a part of it"),
    (['dog', 'cat', 'dog'], False, "'dog' stands twice"),
    (['dog', 'Dog '], False, "'Dog' stands twice"),
    (['dog|puppy', 'puppy'], False, "'puppy' stands twice"),
    (['man|man'], False, "'man' stands twice"),
    (['dog', 'background'], True, "'background' is the class of all other"),
    ('dog', False, r"come as a list; for one class, write \['dog'\]"),
  ],
)
def test_lists_that_cannot_be_used(names, background, reason):
  with pytest.raises(LabelError, match=reason):
    read_classes(names, background)


def test_templates_are_averaged_before_normalising():
  words = ['dog', 'a very long red bus in the city centre of some old town']
  for templates in (prompts.SIMPLE, prompts.SUBSET, prompts.FULL):
    found = TextEncoder(Encode(), TOKENIZER)(words, templates)
    for vector, word in zip(found, words, strict=True):
      np.testing.assert_allclose(vector, expected(word, templates), atol=1e-6)
  # That is not the mean of unit vectors.
  units = [expected('dog', [t]) for t in prompts.FULL]
  other = np.mean(units, 0) / np.linalg.norm(np.mean(units, 0))
  assert abs(expected('dog', prompts.FULL) - other).max() > 1e-4


def test_what_is_known_is_not_encoded_again():
  encode = Encode()
  encoder = TextEncoder(encode, TOKENIZER)
  first = encoder(['dog', 'cat'], prompts.SIMPLE)
  again = encoder(['cat', 'sky', 'dog'], prompts.SIMPLE)
  np.testing.assert_array_equal(first[0], again[2])
  assert len(encode.shapes) == 2  # the second time for the sky alone
  encoder(['sky', 'cat'], prompts.SIMPLE)
  assert len(encode.shapes) == 2
  encoder(['sky'], prompts.SUBSET)
  assert len(encode.shapes) == 3


def test_few_shapes_for_any_vocabulary():
  encode = Encode()
  encoder = TextEncoder(encode, TOKENIZER)
  for count in range(1, 40):
    encoder([f'thing {count} {i}' for i in range(count)], prompts.SIMPLE)
  assert set(encode.shapes) == {(n, 16) for n in (8, 16, 32, 64)}
  encoder([f'word {i}' for i in range(30)], prompts.FULL)
  assert max(n for n, _ in encode.shapes) == 256


def test_the_memory_is_bounded(monkeypatch):
  monkeypatch.setattr(text, '_KEPT', 10)
  encoder = TextEncoder(Encode(), TOKENIZER)
  for i in range(40):
    words = [f'{i} {j}' for j in range(4)] + ['dog']
    np.testing.assert_allclose(
      encoder(words, prompts.SIMPLE)[-1],
      expected('dog', prompts.SIMPLE),
      atol=1e-6,
    )
    assert len(encoder._known) <= 10


def test_a_label_of_a_thousand_words_is_cut_with_a_warning():
  encoder = TextEncoder(Encode(), TOKENIZER)
  label = ' '.join(f'word{i}' for i in range(1000))
  with pytest.warns(UserWarning, match='reads the first 75') as caught:
    found = encoder([label, 'dog'], prompts.SIMPLE)
  assert len(caught) == 1
  assert len(str(caught[0].message)) < 200
  assert np.isfinite(found).all()
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    encoder(
      ['a name of seventy letters that is still short enough for the model']
    )


def test_class_matrix_is_padded_to_few_shapes():
  encoder = TextEncoder(Encode(), TOKENIZER)
  matrix, valid = text.class_matrix(
    encoder, read_classes(['dog', 'person|man|woman', 'sky']), prompts.SIMPLE
  )
  assert matrix.shape == (8, 4, 6)
  assert valid.tolist() == [True] * 3 + [False] * 5
  np.testing.assert_array_equal(matrix[0], matrix[0, :1].repeat(4, 0))
  np.testing.assert_array_equal(matrix[1, 3], matrix[1, 0])
  np.testing.assert_allclose(
    matrix[1, 2], expected('woman', prompts.SIMPLE), atol=1e-6
  )


def test_a_class_is_as_near_as_the_nearest_of_its_names():
  rng = np.random.default_rng(1)
  a, names = rng.normal(size=(2, 5, 6)), rng.normal(size=(3, 4, 6))
  cosines = np.einsum('bge,cse->bgcs', a, names)
  found = scoring.similarity(jnp.float32(a), jnp.float32(names))
  np.testing.assert_allclose(found, cosines.max(-1), atol=1e-5)
  single = scoring.similarity(jnp.float32(a), jnp.float32(names[:, 0]))
  np.testing.assert_allclose(single, cosines[..., 0], atol=1e-5)
