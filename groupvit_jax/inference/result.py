"""Results of segmentation: labels, scores, and images of them.

Everything at the image's own size is computed when it is first asked for.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from groupvit_jax.evaluation import labelling, resize, sizes
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.scoring import Scores
from groupvit_jax.viz import overlay as overlay_lib

if TYPE_CHECKING:
  from groupvit_jax.inference.regions import ImageRegions

_CLASSES = 8  # that are upsampled together
# Entropy above which a result is unsure. Of a model trained on `scenes`, 24
# scenes have at most .06 for their own 19 classes, .74 in the median (.60 to
# .83) for eight words it never met; without training .98 and more. Photos have
# .05 to .21 for these classes: entropy does not tell them.
UNSURE = 0.35


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
  """A segmented image.

  Attributes:
    encoded: the image and its groups.
    names: of the classes, in the order of labels and scores; of synonyms the
      first. With a background, names[0] is 'background'.
    background: whether class 0 is the background.
    region_scores: of `encoded.regions`; classes beyond `names` are padding.
    config: how labels follow from regions and scores.
    entropy: of the classes of a group, averaged over the image: 0 where one
      class has all the probability, 1 where all are alike.
  """

  encoded: 'ImageRegions'
  names: tuple[str, ...]
  background: bool
  region_scores: Scores
  config: SegmentConfig
  entropy: float

  @property
  def unsure(self) -> bool:
    """Whether no class stands out: untrained, or not the words for it."""
    return self.entropy > UNSURE

  @property
  def image(self) -> UInt8[np.ndarray, 'h w 3']:
    """Its RGB pixels, as they were read (turned upright, say)."""
    return self.encoded.image

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the image."""
    return self.image.shape[:2]

  @property
  def groups(self) -> list[Int32[np.ndarray, 'h w']]:
    """See `ImageRegions.groups`."""
    return self.encoded.groups

  @functools.cached_property
  def labels(self) -> Int32[np.ndarray, 'h w']:
    """The class of each pixel, an index into `names`."""
    classes = len(self.names) - self.background
    count = self.region_scores.classes.shape[-1] - self.background
    regions, scores, shapes, output = self._label_inputs
    valid = np.arange(count) < classes
    labels = labelling.label(
      regions, scores, shapes, output, self.config, valid
    )
    return self._cut(labels)

  @functools.cached_property
  def scores(self) -> Float32[np.ndarray, 'k h w']:
    """The score of every class at every pixel; `labels` is its argmax.

    4 bytes for each class and pixel: 7 GB for 150 classes of a 12-megapixel
    photo, where `labels` and `mean_scores` need 48 MB.
    """
    regions, scores, shapes, output = self._label_inputs
    pixels = labelling.class_scores(regions, scores, shapes, self.config)
    out = np.empty((len(self.names), *self.size), np.float32)
    for start in range(0, len(out), _CLASSES):
      # The last ones again, rather than another shape.
      start = min(start, max(pixels.shape[-1] - _CLASSES, 0))
      some = pixels[..., start : start + _CLASSES]
      some = self._cut(labelling.upsampled(some, output)).transpose(2, 0, 1)
      out[start : start + _CLASSES] = some[: len(out) - start]
    return out

  def areas(self) -> dict[str, int]:
    """Pixels of each class that was found."""
    counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
    return {
      name: int(n) for name, n in zip(self.names, counts, strict=True) if n
    }

  def boxes(self) -> dict[str, tuple[int, int, int, int]]:
    """(x, y, width, height) around each class that was found, in pixels."""
    boxes = {}
    for i, name in enumerate(self.names):
      mask = self.labels == i
      if mask.any():
        x, y = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
        boxes[name] = (
          int(x[0]),
          int(y[0]),
          int(x[-1] - x[0] + 1),
          int(y[-1] - y[0] + 1),
        )
    return boxes

  def mean_scores(self) -> dict[str, float]:
    """Mean score of each class that was found, over the pixels it won."""
    return self._mean_scores

  @functools.cached_property
  def _mean_scores(self):
    won = labelling.winning_scores(*self._label_inputs, self.config)
    total = np.bincount(
      self.labels.ravel(), self._cut(won).ravel(), len(self.names)
    )
    return {
      name: float(total[self.names.index(name)] / area)
      for name, area in self.areas().items()
    }

  def summary(self) -> dict[str, Any]:
    """The result as plain values, for JSON.

    Returns:
      Size in pixels, names, entropy; for every class in the image its id (the
      mask's value), name, area in pixels, share of the image, box [x, y, width,
      height], mean score over its pixels (none for the background), and mask as
      COCO's run lengths.
    """
    from pycocotools import mask as coco

    areas, boxes, scores = self.areas(), self.boxes(), self.mean_scores()
    classes = []
    for i, name in enumerate(self.names):
      if name not in areas:
        continue
      mask = np.asfortranarray(self.labels == i, np.uint8)
      # pycocotools declares text, and makes bytes.
      counts = coco.encode(mask)['counts'].decode()  # pyright: ignore[reportAttributeAccessIssue]
      entry = {
        'id': i,
        'name': name,
        'area': areas[name],
        'share': round(areas[name] / mask.size, 6),
        'box': list(boxes[name]),
        'score': round(scores[name], 6),
        'rle': {'size': list(self.size), 'counts': counts},
      }
      if self.background and i == 0:
        del entry['score']
      classes.append(entry)
    height, width = self.size
    return {
      'width': width,
      'height': height,
      'names': list(self.names),
      'background': self.background,
      'entropy': round(self.entropy, 6),
      'classes': classes,
    }

  def overlay(self, max_side: int | None = 2048) -> Image.Image:
    """The image with its classes in colour, their names, and a legend."""
    return Image.fromarray(
      overlay_lib.class_map(
        self.labels,
        self.names,
        self.image,
        background=self.background,
        max_side=max_side,
        scores=self.mean_scores(),
      )
    )

  def pred(self, max_side: int | None = 2048) -> Image.Image:
    """The classes alone, in colour, with names and a legend."""
    shown = overlay_lib.class_map(
      self.labels, self.names, background=self.background, max_side=max_side
    )
    return Image.fromarray(shown)

  def mask(self) -> Image.Image:
    """The labels as a palette image: a pixel's value is its class."""
    return overlay_lib.palette_image(
      self.labels, self.names, background=self.background
    )

  def groups_overlay(
    self, stage: int = -1, max_side: int | None = 2048
  ) -> Image.Image:
    """See `ImageRegions.groups_overlay`."""
    return self.encoded.groups_overlay(stage, max_side)

  @functools.cached_property
  def _label_inputs(self):
    encoded = self.encoded
    shape = sizes.output_shape(self.size, encoded.shapes.scaled)
    output = resize.upsampling([encoded.scaled], [self.size], shape)
    return encoded.regions, self.region_scores, encoded.shapes, output

  def _cut(self, pixels):
    """Of a padded batch of one: the image, as a numpy copy."""
    height, width = self.size
    # On the host: a slice of a device array is a program for every size.
    return np.asarray(pixels)[0, :height, :width].copy()

  def __repr__(self) -> str:
    height, width = self.size
    return f'Segmentation({width} x {height}, names={list(self.names)})'
