"""Gradients of a batch in parts, with the negatives of the whole batch.

GradCache (Gao et al. 2021, arXiv 2101.06983). The encoders run on a part of the
batch at a time, three times in all: forward, to have everyone's features; and
forward and backward again, with the gradient that the loss of the whole batch
has with respect to these features. What follows the encoders (projectors, batch
norm and losses) sees the whole batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from groupvit_jax import sharding
from groupvit_jax.training import texts as texts_lib

Aux = tuple[Any, dict[str, jax.Array]]


class Parts(NamedTuple):
  """A `loss_fn` of a `task.Task`, in three parts.

  Attributes:
    images: `(variables, batch, rng) -> (features, batch_stats)`, by example;
      reads `params['image']` and `batch['image']`.
    texts: `(variables, texts.encoded(batch)) -> features`, by text; reads
      `params['text']`.
    head: `(variables, features of images, of texts, batch) -> (loss, aux)`.
  """

  images: Callable[..., tuple[Any, Any]]
  texts: Callable[[Mapping[str, Any], Any], Any]
  head: Callable[..., tuple[Any, Any]]

  def loss_fn(
    self, variables: Mapping[str, Any], batch: Mapping[str, Any], rng: Any
  ) -> tuple[jax.Array, Aux]:
    """The loss of a batch at once; see `task.Task`."""
    features, stats = self.images(variables, batch, rng)
    if stats:
      variables = {**variables, 'batch_stats': stats}
    texts = self.texts(variables, texts_lib.encoded(batch))
    return self.head(variables, features, texts, batch)


def gradients(
  parts: Parts,
  arguments: tuple[Mapping[str, Any], Mapping[str, Any], Any],
  count: int,
  mesh: jax.sharding.Mesh | None,
) -> tuple[Any, Aux]:
  """The gradient of `parts.loss_fn`, equal up to rounding, with less memory.

  Args:
    parts: of a task without batch norm in its encoders.
    arguments: of `loss_fn`: variables, the whole batch, the step's key. Noise
      is that of the whole batch at once.
    count: parts that the batch is encoded in; its images and texts divide by it
      times the number of devices.
    mesh: of the batch.

  Returns:
    The gradient of the parameters, and what `loss_fn` returns beside the loss.
  """
  variables, batch, rng = arguments
  params = variables['params']

  def encode_images(own: Any, piece: Any) -> Any:
    given = {**variables, 'params': {**params, 'image': own}}
    index, part = piece
    with sharding.part_of_batch(index, count, mesh):
      return parts.images(given, part, rng)[0]

  def encode_texts(own: Any, piece: Any) -> Any:
    given = {**variables, 'params': {**params, 'text': own}}
    return parts.texts(given, piece)

  def head(params: Any, *features: Any) -> tuple[jax.Array, Aux]:
    return parts.head({**variables, 'params': params}, *features, batch)

  pieces = (
    jnp.arange(count),
    sharding.parted({'image': batch['image']}, count, mesh),
  )
  image = _Encoder(encode_images, params['image'], pieces, mesh)
  pieces = sharding.parted(texts_lib.encoded(batch), count, mesh)
  text = _Encoder(encode_texts, params['text'], pieces, mesh)
  features = [sharding.joined(one.forward(), mesh) for one in (image, text)]
  differentiated = jax.grad(head, argnums=(0, 1, 2), has_aux=True)
  (grads, *slopes), aux = differentiated(params, *features)
  of_image, of_text = (sharding.parted(x, count, mesh) for x in slopes)
  grads = {
    **grads,
    'image': image.backward(of_image, grads['image']),
    'text': text.backward(of_text, grads['text']),
  }
  return grads, aux


class _Encoder(NamedTuple):
  """An encoder, its parameters, and the pieces that it encodes in turn."""

  encode: Callable[[Any, Any], Any]
  params: Any
  pieces: Any
  mesh: jax.sharding.Mesh | None

  def forward(self) -> Any:
    """Stacked features of the pieces."""
    return jax.lax.map(lambda x: self.encode(self.params, x), self.pieces)

  def backward(self, slopes: Any, total: Any) -> Any:
    """Adds to `total` the gradient, from that of the stacked features."""

    def add(total: Any, x: Any) -> tuple[Any, None]:
      piece, slope = x
      _, pull = jax.vjp(lambda own: self.encode(own, piece), self.params)
      total = jax.tree.map(jnp.add, total, pull(slope)[0])
      return sharding.split(total, self.mesh), None

    return jax.lax.scan(add, total, (self.pieces, slopes))[0]
