"""Encoded images: ask them for classes again without a second forward pass."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import UInt8

from groupvit_jax.evaluation import regrouping, scoring, sizes
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions
from groupvit_jax.inference.result import Segmentation

if TYPE_CHECKING:
  from groupvit_jax.inference.model import Model


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageRegions:
  """An image after the network: all that does not depend on words.

  Attributes:
    image: its RGB pixels, as they were read (turned upright, say).
    regions: embeddings and soft maps, a batch of one (numpy).
    scaled: (h, w) at which the network saw the image.
    shapes: the padded shapes of that.
    config: the config that it was encoded with.
    model: its model.
  """

  image: UInt8[np.ndarray, 'h w 3']
  regions: Regions
  scaled: sizes.Size
  shapes: sizes.Shapes
  config: SegmentConfig
  model: 'Model'

  def segment(
    self,
    names: Sequence[str],
    config: SegmentConfig | None = None,
    *,
    templates: str | Sequence[str] = 'simple',
    background: bool | None = None,
  ) -> Segmentation:
    """Finds the named classes in the image.

    Args:
      names, templates, background: as in `Model.segment`.
      config: None for the one that the image was encoded with.

    Raises:
      LabelError: a list of names that cannot be used.
      ValueError: the config wants another size, other windows, or regroups
        when the first one did not; encode again.
    """
    config = config or self.config
    if self.model.plan(config) != self.model.plan(self.config):
      raise ValueError(
        'The image was encoded at another size or with other windows; encode '
        'it again with this config.'
      )
    return self.find(
      self.model.class_list(names, config, templates, background)
    )

  def find(self, classes: 'ClassList') -> Segmentation:
    """`segment`, of classes whose embeddings are at hand."""
    regions = regrouping.apply(self.regions, classes.config)
    scores = scoring.score(regions, classes.embeddings, classes.config)
    regions, scores = jax.device_get((regions, scores))
    return Segmentation(
      self.image,
      classes.names,
      classes.config.background_threshold is not None,
      regions,
      scores,
      self.scaled,
      self.shapes,
      classes.config,
    )

  def __repr__(self) -> str:
    height, width = self.image.shape[:2]
    return f'ImageRegions({width} x {height})'


@dataclasses.dataclass(frozen=True)
class ClassList:
  """Classes to look for.

  Attributes:
    embeddings: padded to a static number.
    names: as results show them, the background first if there is one.
    config: see `SegmentConfig`.
  """

  embeddings: scoring.ClassEmbeddings
  names: tuple[str, ...]
  config: SegmentConfig
