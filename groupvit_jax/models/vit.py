"""Image encoders without groups: the ViT baseline, and OpenAI CLIP's ViT.

`ViT` has the embedding, blocks and pooling of GroupViT, so that a comparison
(the paper's Table 4) changes the grouping and nothing else. `ClipViT` (arXiv
2103.00020, openai/CLIP model.py) is what a CLIP checkpoint holds: a class token
that is read at the end, QuickGELU, a norm before the blocks, no bias in the
patch embedding.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from groupvit_jax.models import layers, ops, patches


class ViT(nn.Module):
  """The image encoder of the baseline.

  Attributes:
    image_size: pixels that positions are stored for; one side or (h, w).
    patch_size: side of a patch in pixels.
    width, depth, num_heads, mlp_ratio: of the transformer.
    drop_path_rate: of the last block, linear from 0 at the first.
    init_std: of the linear kernels at the start (see `groupvit.GroupViT`).
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters, softmax, outputs are float32.
  """

  image_size: int | Sequence[int] = 224
  patch_size: int = 16
  width: int = 384
  depth: int = 12
  num_heads: int = 6
  mlp_ratio: float = 4.0
  drop_path_rate: float = 0.1
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
      train: drop paths, from the rng collection 'drop_path'.
      sizes: real (height, width) in pixels of images that lie in the top left
        corner of the padded shape; None: there is no padding.

    Returns:
      The mean of the patch tokens, b d, and a dict: tokens (b n d, after the
      last norm); grid (their (h, w), plain ints); grids (with sizes, b 2, the
      same of every image, else None; tokens beyond are meaningless).
    """
    p = self.patch_size
    grid = patches.grid_size(images.shape[1:3], p)
    grids = patches.token_grids(sizes, p, grid)
    mask = patches.token_mask(grids, grid)
    x = patches.PatchEmbed(
      self.image_size, p, self.width, self.dtype, name='embed'
    )(images, grids)
    init = nn.initializers.normal(self.init_std)
    x = layers.run_blocks(
      self,
      x,
      np.linspace(0, self.drop_path_rate, self.depth).tolist(),
      train,
      patches.key_mask(mask),
      remat=self.remat,
      num_heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      in_init=init,
      fc_init=init,
      out_init=init,
      dtype=self.dtype,
    )
    x = layers.layer_norm(jnp.float32, 'norm')(x)
    out = {'tokens': x, 'grid': grid, 'grids': grids}
    return patches.mean_token(x, mask), out


class ClipViT(nn.Module):
  """The image encoder of a CLIP checkpoint.

  Attributes:
    image_size: pixels that positions are stored for; one side or (h, w).
    patch_size: side of a patch in pixels.
    width, depth, num_heads, mlp_ratio: of the transformer.
    activation: a key of `ops.ACTIVATIONS`; OpenAI's is QuickGELU.
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters, softmax, outputs are float32.
  """

  image_size: int | Sequence[int] = 224
  patch_size: int = 32
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_ratio: float = 4.0
  activation: str = 'quick_gelu'
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
      train: changes nothing; for the interface of image encoders.
      sizes: as in `ViT`.

    Returns:
      The class token, b d, and a dict: tokens (b n d, of the patches), both
      after the last norm; grid and grids as in `ViT`.
    """
    p = self.patch_size
    grid = patches.grid_size(images.shape[1:3], p)
    grids = patches.token_grids(sizes, p, grid)
    x = patches.ClipEmbed(
      self.image_size, p, self.width, self.dtype, name='embed'
    )(images, grids)
    x = layers.layer_norm(self.dtype, 'norm_pre')(x)
    options = {
      'num_heads': self.num_heads,
      'mlp_ratio': self.mlp_ratio,
      'activation': ops.ACTIVATIONS[self.activation],
      'in_init': nn.initializers.xavier_uniform(),
      'fc_init': layers.TORCH_DEFAULT,
      'out_init': layers.TORCH_DEFAULT,
      'torch_biases': True,
      'dtype': self.dtype,
    }
    mask = patches.key_mask(patches.token_mask(grids, grid), before=1)
    rates = (0.0,) * (self.depth - 1)
    x = layers.run_blocks(
      self, x, rates, train, mask, remat=self.remat, **options
    )
    pooled = x[:, :1]
    if self.depth:
      last = layers.Block(name=f'block_{self.depth - 1}', **options)
      # The class token by itself: where nobody reads the others, the compiler
      # leaves out most of their last block.
      pooled = last(x, mask, jnp.zeros(len(x), jnp.int32))
      x = last(x, mask)
    norm = layers.layer_norm(jnp.float32, 'norm')
    out = {'tokens': norm(x[:, 1:]), 'grid': grid, 'grids': grids}
    return norm(pooled)[:, 0], out
