"""The Grouping Block: tokens are assigned to groups and become them.

GroupViT (arXiv 2202.11094) section 3.1, eq. 2-6, in the form of the released
code (scaled logits, +1 in the denominator, attention before assignment).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from groupvit_jax import sharding
from groupvit_jax.models import layers, ops, patches

ASSIGNMENTS = ('hard', 'soft')


@dataclasses.dataclass(frozen=True)
class GroupingConfig:
  """Options of all Grouping Blocks of a model; the defaults are the released.

  Attributes:
    assign_mlp_ratio: hidden over outer width of the MLP after assignment.
    assignment: 'hard' (straight-through Gumbel-softmax) or 'soft' (softmax).
    gumbel_temperature: of the softmax in training; only with 'hard'.
    gumbel_noise: factor on the noise of training; only with 'hard'. With 1, a
      token goes where its logits say only if they differ by several units;
      until then every group holds a random mixture of the image, mostly
      background, and learns its name. Less noise lets small objects through.
    group_residual: add the group token to what its tokens brought. Without it
      nothing but its tokens determines a group.
    pre_assign_attn: group tokens attend to the image before assignment.
    token_mixer: MLP over the token axis; only without it must the number of
      group tokens equal the number of output groups.
    center_keys: subtract the image's mean from the keys. Otherwise, what all
      patches share decides for all of them alike, and one group per image is
      the easy solution. Centred, the logits of every group average to zero over
      the image, so none can win all of it.

  Raises:
    ValueError: for an unknown assignment.
  """

  assign_mlp_ratio: float = 4.0
  assignment: str = 'hard'
  gumbel_temperature: float = 1.0
  gumbel_noise: float = 1.0
  group_residual: bool = True
  pre_assign_attn: bool = True
  token_mixer: bool = True
  center_keys: bool = False

  def __post_init__(self):
    if self.assignment not in ASSIGNMENTS:
      raise ValueError(
        f'unknown assignment {self.assignment!r}; choose one of {ASSIGNMENTS}'
      )


class Grouping(NamedTuple):
  """Groups, and how they came about.

  Attributes:
    groups: the new tokens.
    soft: assignment without noise; over g it sums to one, or to zero for
      padding.
    noisy: the same with the noise of training; in evaluation equal to `soft`.
    tokens: token embeddings: each token passed through the block's output
      layers as if it were a group of its own (without the +1 in the denominator
      and without the group residual). Meaningless for padding.
  """

  groups: Float[Array, 'b g d']
  soft: Float[Array, 'b g n']
  noisy: Float[Array, 'b g n']
  tokens: Float[Array, 'b n d']


def gumbel_noise(
  rng: PRNGKeyArray, shape: Sequence[int]
) -> Float[Array, '...']:
  """Gumbel(0, 1) noise; a function of its own so that a test can replay it."""
  return sharding.drawn(
    lambda shape: jax.random.gumbel(rng, shape, jnp.float32), shape
  )


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


def stop_gradient_if_empty(
  groups: Float[Array, 'b g d'],
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
  return jnp.where(filled, groups, jax.lax.stop_gradient(groups))


class TokenMixer(nn.Module):
  """An MLP over the token axis: from the input's tokens to `num_tokens`."""

  num_tokens: int
  init_std: float = 0.02
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b g d']:
    """Mixes tokens; the hidden width is half of d, as released."""
    init = nn.initializers.normal(self.init_std)
    mlp = layers.MLP(
      x.shape[-1] // 2,
      self.num_tokens,
      kernel_init=init,
      out_init=init,
      dtype=self.dtype,
      name='mlp',
    )
    return mlp(x.swapaxes(1, 2)).swapaxes(1, 2)


class CrossAttention(nn.Module):
  """Group tokens attend to image tokens; residuals, then a final norm."""

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
    """Returns the updated group tokens; `mask` is False for padding."""
    init = nn.initializers.normal(self.init_std)
    attn = layers.Attention(
      self.num_heads, init, init, dtype=self.dtype, name='attn'
    )
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

  One head, softmax over the group axis (eq. 3). In training 'hard' adds Gumbel
  noise and passes the gradient straight through (eq. 4); 'soft' does neither.

  Attributes:
    config: options; the MLP and the residual are not of this module.
    init_std: of the kernels.
    dtype: of the computation; the softmax is always float32.
  """

  config: GroupingConfig = GroupingConfig()
  init_std: float = 0.02
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    groups: Float[Array, 'b g d'],
    x: Float[Array, 'b n d'],
    train: bool,
    mask: Bool[Array, 'b n'] | None = None,
  ) -> Grouping:
    """Assigns tokens; those that are False in `mask` belong to no group."""
    config, width = self.config, x.shape[-1]

    def dense(features: int, name: str) -> nn.Module:
      init = nn.initializers.normal(self.init_std)
      return ops.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

    q = dense(width, 'q')(groups) * width**-0.5
    k, v = jnp.split(dense(2 * width, 'kv')(x), 2, axis=-1)
    if config.center_keys:
      k -= patches.mean_token(k, mask, keepdims=True)
    logits = jnp.einsum(
      'bgd,bnd->bgn', q, k, preferred_element_type=jnp.float32
    )
    soft = noisy = jax.nn.softmax(logits, axis=1)
    hard = config.assignment == 'hard'
    if hard and train:
      noise = gumbel_noise(self.make_rng('gumbel'), logits.shape)
      logits = logits + config.gumbel_noise * noise
      noisy = jax.nn.softmax(logits / config.gumbel_temperature, axis=1)
    used = straight_through(noisy) if hard else noisy
    if mask is not None:
      soft, noisy, used = (
        jnp.where(mask[:, None, :], maps, 0) for maps in (soft, noisy, used)
      )

    # Eq. 5. +1 in the denominator: 1e-10 was unstable (NVlabs/GroupViT issue
    # 17), and a group without tokens is zero instead of 0 / 0.
    y = jnp.einsum('bgn,bnd->bgd', used.astype(v.dtype), v)
    y = y / (used.sum(axis=2, keepdims=True) + 1).astype(v.dtype)
    out = dense(width, 'out')
    return Grouping(out(y), soft, noisy, out(v))


class GroupingBlock(nn.Module):
  """Turns n tokens into `num_output_groups` groups.

  Attributes:
    num_output_groups: groups that leave the block.
    num_heads, mlp_ratio: of the cross-attention before assignment.
    config: options.
    init_std: of all kernels (see `groupvit.GroupViT`).
    dtype: of the computation; parameters are float32.
  """

  num_output_groups: int
  num_heads: int
  mlp_ratio: float = 4.0
  config: GroupingConfig = GroupingConfig()
  init_std: float = 0.02
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    groups: Float[Array, 'b t d'],
    train: bool,
    mask: Bool[Array, 'b n'] | None = None,
  ) -> Grouping:
    """Groups tokens `x`, starting from group tokens `groups`.

    Tokens that are False in `mask` are padding and change nothing.
    """
    config, std, dtype = self.config, self.init_std, self.dtype
    groups = layers.layer_norm(dtype, 'norm_tokens')(groups)
    x = layers.layer_norm(dtype, 'norm_x')(x)
    if config.token_mixer:
      mixer = TokenMixer(self.num_output_groups, std, dtype, name='mixer')
      groups = layers.layer_norm(dtype, 'norm_mixed')(mixer(groups))
    elif groups.shape[1] != self.num_output_groups:
      raise ValueError(
        f'{groups.shape[1]} group tokens cannot become '
        f'{self.num_output_groups} groups without token_mixer; make the two '
        'numbers equal or set token_mixer=True'
      )
    if config.pre_assign_attn:
      attn = CrossAttention(
        self.num_heads, self.mlp_ratio, std, dtype, name='pre_assign'
      )
      groups = attn(groups, x, mask)

    assigned = Assign(config, std, dtype, name='assign')(groups, x, train, mask)
    y, tokens = assigned.groups, assigned.tokens
    if config.group_residual:
      y = y + groups
    init = nn.initializers.normal(std)
    mlp = layers.MLP(
      int(x.shape[-1] * config.assign_mlp_ratio),
      kernel_init=init,
      out_init=init,
      dtype=dtype,
      name='mlp',
    )
    norm_out = layers.layer_norm(dtype, 'norm_out')
    y = y + mlp(norm_out(y))
    tokens = tokens + mlp(norm_out(tokens))
    if config.assignment == 'hard' and not config.group_residual:
      y = stop_gradient_if_empty(y, assigned.noisy, mask)
    return assigned._replace(groups=y, tokens=tokens)
