"""Vectors of the joint space: unit norm, and averages over prompts.

Models, evaluation and inference share these, so that there is one epsilon.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def unit_norm(x: Float[ArrayLike, '*b e']) -> Float[Array, '*b e']:
  """Unit vectors in float32; the zero vector stays zero, its gradient finite.

  The epsilon sits inside the root: an empty group without residual is exactly
  zero, and the gradient of a plain norm there is NaN.
  """
  x = jnp.asarray(x, jnp.float32)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(square + 1e-8)


def average_prompts(
  embeddings: Float[ArrayLike, '*c t e'], *, normalize_each: bool = False
) -> Float[Array, '*c e']:
  """Class embeddings: unit vectors of the mean over the prompts of each class.

  Args:
    embeddings: t prompts of each class, as the text projector gives them.
    normalize_each: make every prompt a unit vector before averaging. OpenAI's
      CLIP does (notebooks/Prompt_Engineering_for_ImageNet.ipynb), the released
      GroupViT does not (NVlabs/GroupViT `build_text_embedding`).
  """
  if normalize_each:
    embeddings = unit_norm(embeddings)
  return unit_norm(jnp.mean(jnp.asarray(embeddings), axis=-2))
