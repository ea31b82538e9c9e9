"""The learned background of a model that was trained without one.

Only the token learns (`losses/background.py`), from images with captions,
over groups and nouns that stay as they are; so any trained model can have it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from groupvit_jax.evaluation import zero_shot
from groupvit_jax.losses.background import background_loss
from groupvit_jax.text import nouns, prompts

STEPS, BATCH, NOUNS, RATE = 1000, 64, 3, 2e-3


def fit(
  model: Any,
  batches: Sequence[np.ndarray],
  captions: Sequence[str | Sequence[str]],
  *,
  steps: int = STEPS,
  seed: int = 0,
) -> jax.Array:
  """Learns the token.

  Args:
    model: from `gv.load`.
    batches: images, uint8 b h w 3.
    captions: of all of them; of several the first is read.
    steps: of Adam.
    seed: of the draws of images and nouns.

  Returns:
    The vector and the level, e + 1.
  """
  words = [
    nouns.extract(c if isinstance(c, str) else c[0], 'nouns') for c in captions
  ]
  usable = np.array([i for i, found in enumerate(words) if found])
  vocabulary = sorted({word for found in words for word in found})
  place = {word: i for i, word in enumerate(vocabulary)}
  fns, variables = model.predict_fns, model.variables
  tokens = zero_shot.tokenize_classes(
    model.tokenizer, vocabulary, prompts.SIMPLE
  )
  text = zero_shot.embed_tokens(fns['text'], variables, tokens)
  embed = jax.jit(lambda v, x: fns['regions'](v, x)['embeddings'])
  groups = jnp.concatenate([embed(variables, batch) for batch in batches])
  scale = fns['logit_scale'](variables)
  optimizer = optax.adam(RATE)

  @jax.jit
  def step(token, state, chosen, ids):
    gradient = jax.grad(
      lambda token: background_loss(
        groups[chosen], text[ids], token, scale, noun_ids=ids
      )
    )(token)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(token, updates), state

  token = jnp.zeros(text.shape[-1] + 1)
  state, rng = optimizer.init(token), np.random.default_rng(seed)
  for _ in range(steps):
    chosen = rng.choice(usable, BATCH)
    ids = [[place[w] for w in rng.choice(words[i], NOUNS)] for i in chosen]
    token, state = step(
      token, state, jnp.asarray(chosen), jnp.asarray(ids, jnp.int32)
    )
  return token


def with_token(
  predict_fns: Mapping[str, Callable], token: jax.Array
) -> Mapping[str, Callable]:
  """The functions of a model that knows this background."""

  def regions(variables, images, sizes=None):
    found = predict_fns['regions'](variables, images, sizes)
    near = jnp.einsum(
      'bge,e->bg', found['embeddings'], token[:-1], precision='highest'
    )
    return {**found, 'background': near + token[-1]}

  return {**predict_fns, 'regions': regions}
