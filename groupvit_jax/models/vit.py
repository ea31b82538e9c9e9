"""CLIP-style ViT: the baseline image encoder, without groups.

The same embedding, blocks and pooling as GroupViT, so that a comparison (the
paper's Table 4) changes the grouping and nothing else.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from groupvit_jax.models import layers, ops, patches
from groupvit_jax.models import patches as patches_lib


class ViT(nn.Module):
  """The image encoder.

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
      sizes: real (height, width) in pixels of pictures that lie in the top left
        corner of their canvas; None: the canvas is the picture.

    Returns:
      The mean of the patch tokens, b d, and a dict: tokens (b n d, after the
      last norm); grid (their (h, w), plain ints); with sizes, grids (b 2, the
      same of every picture; tokens beyond mean nothing).
    """
    p = self.patch_size
    grid = patches.grid_size(images.shape[1:3], p)
    grids = patches_lib.token_grids(sizes, p, grid)
    mask = patches_lib.token_mask(grids, grid)
    x = patches.PatchEmbed(
      self.image_size, p, self.width, self.dtype, name='embed'
    )(images, grids)
    block = layers.block_class(self.remat)
    rates = np.linspace(0, self.drop_path_rate, self.depth).tolist()
    init = nn.initializers.normal(self.init_std)
    for i, rate in enumerate(rates):
      x = block(
        self.num_heads,
        self.mlp_ratio,
        rate,
        in_init=init,
        fc_init=init,
        out_init=init,
        dtype=self.dtype,
        name=f'block_{i}',
      )(x, train, patches_lib.key_mask(mask))
    x = layers.layer_norm(jnp.float32, 'norm')(x)
    out = {'tokens': x, 'grid': grid}
    if grids is not None:
      out['grids'] = grids
    return patches_lib.mean(x, mask), out


# OpenAI CLIP's vision transformer (arXiv 2103.00020, openai/CLIP model.py).
#
# A CLIP checkpoint holds: a class token that is read at the end, QuickGELU,
# a norm before the blocks, no bias in the patch embedding. `vit.ViT` is the
# baseline that is trained here.


class ClipViT(nn.Module):
  """The image encoder.

  Attributes:
    image_size: pixels that positions are stored for; one side or (h, w).
    patch_size: side of a patch in pixels.
    width, depth, num_heads, mlp_ratio: of the transformer.
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters, softmax, outputs are float32.
  """

  image_size: int | Sequence[int] = 224
  patch_size: int = 32
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_ratio: float = 4.0
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
      sizes: real (height, width) in pixels of pictures that lie in the top left
        corner of their canvas; None: the canvas is the picture.

    Returns:
      The class token, b d, and a dict: tokens (b n d, of the patches), both
      after the last norm; grid (the patches' (h, w), plain ints); with sizes,
      grids (b 2, the same of every picture; tokens beyond mean nothing).
    """
    p = self.patch_size
    grid = patches.grid_size(images.shape[1:3], p)
    grids = patches_lib.token_grids(sizes, p, grid)
    mask = patches_lib.key_mask(patches_lib.token_mask(grids, grid), before=1)
    x = patches.ClipEmbed(
      self.image_size, p, self.width, self.dtype, name='embed'
    )(images, grids)
    x = layers.layer_norm(self.dtype, 'norm_pre')(x)
    block = layers.block_class(self.remat)
    for i in range(self.depth):
      x = block(
        self.num_heads,
        self.mlp_ratio,
        activation=ops.quick_gelu,
        in_init=nn.initializers.xavier_uniform(),
        fc_init=layers.TORCH_DEFAULT,
        out_init=layers.TORCH_DEFAULT,
        torch_biases=True,
        dtype=self.dtype,
        name=f'block_{i}',
      )(x, train, mask)
    x = layers.layer_norm(jnp.float32, 'norm')(x)
    out = {'tokens': x[:, 1:], 'grid': grid}
    if grids is not None:
      out['grids'] = grids
    return x[:, 0], out
