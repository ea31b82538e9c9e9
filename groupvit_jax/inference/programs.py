"""What inference compiles, and where compiled programs are kept.

One program per canvas and batch for the encoder, one per batch and padded
number of classes for the scores; no picture and no vocabulary adds another.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array, Float, Int, UInt8

from groupvit_jax import files
from groupvit_jax.data import on_device
from groupvit_jax.evaluation import resize, scoring
from groupvit_jax.evaluation.config import SegmentConfig

CACHE = '~/.cache/groupvit_jax/compiled'


def keep_compiled(folder: str | os.PathLike | bool = True) -> None:
  """Keeps compiled programs on disk, so that the next process begins at once.

  Args:
    folder: True for the user's cache folder, unless JAX was given one already;
      False leaves JAX as it is. A folder that cannot be written is not used.
  """
  if folder is False:
    return
  if folder is True:
    if jax.config.jax_compilation_cache_dir:
      return
    root = os.environ.get('XDG_CACHE_HOME')
    folder = f'{root}/groupvit_jax/compiled' if root else CACHE
  folder = files.expanded(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return  # a read-only home costs time, and is no reason to fail
  jax.config.update('jax_compilation_cache_dir', str(folder))
  # Its default passes over what compiles in less than a second.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  # JAX decides at the first compilation of a process whether there is a cache.
  compilation_cache.reset_cache()


class Programs:
  """The compiled functions of one model.

  Attributes:
    module: the dual encoder.
    patch_size: side of its tokens in pixels.
    predict_fns: what evaluators call (docs/architecture.md), not compiled.
  """

  def __init__(
    self,
    module: nn.Module,
    mean: Sequence[float],
    std: Sequence[float],
  ):
    """Compiles nothing yet.

    Args:
      module: a `DualEncoder`.
      mean, std: of the channels in 0..1, what the weights were trained with.
    """
    self.module = module
    self.patch_size = module.image.patch_size
    self.normalize = functools.partial(on_device.normalize, mean=mean, std=std)
    self.predict_fns: Mapping[str, Callable[..., Any]] = {
      'image': self._image,
      'text': self._text,
      'regions': self._encode_regions,
      'scale': self._temperature,
    }
    self.regions = jax.jit(self._regions, static_argnames='soft')
    self.image = jax.jit(self._image)
    self.text = jax.jit(self._text)
    self.scale = jax.jit(self._temperature)

  def _image(self, variables, images, sizes=None):
    images = self.normalize(images)
    return self.module.apply(variables, images, sizes, method='encode_image')

  def _encode_regions(self, variables, images, sizes=None):
    images = self.normalize(images)
    return self.module.apply(variables, images, sizes, method='encode_regions')

  def _text(self, variables, tokens):
    return self.module.apply(
      variables, tokens, normalize=False, method='encode_text'
    )

  def _temperature(self, variables):
    return self.module.apply(variables, method='logit_scale')

  def _regions(
    self,
    variables: Mapping[str, Any],
    images: UInt8[Array, 'b h w 3'],
    sizes: Int[Array, 'b 2'] | None,
    soft: bool,
  ) -> dict[str, Any]:
    """Everything of a batch of pictures that does not depend on words.

    Args:
      variables: params and batch_stats.
      images: pictures in the top left corners of their canvas.
      sizes: (height, width) of each; None if all fill the canvas.
      soft: return the share of every group instead of the strongest group.

    Returns:
      image (b e), embeddings (b g e), stages (maps on the token grid),
      background (b g) of a model that has learned one, and pixels: b h w of
      groups, or b h w g of their shares.
    """
    regions = self._encode_regions(variables, images, sizes)
    pixels = resize.pixel_maps(regions, images.shape[1:3], sizes, soft=soft)
    return scoring.scored(regions) | {
      'stages': regions['stages'],
      'pixels': pixels,
    }


def score_groups(
  config: SegmentConfig,
  regions: Mapping[str, Any],
  text: Float[Array, 'c *s e'],
  valid: Array,
  scale: Float[Array, ''],
) -> Float[Array, 'b g c']:
  """`scoring.region_scores`, compiled once per shape and rule."""
  if config.scale is not None:
    scale = config.scale
  # Of the options only those that the rule reads: the others would compile the
  # same program again.
  plain = SegmentConfig()
  unread = {name: getattr(plain, name) for name in _UNREAD}
  if not config.refuses:
    unread['relative_threshold'] = plain.relative_threshold
    unread['background_threshold'] = plain.background_threshold
  rule = dataclasses.replace(config, **unread)
  return _score_groups(
    rule, scoring.scored(regions), text, valid, jnp.float32(scale)
  )


# Fields of a config that change no score of a group.
_UNREAD = (
  'one_hot',
  'constant_background',
  'scale',
  'mode',
  'short_side',
  'long_side',
  'window',
  'stride',
)


@functools.partial(jax.jit, static_argnums=0)
def _score_groups(rule, regions, text, valid, scale):
  return scoring.region_scores(regions, text, scale, rule, valid)
