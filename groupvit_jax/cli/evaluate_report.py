"""What an evaluation leaves: one JSON file with all that made its figures.

Shares are in percent, as papers and `summary.json` give them.
"""

import datetime
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

import groupvit_jax
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.evaluation import diagnosis, evaluator, metrics
from groupvit_jax.text import prompts

FORMAT = 1
_NUMBERS = re.compile(
  r'\[\n\s*([-+\d.e,\s]+?)\n\s*\]'
)  # a list of nothing else
_PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy', 'Pillow', 'scikit-learn')


def make(
  path: str | os.PathLike, model: Any, asked: Any, found: Any
) -> dict[str, Any]:
  """The report of an evaluation.

  Args:
    path: of the model.
    model: an `inference.Model`.
    asked: the `build.Judge`.
    found: a `BenchmarkResult`, or figures by name.

  Returns:
    Plain values.
  """
  segmented = asked.kind == 'segmentation'
  figures = dict(found.figures()) if segmented else dict(found)
  skipped = found.skipped if segmented else asked.skipped()
  # From the first picture to the last, earlier attempts included.
  seconds = found.seconds if segmented else asked.evaluator.resume_state.seconds
  images = int(figures['images'])
  report = {
    'format': FORMAT,
    'settings': dict(asked.settings),
    'model': _model(path, model),
    'versions': _versions(),
    'date': _now(),
    'images': images,
    'skipped': [{'name': n, 'reason': reason} for n, reason in skipped],
    'seconds': round(seconds, 2),
    'images_per_second': round(images / seconds, 3) if seconds else None,
    'figures': _percent(figures),
  }
  return report | (_segmentation(found) if segmented else {})


def as_json(report: Mapping[str, Any]) -> str:
  """The file's text; what is not a number is null, rows are one line each."""
  text = json.dumps(_finite(report), indent=1, ensure_ascii=False)
  return _NUMBERS.sub(_joined, text) + '\n'


def _joined(numbers: re.Match) -> str:
  return f'[{", ".join(numbers[1].replace(",", " ").split())}]'


def _percent(figures: Mapping[str, float]) -> dict[str, float]:
  shown = {
    name: value
    for name, value in figures.items()
    if not name.startswith('iou/') and name not in evaluator.COUNTS
  }
  return evaluator.to_percent(shown)


def _segmentation(found: Any) -> dict[str, Any]:
  truth = found.confusion_matrix
  names = [prompts.shown_name(name) for name in found.class_names]
  columns = {
    'iou': metrics.iou(truth),
    'accuracy': _ratio(np.diag(truth), truth.sum(1)),
  }
  if found.boundary is not None:
    columns['boundary_iou'] = metrics.boundary_iou(found.boundary)
  if found.oracle_confusion_matrix is not None:
    columns['oracle_iou'] = metrics.iou(found.oracle_confusion_matrix)
  pixels, predicted = truth.sum(1), truth.sum(0)
  classes = [
    {
      'name': name,
      **{key: 100 * float(column[i]) for key, column in columns.items()},
      'pixels': int(pixels[i]),
      'predicted_pixels': int(predicted[i]),
    }
    for i, name in enumerate(names)
  ]
  matrices = (
    'confusion_matrix',
    'oracle_confusion_matrix',
    'given_background_confusion_matrix',
  )
  counts = {
    'boundary_counts': found.boundary,
    'best_group_counts': found.jaccard,
  }
  return {
    'miou': 100 * found.miou,
    'class_names': names,
    'background': found.background,
    'classes': classes,
    'diagnosis': _diagnosis(found),
    **{
      name: getattr(found, name).tolist()
      for name in matrices
      if getattr(found, name) is not None
    },
    **{name: x.tolist() for name, x in counts.items() if x is not None},
  }


def _diagnosis(found: Any) -> dict[str, Any] | None:
  if found.oracle_confusion_matrix is None:
    return None
  return _in_percent(diagnosis.of_result(found).as_json())


def _in_percent(value: Any) -> Any:
  """Plain values whose fractions are shares."""
  if isinstance(value, float):
    return 100 * value
  if isinstance(value, Mapping):
    return {key: _in_percent(inner) for key, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_in_percent(inner) for inner in value]
  return value


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  nothing = np.full(len(a), np.nan)
  return np.divide(a, b, out=nothing, where=b > 0)


def _model(path: str | os.PathLike, model: Any) -> dict[str, Any]:
  arrays = model_folder.tensors.flatten(jax.device_get(model.variables))
  told = ('source', 'file', 'license', 'step', 'epoch')
  return {
    'path': os.fspath(path),
    **{name: model.metadata[name] for name in told if name in model.metadata},
    'sha256': model_folder.tensors.digest(arrays),
    'image_encoder': model.architecture['image_encoder'],
  }


def _versions() -> dict[str, str]:
  found = {'groupvit_jax': groupvit_jax.__version__}
  for name in _PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  device = jax.devices()[0]
  return found | {
    'python': platform.python_version(),
    'platform': platform.platform(),
    'device': f'{jax.device_count()} x {device.device_kind}',
  }


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def _finite(value: Any) -> Any:
  """JSON has no NaN."""
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, Mapping):
    return {key: _finite(inner) for key, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(inner) for inner in value]
  return value


# What `groupvit evaluate` prints: the classes in a table, then the figures.

_FIGURES = {
  'miou': 'mIoU',
  'pixel_accuracy': 'aAcc',
  'mean_accuracy': 'mAcc',
  'frequency_weighted_iou': 'fwIoU',
  'boundary_miou': 'boundary mIoU',
  'oracle_miou': 'mIoU, groups named by the truth (oracle)',
  'given_background_miou': 'mIoU, background given by the truth',
  'best_group_jaccard': 'Jaccard index of the best group',
  'top1': 'top-1',
  'top5': 'top-5',
  **{f'image_to_text_r{k}': f'picture to text, R@{k}' for k in (1, 5, 10)},
  **{f'text_to_image_r{k}': f'text to picture, R@{k}' for k in (1, 5, 10)},
}
_COLUMNS = {
  'iou': 'IoU',
  'accuracy': 'accuracy',
  'boundary_iou': 'boundary',
  'oracle_iou': 'oracle',
}


def text(report: Mapping[str, Any]) -> str:
  """The figures of a report, in percent."""
  parts = [_head(report)]
  if report.get('classes'):
    parts.append(_classes(report['classes']))
  parts.append(_figures(report['figures']))
  return '\n\n'.join(parts)


def _head(report: Mapping[str, Any]) -> str:
  settings = report['settings']
  words = [settings['benchmark']]
  protocol = settings.get('protocol')
  if protocol:
    changed = protocol['changed']
    other = f', but for {", ".join(changed)}' if changed else ''
    words.append(f'protocol {protocol["name"]}{other}')
  count = f'{report["images"]:,} pictures'
  if report['skipped']:
    count += f' ({len(report["skipped"]):,} skipped)'
  words.append(count)
  words.append(f'{report["images_per_second"]} pictures/s')
  return '; '.join(words)


def _classes(classes: Sequence[Mapping[str, Any]]) -> str:
  columns = [key for key in _COLUMNS if key in classes[0]]
  width = max(len('class'), *(len(entry['name']) for entry in classes))
  heads = ''.join(f'{_COLUMNS[key]:>10}' for key in columns)
  lines = [f'{"class":<{width}}{heads}']
  for entry in classes:
    cells = ''.join(f'{_number(entry[key]):>10}' for key in columns)
    lines.append(f'{entry["name"]:<{width}}{cells}')
  return '\n'.join(lines)


def _figures(figures: Mapping[str, float]) -> str:
  return '\n'.join(
    f'{_number(value):>6}  {_FIGURES.get(name, name)}'
    for name, value in figures.items()
  )


def _number(value: float | None) -> str:
  """Two digits; '-' for a class that neither truth nor prediction has."""
  return '-' if value is None or math.isnan(value) else f'{value:.2f}'
