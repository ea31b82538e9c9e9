"""The Grouping Block: tokens are assigned to groups and become them.

GroupViT (arXiv 2202.11094) section 3.1, eq. 2-6, in the form of the released
code (scaled logits, +1 in the denominator, attention before assignment).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from groupvit_jax.models import layers, ops, patches

ASSIGNMENTS = ('hard', 'soft')


def gumbel_noise(
  rng: PRNGKeyArray, shape: Sequence[int]
) -> Float[Array, '...']:
  """Gumbel(0, 1) noise; a function of its own so that a test can replay it."""
  return jax.random.gumbel(rng, shape, jnp.float32)


def straight_through(soft: Float[Array, 'b g n']) -> Float[Array, 'b g n']:
  """One-hot of the winning group forward, the gradient of `soft` backward."""
  groups = jnp.arange(soft.shape[1])[:, None]
  hard = (soft.argmax(axis=1, keepdims=True) == groups).astype(soft.dtype)
  # Without the parentheses the forward value would be 1 only up to rounding.
  return hard + (soft - jax.lax.stop_gradient(soft))


def compose_assignments(
  assignments: Sequence[Float[Array, 'b _g _n']],
) -> tuple[Float[Array, 'b n _g'], ...]:
  """Maps from image tokens to the groups of every stage.

  The product of the soft matrices: the released code's choice, better than
  the paper's product of hard ones (NVlabs/GroupViT issues 22, 30).

  Args:
    assignments: per stage, soft maps over that stage's input tokens; every
      column sums to one.

  Returns:
    Per stage, the share of each of its groups in each image token.
  """
  composed = []
  for assignment in assignments:
    if composed:
      step = jnp.einsum('bnm,bgm->bng', composed[-1], assignment)
    else:
      step = assignment.swapaxes(1, 2)
    composed.append(step)
  return tuple(composed)


def quiet_where_empty(
  y: Float[Array, 'b g d'],
  assignment: Float[Array, 'b g n'],
  mask: Bool[Array, 'b n'] | None = None,
) -> Float[Array, 'b g d']:
  """Stops the gradient of groups that win no token of a hard assignment.

  Without the residual such a group is nearly zero, and every LayerNorm behind
  it multiplies its gradient by up to 300: two of them made gradient norms of
  1e5, which clipping then turned into lost steps.
  """
  winner = assignment.argmax(axis=1, keepdims=True)
  wins = winner == jnp.arange(assignment.shape[1])[:, None]
  if mask is not None:
    wins &= mask[:, None, :]
  filled = wins.any(axis=2)[..., None]
  return jnp.where(filled, y, jax.lax.stop_gradient(y))


class TokenMixer(nn.Module):
  """An MLP over the token axis: from the input's tokens to `num_tokens`."""

  num_tokens: int
  init_std: float = 0.02
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b g d']:
    hidden = x.shape[-1] // 2
    init = nn.initializers.normal(self.init_std)
    mlp = layers.MLP(
      hidden,
      self.num_tokens,
      kernel_init=init,
      out_init=init,
      dtype=self.dtype,
      name='mlp',
    )
    return mlp(x.swapaxes(1, 2)).swapaxes(1, 2)


class CrossAttention(nn.Module):
  """Group tokens read the image tokens; residuals, then a final norm."""

  num_heads: int
  mlp_ratio: float = 4.0
  init_std: float = 0.02
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    groups: Float[Array, 'b g d'],
    x: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'] | None = None,
  ) -> Float[Array, 'b g d']:
    init = nn.initializers.normal(self.init_std)
    attn = layers.Attention(self.num_heads, init, init, self.dtype, name='attn')
    mlp = layers.MLP(
      int(x.shape[-1] * self.mlp_ratio),
      kernel_init=init,
      out_init=init,
      dtype=self.dtype,
      name='mlp',
    )
    groups = groups + attn(groups, x, patches.key_mask(mask))
    groups = groups + mlp(layers.layer_norm(self.dtype, 'norm2')(groups))
    return layers.layer_norm(self.dtype, 'norm_post')(groups)


class Assign(nn.Module):
  """Every token goes to one group; a group is the mean of its tokens.

  One head, softmax over the group axis. In training 'hard' adds Gumbel noise
  and passes the gradient straight through; 'soft' has neither.

  Attributes:
    assignment: 'hard' or 'soft'.
    temperature: of the Gumbel-softmax, in training.
    noise: factor on the Gumbel noise, in training.
    center_keys: see `GroupingBlock`.
    init_std: of the kernels at the start.
    dtype: of the computation; the softmax is always float32.
  """

  assignment: str = 'hard'
  temperature: float = 1.0
  noise: float = 1.0
  center_keys: bool = False
  init_std: float = 0.02
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    groups: Float[Array, 'b g d'],
    x: Float[Array, 'b n d'],
    train: bool,
    mask: Bool[Array, 'b n'] | None = None,
  ) -> tuple[
    Float[Array, 'b g d'],
    Float[Array, 'b g n'],
    Float[Array, 'b g n'],
    Float[Array, 'b n d'],
  ]:
    """Returns groups, soft maps without and with noise, and every token's part.

    A token's part is what it brings to its group: a group is the sum of the
    parts of its tokens over their number plus one. Tokens that are padding
    (False in `mask`) belong to no group; their part means nothing.
    """
    if self.assignment not in ASSIGNMENTS:
      raise ValueError(
        f'unknown assignment {self.assignment!r}; choose one of {ASSIGNMENTS}'
      )
    width = x.shape[-1]

    def dense(features, name):
      init = nn.initializers.normal(self.init_std)
      return ops.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

    q = dense(width, 'q')(groups) * width**-0.5
    k, v = jnp.split(dense(2 * width, 'kv')(x), 2, axis=-1)
    if self.center_keys:
      k -= patches.mean(k, mask, keepdims=True)
    logits = jnp.einsum(
      'bgd,bnd->bgn', q, k, preferred_element_type=jnp.float32
    )
    soft = noisy = jax.nn.softmax(logits, axis=1)
    hard = self.assignment == 'hard'
    if hard and train:
      noise = self.noise * gumbel_noise(self.make_rng('gumbel'), logits.shape)
      noisy = jax.nn.softmax((logits + noise) / self.temperature, axis=1)
    used = straight_through(noisy) if hard else noisy
    if mask is not None:
      soft, noisy, used = (
        jnp.where(mask[:, None, :], maps, 0) for maps in (soft, noisy, used)
      )

    # +1 in the denominator: 1e-10 was unstable (NVlabs/GroupViT issue 17), and
    # a group without tokens is zero instead of 0 / 0.
    y = jnp.einsum('bgn,bnd->bgd', used.astype(v.dtype), v)
    y = y / (used.sum(axis=2, keepdims=True) + 1).astype(v.dtype)
    out = dense(width, 'out')
    return out(y), soft, noisy, out(v)


class GroupingBlock(nn.Module):
  """Turns n tokens into `num_output_groups` groups.

  Attributes:
    num_output_groups: groups that leave the block.
    num_heads: of the cross-attention before assignment.
    mlp_ratio: of the MLP in the cross-attention before assignment.
    assign_mlp_ratio: of the MLP after it.
    assignment, temperature: see `Assign`.
    gumbel_noise: factor on the noise of training, 1 as released. With 1, a
      patch goes where its logits say only if they differ by several units;
      until then every group holds a random mixture of the picture, mostly
      ground, and learns to be called so. Less noise lets small things speak.
    center_keys: take the picture's mean from the keys. What all patches share
      (which ground, which light) else decides for all of them alike, and the
      quiet solution is one group per picture. Centred, the logits of every
      group average to zero over the picture: none can win all of it, and only
      differences within the picture are left to group by.
    group_residual: add the group token to what its tokens brought. False ties
      a group's content to its tokens: nothing else reaches the output.
    pre_assign_attn: let group tokens read the image before they compete.
    token_mixer: MLP over the token axis; only without it must the number of
      group tokens equal `num_output_groups`.
    init_std: of all kernels at the start (see `GroupViT`).
    dtype: of the computation; parameters are float32.
  """

  num_output_groups: int
  num_heads: int
  mlp_ratio: float = 4.0
  assign_mlp_ratio: float = 4.0
  assignment: str = 'hard'
  temperature: float = 1.0
  group_residual: bool = True
  pre_assign_attn: bool = True
  token_mixer: bool = True
  gumbel_noise: float = 1.0
  center_keys: bool = False
  init_std: float = 0.02
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    groups: Float[Array, 'b t d'],
    train: bool,
    mask: Bool[Array, 'b n'] | None = None,
  ) -> tuple[
    Float[Array, 'b g d'],
    Float[Array, 'b g n'],
    Float[Array, 'b g n'],
    Float[Array, 'b n d'],
  ]:
    """Returns groups, soft maps without and with noise, and tokens.

    The tokens are as each would leave the block as a group of many like it, but
    without the group token that `group_residual` adds to a group;
    those that are padding (False in `mask`) mean nothing and change nothing.
    """
    dtype = self.dtype
    groups = layers.layer_norm(dtype, 'norm_tokens')(groups)
    x = layers.layer_norm(dtype, 'norm_x')(x)
    if self.token_mixer:
      mixer = TokenMixer(
        self.num_output_groups, self.init_std, dtype, name='mixer'
      )
      groups = mixer(groups)
      groups = layers.layer_norm(dtype, 'norm_mixed')(groups)
    elif groups.shape[1] != self.num_output_groups:
      raise ValueError(
        f'{groups.shape[1]} group tokens cannot become '
        f'{self.num_output_groups} groups without token_mixer; make the two '
        'numbers equal or set token_mixer=True'
      )
    if self.pre_assign_attn:
      attn = CrossAttention(
        self.num_heads, self.mlp_ratio, self.init_std, dtype, name='pre_assign'
      )
      groups = attn(groups, x, mask)

    assign = Assign(
      self.assignment,
      self.temperature,
      self.gumbel_noise,
      self.center_keys,
      self.init_std,
      dtype,
      name='assign',
    )
    y, soft, noisy, tokens = assign(groups, x, train, mask)
    if self.group_residual:
      y = y + groups
    hidden = int(x.shape[-1] * self.assign_mlp_ratio)
    init = nn.initializers.normal(self.init_std)
    mlp = layers.MLP(
      hidden, kernel_init=init, out_init=init, dtype=dtype, name='mlp'
    )
    norm_out = layers.layer_norm(dtype, 'norm_out')
    y = y + mlp(norm_out(y))
    tokens = tokens + mlp(norm_out(tokens))
    if self.assignment == 'hard' and not self.group_residual:
      y = quiet_where_empty(y, noisy, mask)
    return y, soft, noisy, tokens
