"""`load`: any trained weights as a `Model` that segments and classifies."""

import os

import jax.numpy as jnp
from jax.typing import DTypeLike

from groupvit_jax import convert
from groupvit_jax.data.images import open_image
from groupvit_jax.errors import ImageError
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.inference import programs
from groupvit_jax.inference.model import RELEASED, Model
from groupvit_jax.inference.regions import ImageRegions
from groupvit_jax.inference.result import Segmentation
from groupvit_jax.inference.text import LabelError

__all__ = [
  'RELEASED',
  'ImageError',
  'ImageRegions',
  'LabelError',
  'Model',
  'SegmentConfig',
  'Segmentation',
  'load',
  'open_image',
]


def load(
  path: str | os.PathLike,
  *,
  dtype: DTypeLike = jnp.float32,
  compilation_cache: str | os.PathLike | bool = True,
) -> Model:
  """Opens a trained model.

  Args:
    path: a model folder, or any other source that `groupvit convert` accepts:
      original `.pth` files, Hugging Face folders, CLIP, a training workdir.
    dtype: of the computation; parameters and results are float32.
    compilation_cache: where compiled programs are kept for the next process:
      True for ~/.cache/groupvit_jax/compiled (unless JAX was given a place),
      False for nowhere, or a folder.

  Returns:
    The model.

  Raises:
    errors.ModelError: nothing there that can be read; the message says why.
  """
  programs.keep_compiled(compilation_cache)
  return Model(convert.load_source(path), dtype=dtype)
