"""GroupViT image encoder: a vision transformer whose tokens become segments.

Paper arXiv 2202.11094 section 3.1 and figure 2; where paper and released code
disagree, the code (scaled logits, [image; group] order, projected tokens).
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.models import layers, patches
from groupvit_jax.models.grouping import (
  Grouping,
  GroupingBlock,
  GroupingConfig,
  TokenMixer,
)


class StageOutput(NamedTuple):
  """Output of a stage.

  Attributes:
    x: tokens for the next stage.
    group_tokens: this stage's group tokens after its blocks, or None.
    grouping: of its Grouping Block, or None where the stage does not group.
  """

  x: Float[Array, 'b m d']
  group_tokens: Float[Array, 'b t d'] | None
  grouping: Grouping | None


class Stage(nn.Module):
  """Transformer blocks over [tokens; group tokens], then a Grouping Block.

  A stage without group tokens has no Grouping Block, and any stage may have no
  transformer block.

  Attributes:
    drop_path: a rate for each transformer block; their number is the depth.
    num_heads, mlp_ratio: of every block.
    num_group_tokens: group tokens that join the tokens here; 0 for none.
    num_output_groups: groups that leave the stage.
    grouping: options of the Grouping Block.
    init_std: of the linear kernels at the start.
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters are float32.
  """

  drop_path: Sequence[float]
  num_heads: int
  mlp_ratio: float
  num_group_tokens: int
  num_output_groups: int
  grouping: GroupingConfig
  init_std: float
  remat: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    previous: Float[Array, 'b p d'] | None,
    train: bool,
    mask: Bool[Array, 'b n'] | None = None,
  ) -> StageOutput:
    """Runs the stage.

    Args:
      x: image tokens, or groups of the stage before.
      previous: group tokens of the stage before, after its blocks.
      train: drop paths and draw Gumbel noise.
      mask: False for the tokens that are padding.
    """
    n = x.shape[1]
    if self.num_group_tokens:
      x = jnp.concatenate([x, self.group_tokens(x, previous)], axis=1)
    init = nn.initializers.normal(self.init_std)
    x = layers.run_blocks(
      self,
      x,
      self.drop_path,
      train,
      patches.key_mask(mask, after=self.num_group_tokens),
      remat=self.remat,
      num_heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      in_init=init,
      fc_init=init,
      out_init=init,
      dtype=self.dtype,
    )
    if not self.num_group_tokens:
      return StageOutput(x, None, None)
    x, groups = x[:, :n], x[:, n:]
    grouped = GroupingBlock(
      self.num_output_groups,
      self.num_heads,
      self.mlp_ratio,
      self.grouping,
      self.init_std,
      self.dtype,
      name='grouping',
    )(x, groups, train, mask)
    return StageOutput(grouped.groups, groups, grouped)

  def group_tokens(
    self, x: Float[Array, 'b n d'], previous: Float[Array, 'b p d'] | None
  ) -> Float[Array, 'b t d']:
    """Learned tokens; after a grouping stage, plus a projection of its own."""
    t, width = self.num_group_tokens, x.shape[-1]
    init = layers.NORMAL_02 if previous is None else nn.initializers.zeros
    tokens = self.param('group_tokens', init, (1, t, width)).astype(self.dtype)
    if previous is not None:
      previous = layers.layer_norm(self.dtype, 'norm_previous')(previous)
      mixer = TokenMixer(t, self.init_std, self.dtype, name='project_previous')
      tokens = tokens + mixer(previous)
    return jnp.broadcast_to(tokens, (x.shape[0], t, width))


class GroupViT(nn.Module):
  """The image encoder; the defaults are GroupViT-S.

  That is a ViT-S of 12 layers with groups after layers 6 and 9 (section 4.1;
  NVlabs/GroupViT configs/group_vit_gcc_yfcc_30e.yml).

  Attributes:
    image_size: pixels that positions are stored for; one side or (h, w).
    patch_size: side of a patch in pixels.
    width: token width.
    depths: transformer blocks per stage.
    num_heads: attention heads.
    num_group_tokens: group tokens per stage; 0: the stage does not group.
    num_output_groups: groups that leave each stage; read where it groups.
    mlp_ratio: hidden over outer width of the MLPs.
    drop_path_rate: of the last block, linear from 0 at the first.
    grouping: options of the Grouping Blocks.
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
  drop_path_rate: float = 0.1
  grouping: GroupingConfig = GroupingConfig()
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
      sizes: real (height, width) in pixels of images that lie in the top left
        corner of the padded shape; None: there is no padding.

    Returns:
      The mean of the final groups, b d, and a dict of intermediates:
        groups: b g d, final tokens after the last norm.
        token_embeddings: b n d, embeddings of the tokens that the last Grouping
          Block assigned (`Grouping.tokens`) after the last norm.
        assignments: per grouping stage, b g n soft maps without noise.
        noisy_assignments: the same with the noise of training.
        hidden: per stage, its output tokens.
        grid: (h, w) of the image tokens, plain ints.
        grids: with sizes, b 2, (h, w) of every image in tokens, else None.
          Tokens beyond it are meaningless.
    """
    self._check_layout()
    p = self.patch_size
    grid = patches.grid_size(images.shape[1:3], p)
    grids = patches.token_grids(sizes, p, grid)
    mask = patches.token_mask(grids, grid)
    x = patches.PatchEmbed(
      self.image_size, p, self.width, self.dtype, name='embed'
    )(images, grids)
    group_tokens, grouped, hidden = None, [], []
    for i, rates in enumerate(self.drop_path_rates()):
      x, group_tokens, grouping = Stage(
        rates,
        self.num_heads,
        self.mlp_ratio,
        self.num_group_tokens[i],
        self.num_output_groups[i],
        self.grouping,
        self.init_std,
        self.remat,
        self.dtype,
        name=f'stage_{i}',
      )(x, group_tokens, train, mask)
      hidden.append(x)
      if grouping is not None:
        grouped.append(grouping)
        mask = None  # groups have no padding
    norm = layers.layer_norm(jnp.float32, 'norm')
    x = norm(x)
    return patches.mean_token(x, mask), {
      'groups': x,
      'token_embeddings': norm(grouped[-1].tokens) if grouped else x,
      'assignments': tuple(stage.soft for stage in grouped),
      'noisy_assignments': tuple(stage.noisy for stage in grouped),
      'hidden': tuple(hidden),
      'grid': grid,
      'grids': grids,
    }

  def drop_path_rates(self) -> list[tuple[float, ...]]:
    """Rates of every block, grouped by stage: linear in the overall depth."""
    rates = np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist()
    ends = np.cumsum(self.depths)
    return [
      tuple(rates[end - depth : end])
      for end, depth in zip(ends, self.depths, strict=True)
    ]

  def _check_layout(self) -> None:
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
