"""`load`: any trained weights as a `Model` that segments and classifies."""

import os

import jax.numpy as jnp
from jax.typing import DTypeLike

from groupvit_jax import convert, files, programs
from groupvit_jax.data.images import open_image
from groupvit_jax.errors import ImageError
from groupvit_jax.evaluation.config import SegmentConfig
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
  matmul_operands: str = 'float32',
  compilation_cache: str | os.PathLike | bool = True,
) -> Model:
  """Opens a trained model.

  Args:
    path: a model folder, or any other source that `groupvit convert` accepts:
      original `.pth` files, Hugging Face folders, CLIP, a training workdir. Or
      a name on the Hugging Face hub, 'nvidia/groupvit-gcc-yfcc', perhaps with
      '@revision': downloaded and converted once.
    dtype: of the computation; parameters and results are float32.
    matmul_operands: 'bfloat16' rounds what linear layers and attention in
      float32 multiply, and sums in float32: faster on CPUs with AMX or
      AVX512-BF16. 'auto' times both and takes the faster. 'float32' is exact.
    compilation_cache: where traced and compiled programs are kept for the next
      process: True for ~/.cache/groupvit_jax/compiled (unless JAX was given a
      place), False for nowhere, or a folder.

  Returns:
    The model.

  Raises:
    errors.ModelError: nothing there that can be read; the message says why.
  """
  folder = None
  if compilation_cache is True:
    programs.keep_compiled(files.cache('compiled'))
    folder = programs.kept_at()
  elif compilation_cache is not False:
    folder = files.expanded(compilation_cache)
    programs.keep_compiled(folder, replace=True)
  source = convert.load_source(path)
  return Model(
    source, dtype=dtype, matmul_operands=matmul_operands, programs=folder
  )
