"""GroupViT in JAX: segmentation that emerges from captions alone.

`import groupvit_jax as gv; model = gv.load(path)` is where using a trained
model begins.
"""

import time
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'
# Of this process, in seconds since the epoch: what is on disk may be newer.
IMPORTED = time.time()

# Label of pixels that count nothing, as in PASCAL VOC. Defined before the
# imports below, so that every package can take it from here.
IGNORE = 255

if TYPE_CHECKING:
  from groupvit_jax.inference import (
    ImageError,
    LabelError,
    Model,
    Segmentation,
    SegmentConfig,
    load,
    open_image,
  )

__all__ = [
  'ImageError',
  'LabelError',
  'Model',
  'SegmentConfig',
  'Segmentation',
  'load',
  'open_image',
]


def __getattr__(name: str) -> Any:
  """Imports inference when it is first used: training goes without it."""
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from groupvit_jax import inference

  return getattr(inference, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])
