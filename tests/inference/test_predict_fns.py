"""A loaded model offers what evaluators call, and answers them as itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import errors, inference
from groupvit_jax.evaluation import zero_shot
from groupvit_jax.text import prompts

MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)


@pytest.fixture(scope='module')
def model(tiny_inference):
  preprocessing = {'mean': MEAN, 'std': STD, 'short_side': 32}
  return inference.Model(tiny_inference.source(preprocessing=preprocessing))


def pixels(*shape):
  return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def test_the_functions_are_the_same_objects_every_time(model):
  optional = {'features', 'regions_and_tokens'}
  names = optional | {'image', 'text', 'regions', 'logit_scale'}
  assert set(model.predict_fns) == names
  for name in names:
    assert model.predict_fns[name] is model.predict_fns[name]


def test_tokens_come_with_the_same_regions(model):
  raw, fns = pixels(2, 16, 16), model.predict_fns
  plain = jax.jit(fns['regions'])(model.variables, raw)
  both = jax.jit(fns['regions_and_tokens'])(model.variables, raw)
  tokens = both.pop('tokens')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, both
  )
  # Those of the last stage: as many as the groups of the stage before.
  assert tokens.shape[1] == plain['stages'][-2].shape[-1]
  np.testing.assert_allclose(jnp.linalg.norm(tokens, axis=-1), 1, atol=1e-3)


@pytest.mark.parametrize('templates', ['simple', 'subset'])
def test_evaluators_and_inference_agree_on_class_embeddings(model, templates):
  """Of several templates too: averaged first, then normalised."""
  names = ['grass', 'old boat', 'sea', 'dog|puppy']
  found = zero_shot.class_embeddings(
    model.predict_fns['text'],
    model.variables,
    model.tokenizer,
    names,
    prompts.TEMPLATES[templates],
  )
  classes = model.class_list(names, model.config, templates, background=False)
  expected = np.asarray(classes.embeddings.vectors)[: len(names)]
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_images_are_normalised_by_the_models_own_statistics(model):
  raw = pixels(2, 16, 16)
  image = jax.jit(model.predict_fns['image'])
  found = image(model.variables, raw)
  np.testing.assert_allclose(found, model.encode_pixels(raw), atol=1e-5)
  mean, std = (np.float32(x) for x in (MEAN, STD))
  floats = (raw / np.float32(255) - mean) / std
  again = image(model.variables, jnp.asarray(floats))
  np.testing.assert_allclose(found, again, atol=1e-5)


def test_regions_are_those_of_the_contract(model):
  raw = pixels(2, 16, 24)
  sizes = jnp.asarray([[16, 24], [8, 12]])
  regions = jax.jit(model.predict_fns['regions'])
  whole = regions(model.variables, raw)
  assert {'image', 'embeddings', 'stages', 'grid'} <= set(whole)
  assert [m.shape for m in whole['stages']] == [(2, 4, 6, 6), (2, 4, 6, 4)]
  padded = regions(model.variables, raw, sizes)
  assert padded['grids'].tolist() == [[4, 6], [2, 3]]
  alone = regions(model.variables, raw[1:, :8, :12])
  np.testing.assert_allclose(
    padded['embeddings'][1], alone['embeddings'][0], atol=1e-5
  )


def test_the_logit_scale_is_the_learned_one(model):
  scale = model.predict_fns['logit_scale'](model.variables)
  assert float(scale) == pytest.approx(model.logit_scale)


def test_a_model_without_tokenizer_says_so(tiny_inference):
  model = inference.Model(tiny_inference.source(tokenizer=None))
  with pytest.raises(errors.ModelError, match='came without its tokenizer'):
    model.tokenizer  # noqa: B018
