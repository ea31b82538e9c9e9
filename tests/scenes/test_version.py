"""What is drawn belongs to a version, which names the folder that keeps it."""

import hashlib

import numpy as np

from groupvit_jax import scenes
from groupvit_jax.scenes import tfds_builder

VERSION = '2.1.0'
CAPTIONS = '8d4186053ac36184'
# Of the first images, in which every class occurs. Means, as the last bit of
# a pixel may differ between machines.
MEANS = """
   69.11 114.62  86.22  97.97 202.31 156.97  90.34  92.21
   63.05 179.34 106.61  96.30  69.42  75.27  78.09 100.46
  104.98 139.81  81.48 143.45 127.27  86.96 115.87 100.13
  158.72  82.57 166.84 151.40 151.46 104.27  89.50  79.26
"""


def test_another_drawing_is_another_version():
  what_to_do = (
    'scenes are drawn otherwise than before: raise _VERSION in '
    'scenes/tfds_builder.py, or old ones are read from disk as if they were '
    'new, and pin here what is drawn now'
  )
  seed = scenes.split_seed('train', 0)
  drawn = [scenes.generate(seed, i, 64) for i in range(len(MEANS.split()))]
  assert {c for scene in drawn for c in np.unique(scene.mask)} == set(
    range(len(scenes.CLASS_NAMES))
  )
  told = repr([scene.captions for scene in drawn]).encode()
  assert hashlib.sha256(told).hexdigest()[:16] == CAPTIONS, what_to_do
  means = [scene.image.mean() for scene in drawn]
  wanted = np.array(MEANS.split(), float)
  np.testing.assert_allclose(means, wanted, atol=0.02, err_msg=what_to_do)
  assert tfds_builder._VERSION == VERSION, what_to_do
