"""GroupViT image encoder: a vision transformer whose tokens become segments.

Paper arXiv 2202.11094 section 3.1 and figure 2; where paper and released code
disagree, the code (scaled logits, [image; group] order, projected tokens).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.models import grouping, layers, patches
from groupvit_jax.models import patches as patches_lib


class Stage(nn.Module):
  """Transformer blocks over [tokens; group tokens], then a Grouping Block.

  A stage without group tokens has no Grouping Block, and any stage may have no
  transformer block.

  Attributes:
    drop_path: a rate for each transformer block; their number is the depth.
    num_heads, mlp_ratio: of every block.
    num_group_tokens: group tokens that join the tokens here; 0 for none.
    init_std: of the linear kernels at the start.
    grouping: options of `GroupingBlock` beside these.
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters are float32.
  """

  drop_path: Sequence[float]
  num_heads: int
  mlp_ratio: float
  num_group_tokens: int
  init_std: float
  grouping: dict
  remat: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    previous: Float[Array, 'b p d'] | None,
    train: bool,
    mask: Bool[Array, 'b n'] | None = None,
  ) -> tuple[Float[Array, 'b m d'], Float[Array, 'b t d'] | None, tuple]:
    """Runs the stage.

    Args:
      x: image tokens, or groups of the stage before.
      previous: group tokens as they left the blocks of the stage before.
      train: drop paths and draw Gumbel noise.
      mask: False for the tokens that are padding.

    Returns:
      Tokens for the next stage, this stage's group tokens, and its (soft,
      noisy) assignment with the tokens that were assigned, each as a group of
      many like it; empty where the stage does not group.
    """
    block = layers.block_class(self.remat)
    n = x.shape[1]
    if self.num_group_tokens:
      x = jnp.concatenate([x, self.group_tokens(x, previous)], axis=1)
    keys = patches_lib.key_mask(mask, after=self.num_group_tokens)
    init = nn.initializers.normal(self.init_std)
    for i, rate in enumerate(self.drop_path):
      x = block(
        self.num_heads,
        self.mlp_ratio,
        rate,
        in_init=init,
        fc_init=init,
        out_init=init,
        dtype=self.dtype,
        name=f'block_{i}',
      )(x, train, keys)
    if not self.num_group_tokens:
      return x, None, ()
    x, groups = x[:, :n], x[:, n:]
    group = grouping.GroupingBlock(
      num_heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      init_std=self.init_std,
      dtype=self.dtype,
      name='grouping',
      **self.grouping,
    )
    x, soft, noisy, tokens = group(x, groups, train, mask)
    return x, groups, (soft, noisy, tokens)

  def group_tokens(
    self, x: Float[Array, 'b n d'], previous: Float[Array, 'b p d'] | None
  ) -> Float[Array, 'b t d']:
    """Learned tokens; after a grouping stage, plus a projection of its own."""
    t, width = self.num_group_tokens, x.shape[-1]
    first = previous is None
    init = layers.NORMAL_02 if first else nn.initializers.zeros
    tokens = self.param('group_tokens', init, (1, t, width)).astype(self.dtype)
    if not first:
      previous = layers.layer_norm(self.dtype, 'norm_previous')(previous)
      mixer = grouping.TokenMixer(
        t, self.init_std, self.dtype, name='project_previous'
      )
      tokens = tokens + mixer(previous)
    return jnp.broadcast_to(tokens, (x.shape[0], t, width))


class GroupViT(nn.Module):
  """The image encoder.

  Attributes:
    image_size: pixels that positions are stored for; one side or (h, w).
    patch_size: side of a patch in pixels.
    width: token width.
    depths: transformer blocks per stage.
    num_heads: attention heads.
    num_group_tokens: group tokens per stage; 0: the stage does not group.
    num_output_groups: groups that leave each stage; read where it groups.
    mlp_ratio: hidden over outer width of the MLPs.
    assign_mlp_ratio: the same of the MLP after assignment.
    drop_path_rate: of the last block, linear from 0 at the first.
    assignment: 'hard' (straight-through Gumbel-softmax) or 'soft'.
    gumbel_temperature: of the noise softmax in training.
    group_residual, pre_assign_attn, token_mixer, gumbel_noise, center_keys: see
      `GroupingBlock`.
    init_std: of the linear kernels at the start. The released .02 suits width
      384. A narrow model would begin nearly linear, its attention and its
      assignment without preference (assignment logits of .03 at width 64,
      next to Gumbel noise of 1.3); width^-.5 keeps the size of the signal.
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters, softmax, outputs are float32.
  """

  image_size: int | Sequence[int] = 224
  patch_size: int = 16
  width: int = 384
  depths: Sequence[int] = (6, 3, 3)
  num_heads: int = 6
  num_group_tokens: Sequence[int] = (64, 8, 0)
  num_output_groups: Sequence[int] = (64, 8, 0)
  mlp_ratio: float = 4.0
  assign_mlp_ratio: float = 4.0
  drop_path_rate: float = 0.1
  assignment: str = 'hard'
  gumbel_temperature: float = 1.0
  group_residual: bool = True
  pre_assign_attn: bool = True
  token_mixer: bool = True
  gumbel_noise: float = 1.0
  center_keys: bool = False
  init_std: float = 0.02
  remat: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: Float[Array, 'b h w 3'],
    *,
    train: bool = False,
    sizes: Int[Array, 'b 2'] | None = None,
  ) -> tuple[Float[Array, 'b d'], dict]:
    """Encodes images that are already normalised.

    Args:
      images: any size of at least one patch.
      train: drop paths and draw Gumbel noise, from the rng collections
        'drop_path' and 'gumbel'.
      sizes: real (height, width) in pixels of pictures that lie in the top left
        corner of their canvas; None: the canvas is the picture.

    Returns:
      The mean of the final groups, b d, and a dict of intermediates:
        groups: b g d, final tokens after the last norm.
        parts: b n d, the same of every token that the last Grouping Block
          assigned, as a group of many like it; no block after it is applied.
        assignments: per grouping stage, b g n soft maps without noise; over g
          they sum to one, and to zero for padded tokens.
        noisy_assignments: the same with the noise of training.
        hidden: per stage, its output tokens.
        grid: (h, w) of the image tokens, plain ints.
        grids: with sizes, b 2, the same of every picture. Tokens beyond it
          mean nothing in parts and hidden.
    """
    self.check()
    p = self.patch_size
    grid = patches.grid_size(images.shape[1:3], p)
    grids = patches_lib.token_grids(sizes, p, grid)
    mask = patches_lib.token_mask(grids, grid)
    x = patches.PatchEmbed(
      self.image_size, p, self.width, self.dtype, name='embed'
    )(images, grids)
    groups, assigned, hidden = None, [], []
    for i, rates in enumerate(self.drop_path_rates()):
      stage = self.stage(i, rates)
      x, groups, maps = stage(x, groups, train, mask)
      hidden.append(x)
      if maps:
        assigned.append(maps)
        mask = None  # groups have no padding
    norm = layers.layer_norm(jnp.float32, 'norm')
    x = norm(x)
    soft, noisy, parts = zip(*assigned, strict=True) if assigned else ((),) * 3
    pooled = patches_lib.mean(x, mask)
    out = {
      'groups': x,
      'parts': norm(parts[-1]) if parts else x,
      'assignments': soft,
      'noisy_assignments': noisy,
      'hidden': tuple(hidden),
      'grid': grid,
    }
    if grids is not None:
      out['grids'] = grids
    return pooled, out

  def stage(self, i: int, drop_path: Sequence[float]) -> Stage:
    """The i-th stage, from the fields."""
    options = {
      'num_output_groups': self.num_output_groups[i],
      'assign_mlp_ratio': self.assign_mlp_ratio,
      'assignment': self.assignment,
      'temperature': self.gumbel_temperature,
      'group_residual': self.group_residual,
      'pre_assign_attn': self.pre_assign_attn,
      'token_mixer': self.token_mixer,
      'gumbel_noise': self.gumbel_noise,
      'center_keys': self.center_keys,
    }
    return Stage(
      drop_path,
      self.num_heads,
      self.mlp_ratio,
      self.num_group_tokens[i],
      self.init_std,
      options,
      self.remat,
      self.dtype,
      name=f'stage_{i}',
    )

  def drop_path_rates(self) -> list[tuple[float, ...]]:
    """Rates of every block, grouped by stage: linear in the overall depth."""
    rates = np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist()
    ends = np.cumsum(self.depths)
    return [
      tuple(rates[end - depth : end])
      for end, depth in zip(ends, self.depths, strict=True)
    ]

  def check(self) -> None:
    """Raises ValueError if the stages' fields do not fit together."""
    layout = self.depths, self.num_group_tokens, self.num_output_groups
    if len({len(field) for field in layout}) != 1:
      raise ValueError(
        'depths, num_group_tokens and num_output_groups need one number for '
        f'each stage, got {layout}'
      )
    for tokens, groups in zip(*layout[1:], strict=True):
      if tokens and not groups:
        raise ValueError(
          f'a stage with {tokens} group tokens needs num_output_groups > 0; '
          'a stage that does not group has 0 group tokens'
        )
