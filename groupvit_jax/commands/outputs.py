"""The kinds of results that `groupvit segment --show` can write.

Each is a function from a segmentation to file contents by name ending.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from groupvit_jax.viz import overlay

_MOST_SCORES = 2 << 30  # of 4 bytes; more than a machine should be asked for


def make(kind: str, result: Any, source: str) -> Mapping[str, bytes]:
  """The files of a kind of result.

  Args:
    kind: one of `KINDS`.
    result: an `inference.Segmentation`.
    source: the picture's path, for json.

  Returns:
    Contents by the ending of the file's name.

  Raises:
    ValueError: this segmentation has no such result; the message says why.
  """
  if kind == 'json':
    text = json.dumps(summary(result, source), indent=1, ensure_ascii=False)
    # Of a name that is not UTF-8, JSON can hold the escaped bytes.
    return {'.json': f'{text}\n'.encode(errors='backslashreplace')}
  return _MAKERS[kind](result)


def _overlay(result):
  return {'_overlay.png': _png(result.overlay())}


def _mask(result):
  image = overlay.palette_image(
    result.labels, len(result.names), background=result.background
  )
  return {'_mask.png': _png(image)}


def _pred(result):
  picture = overlay.class_map(
    result.labels, result.names, background=result.background
  )
  return {'_pred.png': _png(Image.fromarray(picture))}


def _first_group(result):
  return {'_first_group.png': _groups(result, 0)}


def _final_group(result):
  return {'_final_group.png': _groups(result, -1)}


def _all_groups(result):
  return {
    f'_groups_{stage + 1}.png': _groups(result, stage)
    for stage in range(max(1, len(result.groups)))
  }


def _groups(result, stage: int) -> bytes:
  if not result.groups:
    raise ValueError('this model does not group: there are no groups to show')
  picture = overlay.groups_overlay(result.image, result.groups[stage])
  return _png(Image.fromarray(picture))


def _scores(result):
  height, width = result.labels.shape
  if len(result.names) * height * width > _MOST_SCORES:
    raise ValueError(
      f'scores of {len(result.names)} classes at {width} x {height} pixels '
      'would take more than 8 GB: ask for fewer classes, or reduce the picture'
    )
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer, scores=result.scores, names=np.array(result.names)
  )
  return {'_scores.npz': buffer.getvalue()}


_MAKERS = {
  'overlay': _overlay,
  'mask': _mask,
  'pred': _pred,
  'first_group': _first_group,
  'final_group': _final_group,
  'all_groups': _all_groups,
  'scores': _scores,
}


def summary(result: Any, source: str) -> dict[str, Any]:
  """A segmentation as plain values.

  Args:
    result: an `inference.Segmentation`.
    source: the picture's path.

  Returns:
    Size and names; of every class that was found its id (the mask's value),
    name, area in pixels, share of the picture, box [x, y, width, height], mean
    score over its pixels (none for the background), and mask as COCO's RLE.
  """
  from pycocotools import mask as coco

  height, width = result.labels.shape
  classes = []
  for i, name in enumerate(result.names):
    found = result.labels == i
    if name not in result.areas:
      continue
    rle = coco.encode(np.asfortranarray(found, np.uint8))
    entry = {
      'id': i,
      'name': name,
      'area': result.areas[name],
      'share': round(result.areas[name] / found.size, 6),
      'box': list(result.boxes[name]),
      'score': round(result.mean_scores[name], 6),
      'rle': {'size': [height, width], 'counts': rle['counts'].decode()},
    }
    if result.background and i == 0:
      del entry['score']
    classes.append(entry)
  return {
    'picture': source,
    'width': width,
    'height': height,
    'names': list(result.names),
    'background': result.background,
    'classes': classes,
  }


def _png(image: Image.Image) -> bytes:
  buffer = io.BytesIO()
  # Half the time of the default, for a few per cent of size.
  image.save(buffer, format='PNG', compress_level=4)
  return buffer.getvalue()
