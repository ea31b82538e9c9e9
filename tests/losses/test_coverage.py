"""Coverage: the share of each token's softmax that is its image's nouns'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax.losses import contrastive, coverage

IDS = np.array([[3, 5], [5, 8], [9, 9]])


def by_hand(tokens, nouns, scale):
  terms = []
  for image, own in zip(tokens, IDS, strict=True):
    for token in image:
      p = np.exp(scale * nouns.reshape(6, -1) @ token)
      mine = np.isin(IDS.reshape(-1), own)
      terms.append(-np.log(p[mine].sum() / p.sum()))
  return np.mean(terms)


@pytest.mark.parametrize('chunk_size', [None, 1, 8, 24])
def test_coverage_is_the_share_of_the_own_nouns(tiny, chunk_size):
  tokens, nouns = tiny.unit(0, 3, 4, 5), tiny.unit(1, 3, 2, 5)

  def term(tokens):
    columns = contrastive.gather(jnp.asarray(nouns.reshape(6, 5)), None)
    ids = contrastive.gather(jnp.asarray(IDS.reshape(-1)), None)
    return coverage.coverage_term(
      tokens, columns, jnp.float32(7.0), ids, chunk_size
    )

  value, gradient = jax.value_and_grad(term)(jnp.asarray(tokens))
  np.testing.assert_allclose(value, by_hand(tokens, nouns, 7.0), rtol=1e-5)
  # Every token is taught, not the best alone.
  assert (jnp.abs(gradient).max(-1) > 1e-3).all()
