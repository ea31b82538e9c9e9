"""Pictures and texts as unit vectors: the encoders of a trained model."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float32

from groupvit_jax import (
  errors,
  inference_batches,
  inference_programs,
  inference_words,
  threads,
)
from groupvit_jax.benchmarks import build as build_lib
from groupvit_jax.data import images as images_lib
from groupvit_jax.data.images import Source
from groupvit_jax.evaluation import windows
from groupvit_jax.models import build
from groupvit_jax.text import tokenizer as tokenizers


class Encoder:
  """The encoders of a trained model.

  Attributes:
    architecture: its plain description (`models.build`).
    metadata: where it comes from, and what was measured.
    variables: params and batch_stats.
    module: the `DualEncoder`.
    image_size: (h, w) in pixels of the pictures it was trained on.
    short_side: pictures are segmented at, unless the config says otherwise.
  """

  def __init__(self, source: Any, *, dtype: DTypeLike = jnp.float32):
    """Builds the model.

    Args:
      source: architecture, variables, tokenizer, preprocessing and metadata, as
        `convert.load_source` returns them.
      dtype: of the computation.
    """
    self.architecture: Mapping[str, Any] = source.architecture
    self.metadata: Mapping[str, Any] = source.metadata
    self.module = build.build(source.architecture, dtype=dtype)
    self.variables = jax.tree.map(jnp.asarray, source.variables)
    size = source.architecture['image']['image_size']
    self.image_size = (size, size) if isinstance(size, int) else tuple(size)
    preprocessing = source.preprocessing
    self.short_side: int = preprocessing['short_side']
    self._tokenizer_name = source.tokenizer
    self._programs = inference_programs.Programs(
      self.module, preprocessing['mean'], preprocessing['std']
    )

  def encode_image(
    self, images: Source | Sequence[Source], *, batch_size: int = 32
  ) -> Float32[np.ndarray, '*b e']:
    """Unit vectors of pictures: their middle square, as in classification.

    A picture's shorter side is scaled to 8/7 of the training size, bilinearly
    with antialiasing, and its middle cut out (CLIP's ViT: to the training size
    itself, bicubically).

    Args:
      images: a list as in `segment`, or a single one, which gives one vector.
      batch_size: pictures that go through the network together.

    Returns:
      float32, unit length.
    """
    inference_batches.check_batch_size(batch_size)
    chunks = threads.ahead(
      lambda item: images_lib.crop(
        images_lib.open_image(*item),
        self.image_size,
        clip=self.architecture['image_encoder'] == 'clip_vit',
      ),
      images_lib.named(images),
      batch_size,
    )
    vectors = [self.encode_pixels(np.stack(chunk)) for chunk in chunks]
    vectors = np.concatenate(vectors)
    return vectors if images_lib.is_list(images) else vectors[0]

  def encode_pixels(
    self, pixels: np.ndarray | jax.Array
  ) -> Float32[np.ndarray, 'b e']:
    """Unit vectors of pictures that are at hand as arrays.

    Args:
      pixels: float32 [b, h, w, 3], normalised already; or uint8, which the
        model's mean and deviation are applied to. Every h and w is compiled for
        once; b is padded.

    Returns:
      float32, unit length.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels):
      raise images_lib.ImageError(
        f'pixels are [b, h, w, 3], not {list(pixels.shape)}.'
      )
    if pixels.dtype != np.uint8:
      pixels = pixels.astype(np.float32)
    extra = windows.bucket(len(pixels)) - len(pixels)
    padded = np.pad(pixels, ((0, extra), (0, 0), (0, 0), (0, 0)))
    vectors = self._programs.image(self.variables, padded)
    return np.asarray(vectors)[: len(pixels)]

  def encode_text(
    self, texts: str | Sequence[str]
  ) -> Float32[np.ndarray, '*b e']:
    """Unit vectors of texts as they are; of one text, one vector."""
    if isinstance(texts, str):
      return self._text_encoder([texts])[0]
    if not len(texts):
      raise inference_words.LabelError('The list of texts is empty.')
    return self._text_encoder(list(texts))

  @property
  def predict_fns(self) -> Mapping[str, Callable[..., Any]]:
    """What evaluators call: the contract of docs/architecture.md.

    Pure functions of (variables, inputs), the same objects every time. Pixels
    are normalised by the model's own mean and deviation, and 'scale' is the
    learned temperature.
    """
    return self._programs.predict_fns

  @property
  def patch_size(self) -> int:
    """Side of a token in pixels."""
    return self._programs.patch_size

  @property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """Texts to rows of ids. ModelError if the model came without its own."""
    return self._text_encoder.tokenizer

  def as_encoder(self) -> build_lib.Encoder:
    """What `build.make` has to know of the model."""
    kind = self.architecture['image_encoder']
    return build_lib.Encoder(
      tokenizer=self.tokenizer,
      image_size=self.image_size,
      patch_size=self.patch_size,
      groups=self.groups,
      clip=kind == 'clip_vit',
    )

  @property
  def groups(self) -> bool:
    """Whether it groups pixels, as a ViT does not."""
    return any(self.architecture['image'].get('num_group_tokens', ()))

  def __repr__(self) -> str:
    count = sum(x.size for x in jax.tree.leaves(self.variables['params']))
    kind = self.architecture['image_encoder']
    return f'{type(self).__name__}({kind}, {count:,} parameters)'

  @functools.cached_property
  def scale(self) -> float:
    """The learned temperature, which multiplies cosines."""
    return float(self._programs.scale(self.variables))

  @functools.cached_property
  def _text_encoder(self) -> inference_words.TextEncoder:
    if self._tokenizer_name is None:
      raise errors.ModelError(
        'this model came without its tokenizer, and cannot read words; convert '
        'it from a source that has one'
      )
    tokenizer = tokenizers.make_tokenizer(
      self._tokenizer_name, self.architecture['text']['context_length']
    )
    return inference_words.TextEncoder(
      lambda tokens: self._programs.text(self.variables, tokens), tokenizer
    )
