"""Class embeddings from class names, for classification and segmentation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from groupvit_jax import embeddings
from groupvit_jax.text import prompts


def tokenize_classes(
  tokenizer: Callable[[Sequence[str]], np.ndarray],
  names: Sequence[str],
  templates: Sequence[str],
) -> np.ndarray:
  """Tokens of every name in every template.

  Args:
    tokenizer: texts -> int32 [n, l], padded with zeros at the end.
    names: c class names; synonyms as in 'person|man|woman'.
    templates: t prompts with one `{}` each.

  Returns:
    int32 [c, t, l'], the columns that are padding in every prompt cut off (a
    causal text encoder pooled at the end token gives the same result, and most
    prompts are far shorter than the context). If a class has synonyms,
    [c, s, t, l']: one with fewer names has its first one again, which changes
    no maximum.

  Raises:
    ValueError: for no names, an empty one, no templates, or a template without
      `{}`.
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
  words = [_names_of(name) for name in names]
  most = max(map(len, words))
  words = [row + row[:1] * (most - len(row)) for row in words]
  flat = [word for row in words for word in row]
  tokens = cut_padding(
    tokenizer([prompts.fill(t, word) for word in flat for t in templates])
  )
  shape = (len(names), most) if most > 1 else (len(names),)
  return tokens.reshape(*shape, len(templates), -1)


def tokenize_texts(
  tokenizer: Callable[[Sequence[str]], np.ndarray],
  texts: Sequence[str],
  template: str = '{}',
) -> np.ndarray:
  """Tokens [n, 1, l'] of texts as they are, as `embed_tokens` takes them."""
  texts = [prompts.fill(template, text) for text in texts]
  return cut_padding(tokenizer(texts))[:, None]


def cut_padding(
  tokens: Int[np.ndarray, 'n l'], lengths: Sequence[int] = range(8, 1024, 8)
) -> Int[np.ndarray, 'n cut']:
  """Leaves out columns of padding; a causal encoder never sees them.

  Args:
    tokens: padded with zeros at the end.
    lengths: that rows may be cut to, in order; few, as each is compiled.
  """
  tokens = np.asarray(tokens)
  used = int(np.flatnonzero((tokens != 0).any(0)).max(initial=0)) + 1
  return tokens[:, : next((n for n in lengths if used <= n), None)]


def _names_of(name: str) -> tuple[str, ...]:
  words = prompts.synonyms(name)
  if not all(words):
    raise ValueError(f'Class name {name!r} is empty, or a part of it is.')
  return words


def class_embeddings(
  text_fn: Callable[..., Any],
  variables: Any,
  tokenizer: Callable[[Sequence[str]], np.ndarray],
  names: Sequence[str],
  templates: Sequence[str],
  *,
  normalize_each: bool = False,
) -> Float[Array, 'c *s e']:
  """A unit vector per class name; see `tokenize_classes`, `embed_tokens`."""
  tokens = tokenize_classes(tokenizer, names, templates)
  return embed_tokens(text_fn, variables, tokens, normalize_each=normalize_each)


def embed_tokens(
  text_fn: Callable[..., Any],
  variables: Any,
  tokens: np.ndarray,
  *,
  normalize_each: bool = False,
  batch_size: int = 256,
) -> Float[Array, 'c *s e']:
  """A unit vector per class name: the mean over its prompts, normalised.

  Args:
    text_fn: (variables, tokens c l) -> c e, as the projector gives them.
    variables: its first argument.
    tokens: int32 c *s t l, from `tokenize_classes` or `tokenize_texts`.
    normalize_each: see `embeddings.average_prompts`.
    batch_size: prompts encoded at a time.

  Returns:
    c e, float32, unit length; c s e if a class has synonyms (`similarity` takes
    the nearest of them).
  """
  length = tokens.shape[-1]
  # Classes with fewer synonyms repeat a name: no prompt is encoded twice.
  rows, places = np.unique(
    tokens.reshape(-1, length), axis=0, return_inverse=True
  )
  size = min(batch_size, len(rows))
  # Equal chunks, the last one filled up with copies: one shape, one program.
  chunks = -(-len(rows) // size)
  rows = np.pad(rows, ((0, chunks * size - len(rows)), (0, 0)), mode='edge')
  return _embed(
    text_fn,
    normalize_each,
    variables,
    rows.reshape(chunks, size, length),
    places.reshape(tokens.shape[:-1]).astype(np.int32),
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(
  text_fn: Callable[..., Any],
  normalize_each: bool,
  variables: Any,
  tokens: Int[Array, 'm k l'],
  places: Int[Array, 'c *s t'],
) -> Float[Array, 'c *s e']:
  # text_fn is static: the program is cached by the function's identity.
  vectors = jax.lax.map(lambda chunk: text_fn(variables, chunk), tokens)
  vectors = vectors.reshape(-1, vectors.shape[-1]).astype(jnp.float32)
  return embeddings.average_prompts(
    vectors[places], normalize_each=normalize_each
  )
