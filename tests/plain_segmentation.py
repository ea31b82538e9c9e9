"""Zero-shot segmentation spelled out in numpy, image by image, for comparison.

NVlabs/GroupViT segmentation/evaluation/group_vit_seg.py, with the options of
`SegmentConfig`.
"""

import jax
import numpy as np


def resized(maps, size):
  """[h, w, k] to `size`, by JAX's own bilinear resize."""
  shape = (*size, maps.shape[-1])
  return np.asarray(jax.image.resize(maps, shape, 'linear', antialias=False))


def softmax(x):
  odds = np.exp(x - x.max(-1, keepdims=True))
  return odds / odds.sum(-1, keepdims=True)


def group_scores(image, groups, text, scale, config):
  """Scores g c of one image."""
  scale = config.scale or scale
  kept = np.argsort(-(text @ image), kind='stable')[: config.top_k]
  passed = np.isin(np.arange(len(text)), kept)
  logits = scale * groups @ text.T
  if not (config.group_softmax or config.gated_softmax):
    return np.where(passed, groups @ text.T, -1)
  scores = passed.astype(np.float32)
  if config.group_softmax:
    scores = scores * softmax(logits)
  if config.gated_softmax:
    scores = scores * softmax(np.where(passed, logits, -np.inf))
  return scores


def pixel_scores(regions, text, scale, size, config):
  """Scores h w k of the first image of predict_fns['regions'] at `size`."""
  text = np.asarray(text)
  soft = resized(np.asarray(regions['stages'][-1][0]), size)
  groups = group_scores(
    np.asarray(regions['image'][0]),
    np.asarray(regions['embeddings'][0]),
    text,
    scale,
    config,
  )
  shares = np.eye(soft.shape[-1])[soft.argmax(-1)] if config.one_hot else soft
  pixels = shares @ groups
  threshold = config.background_threshold
  if threshold is None:
    return pixels
  if config.relative_threshold:
    threshold = min(threshold, groups.max())
  background = np.full(pixels.shape[:2], threshold)
  if not config.constant_background:
    background = pixels.max(-1) < np.float32(threshold) - 1e-7
  return np.concatenate([background[..., None], pixels], -1)
