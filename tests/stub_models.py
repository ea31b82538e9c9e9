"""Models that are right, or wrong, by design: predict_fns without weights.

A picture's red channel holds each pixel's class; `variables` can shift what
the model answers, as training would.
"""

import jax
import jax.numpy as jnp
import numpy as np

NAMES = ('sand', 'grass', 'water', 'dog', 'boat', 'kite', 'leaf')
GROUPS = {'grounds': NAMES[:3], 'things': NAMES[3:]}
TEMPLATES = ('a photo of a {}.',)
PERFECT = {'shift': 0}
WORST = {'shift': 1}  # every class is called by its neighbour's name


def tokenizer(texts):
  """Tokens: start 98, the index of the name plus one, end 99, padding."""
  tokens = np.zeros((len(texts), 77), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    index = next(
      i
      for i, name in enumerate(NAMES)
      if name in text.split(' ') or name + '.' in text.split(' ')
    )
    row[:3] = 98, index + 1, 99
  return tokens


def unit(x):
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


class Stub:
  """predict_fns, and how often each was traced."""

  def __init__(self, grouped=True):
    self.traces = {'regions': 0, 'text': 0, 'image': 0}
    self._classes = len(NAMES)
    self._grouped = grouped
    self.predict_fns = {
      'image': self._image,
      'text': self._text,
      'regions': self._regions,
      'logit_scale': lambda variables: jnp.float32(100.0),
    }

  def _one_hot(self, variables, images):
    shifted = (images[..., 0] + variables['shift']) % self._classes
    return jax.nn.one_hot(shifted, self._classes)

  def _pool(self, variables, images):
    present = self._one_hot(variables, images).max((1, 2))
    return unit(present)

  def _image(self, variables, images):
    self.traces['image'] += 1
    return self._pool(variables, images)

  def _text(self, variables, tokens):
    self.traces['text'] += 1
    return jax.nn.one_hot(tokens[:, 1] - 1, self._classes)

  def _regions(self, variables, images):
    """One group per class, or one patch feature per pixel and no maps."""
    self.traces['regions'] += 1
    image = self._pool(variables, images)
    features = self._one_hot(variables, images)
    b, h, w, c = features.shape
    if not self._grouped:
      return {
        'image': image,
        'embeddings': features.reshape(b, h * w, c),
        'stages': (),
        'grid': (h, w),
      }
    names = jnp.broadcast_to(jnp.eye(c), (b, c, c))
    first = jax.nn.one_hot(images[..., 0] * 2, 2 * c)
    return {
      'image': image,
      'embeddings': names,
      'stages': (first, features),
      'grid': (h, w),
    }


def batches(num_images=8, batch_size=4, size=8, per_image=3, seed=0):
  """Pictures of vertical bands of up to `per_image` classes, and their truth.

  The last batch is padded with pictures whose truth is wrong and mask is 0.
  """
  rng = np.random.default_rng(seed)
  images, labels = [], []
  for i in range(num_images):
    # Walks through all classes, so that each occurs.
    classes = (i + rng.permutation(per_image)) % len(NAMES)
    label = np.repeat(classes, -(-size // per_image))[:size]
    label = np.broadcast_to(label, (size, size)).astype(np.int32)
    images.append(np.repeat(label[..., None], 3, -1).astype(np.uint8))
    labels.append(label)
  images, labels = np.stack(images), np.stack(labels)

  def start():
    for i in range(0, num_images, batch_size):
      image, label = images[i : i + batch_size], labels[i : i + batch_size]
      missing = batch_size - len(image)
      mask = np.array([1.0] * len(image) + [0.0] * missing, np.float32)
      image = np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0)))
      label = np.pad(label, ((0, missing), (0, 0), (0, 0)), constant_values=6)
      yield {'image': image, 'label': label, 'mask': mask}

  return start
