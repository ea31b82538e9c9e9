"""The middle of a picture, as it is classified."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def crop(
  image: UInt8[np.ndarray, 'h w 3'],
  size: tuple[int, int],
  *,
  clip: bool = False,
) -> UInt8[np.ndarray, 'H W 3']:
  """Scales a picture and cuts out its middle.

  Args:
    image: RGB pixels.
    size: (H, W) that the model was trained on.
    clip: as CLIP does: the shorter side is scaled to the crop's, bicubically,
      instead of 8/7 of it (256 for 224), bilinearly.

  Returns:
    RGB pixels, as torchvision's Resize and CenterCrop give them.
  """
  short = max(round(min(size) * (1 if clip else 256 / 224)), *size)
  resample = Image.Resampling.BICUBIC if clip else Image.Resampling.BILINEAR
  sides = image.shape[:2]
  # The longer side is rounded down, as there.
  scaled = [short * side // min(sides) for side in sides]
  picture = Image.fromarray(image).resize(scaled[::-1], resample)
  top, left = (
    round((old - new) / 2) for old, new in zip(scaled, size, strict=True)
  )
  picture = picture.crop((left, top, left + size[1], top + size[0]))
  return np.asarray(picture)
