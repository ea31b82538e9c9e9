"""Text encoder: CLIP's causal transformer at the width that GroupViT uses.

Trained from scratch beside the image encoder (arXiv 2202.11094, section 3.2;
NVlabs/GroupViT models/transformer.py); read at its end token, the highest id.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from groupvit_jax.models import layers, ops


class TextTransformer(nn.Module):
  """The text encoder; the defaults are GroupViT's (section 4.1).

  Attributes:
    vocab_size: rows of the token embedding.
    context_length: positions that are stored.
    width, depth, num_heads, mlp_ratio: of the transformer.
    activation: a key of `ops.ACTIVATIONS`; QuickGELU in CLIP and GroupViT.
    remat: recompute activations backwards instead of keeping them.
    dtype: of the computation; parameters, softmax, output are float32.
  """

  vocab_size: int = 49408
  context_length: int = 77
  width: int = 256
  depth: int = 12
  num_heads: int = 4
  mlp_ratio: float = 4.0
  activation: str = 'quick_gelu'
  remat: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, tokens: Int[Array, 'b l']) -> Float[Array, 'b d']:
    """Encodes token ids of any length up to `context_length`.

    Args:
      tokens: ids whose highest in each row is the end token. What follows it
        has no influence (the attention is causal), so rows may be cut there.

    Returns:
      The last layer's normed output at the first end token, float32.
    """
    length = tokens.shape[1]
    if length > self.context_length:
      raise ValueError(
        f'{length} tokens exceed context_length {self.context_length}; cut '
        'the texts or build the model with a longer context'
      )
    normal = nn.initializers.normal
    if self.has_variable('params', 'tokens'):
      # A training step may pass the rows that it uses, and ids among these.
      table = self.get_variable('params', 'tokens')
    else:
      shape = self.vocab_size, self.width
      table = self.param('tokens', normal(0.02), shape)
    positions = self.param(
      'positions', normal(0.01), (self.context_length, self.width)
    )
    x = (table[tokens] + positions[:length]).astype(self.dtype)
    # CLIP's standard deviations, by width and depth.
    width = self.width
    options = {
      'num_heads': self.num_heads,
      'mlp_ratio': self.mlp_ratio,
      'activation': ops.ACTIVATIONS[self.activation],
      'in_init': normal(width**-0.5),
      'fc_init': normal((2 * width) ** -0.5),
      'out_init': normal(width**-0.5 * (2 * self.depth) ** -0.5),
      'torch_biases': True,
      'causal': True,
      'dtype': self.dtype,
    }
    rates = (0.0,) * (self.depth - 1)
    x = layers.run_blocks(
      self, x, rates, False, None, remat=self.remat, **options
    )
    # The last block is needed at the end token alone.
    end = tokens.argmax(axis=1)
    x = layers.Block(name=f'block_{self.depth - 1}', **options)(x, read=end)
    return layers.layer_norm(jnp.float32, 'norm')(x[:, 0])
