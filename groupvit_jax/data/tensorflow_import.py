"""Imports TensorFlow for input work only.

It must not take the accelerator's memory, which belongs to JAX, nor fill the
log; and only those who build a TensorFlow pipeline need it installed.
"""

import functools
import importlib.util
import os

from absl import logging


def available():
  """Whether TensorFlow is installed (without importing it)."""
  return importlib.util.find_spec('tensorflow') is not None


@functools.cache
def tensorflow():
  """Returns the tensorflow module, with its GPUs and chatter switched off."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(
      "This input needs TensorFlow: pip install 'groupvit_jax[train]', or "
      "choose backend='numpy'."
    ) from error
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:  # someone used TensorFlow before us
    logging.warning('TensorFlow had started already and may hold GPU memory.')
  return tf
