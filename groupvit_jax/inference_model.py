"""A trained model and what it is asked for: segments, classes, embeddings.

The released inference is the default, and every step of it an option of
`SegmentConfig`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from groupvit_jax import (
  errors,
  inference_batches,
  inference_words,
  threads,
)
from groupvit_jax.data import images as images_lib
from groupvit_jax.data.images import Source
from groupvit_jax.evaluation import background as background_rules
from groupvit_jax.evaluation import windows
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.inference_encoder import Encoder
from groupvit_jax.inference_result import Segmentation

# Of VOC and COCO (Context: .35), and of the original's demo.
BACKGROUND_THRESHOLD = 0.95
RELEASED = SegmentConfig(background_threshold=BACKGROUND_THRESHOLD)

_READ_AHEAD = 2  # batches


class Model(Encoder):
  """A trained model, ready to be asked.

  Attributes:
    config: how it segments unless told otherwise: as released, with the gate
      (`top_k`) that a run of one's own was evaluated with.
    others: see `Encoder`.
  """

  def __init__(self, source: Any, *, dtype: DTypeLike = jnp.float32):
    """Builds the model; see `Encoder`."""
    super().__init__(source, dtype=dtype)
    top_k = source.preprocessing.get('top_k', RELEASED.top_k)
    self.config = dataclasses.replace(RELEASED, top_k=top_k)

  def segment(
    self,
    images: Source | Sequence[Source],
    names: Sequence[str],
    config: SegmentConfig | None = None,
    *,
    templates: str | Sequence[str] = 'simple',
    background: bool | None = None,
    batch_size: int = 8,
  ) -> Segmentation | list[Segmentation]:
    """Finds the named classes in pictures.

    Args:
      images: a path, bytes, PIL image or uint8 array [H, W, 3], or a list.
      names: of the classes; synonyms as 'person|man|woman'. A picture or group
        is as near to a class as to the nearest of its names.
      config: every step of the inference; None for the model's own (`config`):
        the released one, with a background at threshold .95. To change a field
        of that: `dataclasses.replace(model.config, ...)`.
      templates: prompts that names are put into: simple, subset, full, or your
        own with '{}'.
      background: whether class 0 is what no other class claims. None follows
        the config, which has a background if it has a threshold; True without a
        threshold takes .95.
      batch_size: pictures (or windows) that go through the network together.

    Returns:
      A result per picture: a list if `images` is one.

    Raises:
      ImageError, LabelError: a picture or list of names that cannot be used.
      errors.ModelError: the model does not group.
    """
    results = self.segment_each(
      images,
      names,
      config,
      templates=templates,
      background=background,
      batch_size=batch_size,
    )
    return list(results) if images_lib.is_list(images) else next(results)

  def segment_each(
    self,
    images: Source | Sequence[Source],
    names: Sequence[str],
    config: SegmentConfig | None = None,
    *,
    templates: str | Sequence[str] = 'simple',
    background: bool | None = None,
    batch_size: int = 8,
  ) -> Iterator[Segmentation]:
    """`segment`, result by result: for more pictures than memory holds."""
    inference_batches.check_batch_size(batch_size)
    config = _with_background(config or self.config, background)
    background = config.background_threshold is not None
    self._check_groups()
    plan = windows.plan(config, self.short_side, self._programs.patch_size)
    words, shown = self._words(names, templates, background)
    _check_thresholds(config, len(shown) - background)
    chunks = threads.ahead(
      lambda item: inference_batches.prepare(*item, plan),
      images_lib.named(images),
      _READ_AHEAD * batch_size,
    )
    return self._segment(chunks, words, shown, plan, config, batch_size)

  def _segment(self, chunks, words, names, plan, config, batch_size):
    for pictures in chunks:
      fields = inference_batches.fields(
        self._programs,
        self.variables,
        pictures,
        words,
        plan,
        config,
        batch_size,
      )
      background = config.background_threshold is not None
      for picture, field in zip(pictures, fields, strict=True):
        yield Segmentation(picture.image, names, background, field)

  def classify(
    self,
    images: Source | Sequence[Source],
    names: Sequence[str],
    *,
    templates: str | Sequence[str] = 'subset',
    batch_size: int = 32,
  ) -> dict[str, float] | list[dict[str, float]]:
    """How probable each class is, of a picture as a whole.

    Args:
      images, names: as in `segment`.
      templates: the same; by default those of the released ImageNet figures.
      batch_size: pictures that go through the network together.

    Returns:
      Probability by name (of synonyms the first), the most probable first; a
      list of them if `images` is one.
    """
    words, shown = self._words(names, templates, background=False)
    several = images_lib.is_list(images)
    pictures = self.encode_image(
      images if several else [images], batch_size=batch_size
    )
    text = np.asarray(words.text)[: len(shown)]
    cosines = np.einsum('be,cse->bcs', pictures, text).max(-1)
    logits = cosines * float(words.scale)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    odds /= odds.sum(-1, keepdims=True)
    ranked = [
      {shown[i]: float(row[i]) for i in np.argsort(-row, kind='stable')}
      for row in odds
    ]
    return ranked if several else ranked[0]

  def _words(self, names, templates, background):
    """The classes as the network compares them, and as results show them."""
    vocabulary = inference_words.vocabulary(names, background)
    text, valid = inference_words.class_matrix(
      self._text_encoder, vocabulary, inference_words.templates_of(templates)
    )
    words = inference_batches.Words(
      jnp.asarray(text), jnp.asarray(valid), jnp.float32(self.scale)
    )
    first = (inference_words.BACKGROUND,) if background else ()
    return words, first + vocabulary.names

  def _check_groups(self):
    if not self.groups:
      raise errors.ModelError(
        'this model does not group pixels and cannot segment; classify, '
        'encode_image and encode_text work with it'
      )


def _check_thresholds(config: SegmentConfig, classes: int) -> None:
  if config.class_thresholds is not None:
    with errors.explained_as(inference_words.LabelError):
      background_rules.check_count(len(config.class_thresholds), classes)


def _with_background(
  config: SegmentConfig, background: bool | None
) -> SegmentConfig:
  if background is None:
    return config
  threshold = config.background_threshold if background else None
  if background and threshold is None:
    threshold = BACKGROUND_THRESHOLD
  return dataclasses.replace(config, background_threshold=threshold)
