"""Terms and statistics on the soft assignment of tokens to groups.

They prevent, and measure, the collapse of all tokens into one group, which the
contrastive losses alone do not see; off in the released recipes. Training
applies them to the last grouping stage, whose tokens are patches only if it is
the only one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this a probability's logarithm stops growing: 0 log 0 is 0 and its
# gradient finite, so that hard (one-hot) assignments are legal inputs.
EPSILON = 1e-9


def balance_loss(soft: Float[Array, 'b g n']) -> Float[Array, '']:
  """How far the batch is from using its groups equally.

  `log g - entropy of the mean assignment over the batch's tokens`. It asks
  for balance over the batch, not in each image, where an even split would
  be wrong: a sky fills half of it and a bird a corner.

  Args:
    soft: Assignments `b g n`, a distribution over the groups g of each token.

  Returns:
    Scalar in nats: 0 when all groups are used equally, log g when one group
    takes everything.
  """
  share = jnp.mean(soft.astype(jnp.float32), axis=(0, 2))
  return jnp.log(float(share.size)) - _entropy(share)


def sharpness_loss(soft: Float[Array, 'b g n']) -> Float[Array, '']:
  """How undecided the tokens are: mean entropy of their assignments.

  With `balance_loss` it maximises the information that a token's group
  carries; balance alone is also pleased by a uniform assignment.

  Args:
    soft: Assignments `b g n`, a distribution over the groups g of each token.

  Returns:
    Scalar in nats, from 0 (every token is sure) to log g.
  """
  return jnp.mean(_entropy(soft.astype(jnp.float32), axis=1))


def assignment_statistics(
  soft: Float[Array, 'b g n'],
) -> dict[str, Float[Array, '']]:
  """Statistics that show a collapse; they carry no gradient.

  Args:
    soft: Assignments `b g n`, a distribution over the groups g of each token.

  Returns:
    Scalars, the first four of hard (argmax) usage:
      groups_in_use: exp of the entropy of the batch's usage, 1 to g.
      groups_winning: how many groups win at least 1 % of the batch's tokens.
      groups_per_image: mean over images of exp of the entropy of usage.
      largest_share: fraction of the batch's tokens in the largest group.
      entropy: mean entropy of a token's soft assignment, in nats.
  """
  soft = jax.lax.stop_gradient(soft)
  groups = soft.shape[1]
  hard = jax.nn.one_hot(jnp.argmax(soft, axis=1), groups, axis=1)
  usage = jnp.mean(hard, axis=2)
  share = jnp.mean(usage, axis=0)
  return {
    'groups_in_use': jnp.exp(_entropy(share)),
    'groups_winning': jnp.sum(share >= 0.01).astype(jnp.float32),
    'groups_per_image': jnp.mean(jnp.exp(_entropy(usage, axis=1))),
    'largest_share': jnp.max(share),
    'entropy': sharpness_loss(soft),
  }


def _entropy(p: Array, axis: int = 0) -> Array:
  """Entropy in nats along one axis."""
  return -jnp.sum(p * jnp.log(jnp.maximum(p, EPSILON)), axis=axis)
