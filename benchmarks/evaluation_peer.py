"""The released protocol on transformers' GroupViT: what `evaluation.py` beats.

As NVlabs/GroupViT and mmsegmentation go about it: an image at a time, a window
at a time, every window encoded twice (for its groups, and for their maps), and
scores of all classes upsampled to the labels. Written here in PyTorch.
"""

import functools

import inference_peer
import numpy as np
import torch
from torch.nn import functional

from groupvit_jax.evaluation import sizes

LINEAR = 'bilinear'


class Segmenter:
  """One model under the protocol.

  Attributes:
    encodings: how often a window is encoded: 2 as released.
  """

  def __init__(
    self,
    peer: inference_peer.Peer,
    text: torch.Tensor,
    plan: sizes.Plan,
    threshold: float,
    encodings: int = 2,
  ):
    """Takes the model.

    Args:
      peer: the model at the size of the windows.
      text: unit vectors of the classes, without the background.
      plan: sizes and windows, the same as ours.
      threshold: of the background.
      encodings: 1 leaves out the second.
    """
    self.encodings = encodings
    self._peer = peer
    self._text = text
    self._plan = plan
    self._threshold = threshold

  @torch.inference_mode()
  def labels(self, image: np.ndarray) -> torch.Tensor:
    """A class for each pixel, 0 being the background."""
    scaled = self._scaled(image)
    height, width = scaled.shape[-2:]
    classes = len(self._text) + 1
    total = torch.zeros(1, classes, height, width, device=scaled.device)
    count = torch.zeros(1, 1, height, width, device=scaled.device)
    for top, left, h, w in sizes.windows((height, width), self._plan):
      place = (..., slice(top, top + h), slice(left, left + w))
      total[place] += self._window(scaled[place])
      count[place] += 1
    scores = functional.interpolate(
      total / count, image.shape[:2], mode=LINEAR, align_corners=False
    )
    return scores.softmax(1).argmax(1)[0]

  def confusion(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts of an image, rows ground truth; 255 does not count."""
    classes = len(self._text) + 1
    found = self.labels(image).cpu().numpy()
    real = labels != 255
    places = labels[real].astype(np.int64) * classes + found[real]
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)

  def _scaled(self, image):
    size = sizes.scaled_size(image.shape[:2], self._plan)
    if inference_peer.cv2:
      cv2 = inference_peer.cv2
      scaled = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
      pixels = torch.from_numpy(scaled).permute(2, 0, 1)[None]
    else:
      pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
      pixels = functional.interpolate(pixels, size, mode=LINEAR)
    return pixels.to(self._peer.device)

  def _window(self, pixels):
    """Scores [1, classes, h, w] of a window."""
    out = self._peer.network(pixels)
    if self.encodings > 1:
      out['stages'] = self._peer.network(pixels)['stages']
    scores = self._peer.scores(out, self._text)
    first, *others = out['stages']
    maps = functools.reduce(lambda x, y: y @ x, others, first).float()
    grid = round(maps.shape[-1] ** 0.5)
    size = pixels.shape[-2:]
    maps = functional.interpolate(
      maps.unflatten(-1, (grid, grid)), size, mode=LINEAR, align_corners=False
    )
    groups = functional.one_hot(maps.argmax(1), maps.shape[1]).float()
    found = torch.einsum('bhwg,bgc->bchw', groups, scores)
    limit = scores.amax().clamp(max=self._threshold)
    background = (found.amax(1, keepdim=True) < limit).float()
    return torch.cat([background, found], 1)
