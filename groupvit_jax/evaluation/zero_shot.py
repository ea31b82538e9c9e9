"""Class embeddings from class names: the classifier that words make.

Used alike by zero-shot classification and zero-shot segmentation.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def tokenize_classes(
  tokenizer: Callable[[Sequence[str]], np.ndarray],
  names: Sequence[str],
  templates: Sequence[str],
) -> np.ndarray:
  """Tokens of every name in every template.

  Args:
    tokenizer: texts -> int32 [n, l], padded with zeros at the end.
    names: c class names.
    templates: t prompts with one `{}` each.

  Returns:
    int32 [c, t, l'], the columns that are padding in every prompt cut off (a
    causal text encoder pooled at the end token gives the same result, and most
    prompts are far shorter than the context).

  Raises:
    ValueError: for no names, no templates, or a template without `{}`.
  """
  if not names or not templates:
    raise ValueError(
      f'Need at least one class name and one template; got {len(names)} names '
      f'and {len(templates)} templates.'
    )
  for template in templates:
    if '{}' not in template:
      raise ValueError(
        f"Template {template!r} has no place for the class name; write '{{}}' "
        "where it goes, as in 'a photo of a {}.'."
      )
  prompts = [t.replace('{}', name) for name in names for t in templates]
  tokens = np.asarray(tokenizer(prompts))
  used = np.flatnonzero((tokens != 0).any(0))
  length = int(used[-1]) + 1 if used.size else 1
  length = min(-(-length // 8) * 8, tokens.shape[1])  # few static lengths
  return tokens[:, :length].reshape(len(names), len(templates), length)


def class_embeddings(
  text_fn: Callable[..., Any],
  variables: Any,
  tokenizer: Callable[[Sequence[str]], np.ndarray],
  names: Sequence[str],
  templates: Sequence[str],
  *,
  batch_size: int = 256,
) -> Float[Array, 'c e']:
  """One unit vector per class: the mean over its prompts, normalised.

  The released code averages the prompts' embeddings as the projector gives
  them and normalises once (NVlabs/GroupViT `build_text_embedding`). What
  `text_fn` returns is averaged as it is: with one template, or with a function
  that does not normalise, this is the released form; with unit vectors and
  several templates it is CLIP's own.

  Args:
    text_fn: (variables, tokens c l) -> c e.
    variables: its first argument.
    tokenizer: texts -> int32 [n, l].
    names: c class names.
    templates: prompts with one `{}` each.
    batch_size: prompts encoded at a time.

  Returns:
    c e, float32, unit length.
  """
  tokens = tokenize_classes(tokenizer, names, templates)
  return embed_tokens(text_fn, variables, tokens, batch_size=batch_size)


def embed_tokens(
  text_fn: Callable[..., Any],
  variables: Any,
  tokens: np.ndarray,
  *,
  batch_size: int = 256,
) -> Float[Array, 'c e']:
  """`class_embeddings` from tokens [c, t, l] that are at hand already."""
  classes, templates, length = tokens.shape
  flat = tokens.reshape(-1, length)
  size = min(batch_size, len(flat))
  # Equal chunks, the last one filled up with copies: one shape, one program.
  chunks = -(-len(flat) // size)
  flat = np.pad(flat, ((0, chunks * size - len(flat)), (0, 0)), mode='edge')
  return _embed(
    text_fn, (classes, templates), variables, flat.reshape(chunks, size, length)
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(
  text_fn: Callable[..., Any],
  shape: tuple[int, int],
  variables: Any,
  tokens: Int[Array, 'm s l'],
) -> Float[Array, 'c e']:
  # text_fn is static: the program is cached by the function's identity.
  vectors = jax.lax.map(lambda chunk: text_fn(variables, chunk), tokens)
  vectors = vectors.reshape(-1, vectors.shape[-1]).astype(jnp.float32)
  classes, templates = shape
  vectors = vectors[: classes * templates].reshape(classes, templates, -1)
  return unit(vectors.mean(1))


def unit(x: Float[Array, '*b e']) -> Float[Array, '*b e']:
  """x at unit length; a zero vector stays zero (and its gradient finite)."""
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def similarity(
  a: Float[Array, '*b e'], classes: Float[Array, 'c *s e']
) -> Float[Array, '*b c']:
  """Cosines of unit vectors, in full float32.

  The default precision of accelerators would err by 1e-3, and the learned
  scale multiplies that by up to 100.

  Args:
    a: unit vectors.
    classes: unit vectors of c classes; or, with one more axis, of s names of
      each. A class is then as near as the nearest of its names: synonyms do not
      compete with each other, and one more never makes its class less likely.

  Returns:
    A cosine per class.
  """
  names = classes.reshape(-1, classes.shape[-1])
  cosines = jnp.einsum(
    '...e,ce->...c', a, names, precision=jax.lax.Precision.HIGHEST
  )
  if classes.ndim == 2:
    return cosines
  return cosines.reshape(*a.shape[:-1], *classes.shape[:2]).max(-1)
