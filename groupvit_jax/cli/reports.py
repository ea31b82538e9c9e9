"""Report of an evaluation: its figures and all that they depend on.

Shares are in percent, as papers and `summary.json` give them.
"""

import contextlib
import datetime
import json
import math
import os
import pathlib
import platform
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import filelock
import jax
import numpy as np

import groupvit_jax
from groupvit_jax import files
from groupvit_jax.convert import tensors
from groupvit_jax.evaluation import diagnosis, evaluator, metrics

FORMAT = 1
_NUMBERS = re.compile(r'\[\n\s*([-+\d.e,\s]+?)\n\s*\]')  # a list of them
_GAP = r'[,\s]+'
_KEPT = ('source', 'file', 'license', 'step', 'epoch')  # of the metadata
_PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy', 'Pillow', 'scikit-learn')


class ReportFile:
  """The file of a report, locked by the run that measures for it.

  A report that exists, or that appears meanwhile, is never replaced unasked.
  """

  def __init__(self, path: pathlib.Path, overwrite: bool):
    """Takes the lock, and checks that the report can be written.

    Args:
      path: of the report.
      overwrite: whether to replace a report that exists.

    Raises:
      ValueError: another run has the lock, or the path cannot be used.
    """
    if path.is_dir():
      raise ValueError(f'{path} is a folder: --out names a file')
    if path.exists() and not path.is_file():
      raise ValueError(f'{path} is not a regular file: choose another --out')
    if not path.parent.is_dir():
      raise ValueError(
        f'{path.parent}: there is no such folder; make it, or choose another '
        '--out'
      )
    if path.exists() and not overwrite:
      raise ValueError(
        f'{path} exists: choose another --out, or replace it with --overwrite'
      )
    self._path = path
    self._lock = filelock.FileLock(path.with_name(f'{path.name}.lock'))
    try:
      files.check_writable(state_path(path))
      self._lock.acquire(timeout=0)
    except filelock.Timeout:
      raise ValueError(
        f'{path}: another run is measuring for it; wait for its end, or choose '
        'another --out'
      ) from None
    except OSError as error:
      raise ValueError(
        f'{path} cannot be written ({error.strerror}): choose another --out'
      ) from error
    self._version = _version(path)

  def write(self, content: str) -> None:
    """Writes the report.

    Raises:
      ValueError: somebody else has written one since.
      OSError: it cannot be written.
    """
    if _version(self._path) != self._version:
      raise ValueError(
        f'{self._path} has appeared or changed during this run: move it away, '
        'and the same command writes the report without measuring again'
      )
    files.write_atomically(self._path, content)

  def release(self) -> None:
    """Removes the lock."""
    # While it is held: after the release it may be another run's.
    with contextlib.suppress(OSError):
      os.unlink(self._lock.lock_file)
    self._lock.release()


def state_path(path: pathlib.Path) -> pathlib.Path:
  """Resume state of the evaluation for a report."""
  return path.with_name(f'{path.name}.resume.jsonl')


def _version(path: pathlib.Path) -> tuple[int, int, int] | None:
  """Differs after any change of a file; None if there is none."""
  try:
    state = path.stat()
  except FileNotFoundError:
    return None
  return state.st_ino, state.st_size, state.st_mtime_ns


def make(
  path: str | os.PathLike, model: Any, runner: Any, result: Any
) -> dict[str, Any]:
  """The report of an evaluation.

  Args:
    path: of the model.
    model: an `inference.Model`.
    runner: the `build.Runner`.
    result: of its evaluator.

  Returns:
    Plain values.
  """
  segmented = runner.kind == 'segmentation'
  images, seconds = result.images, result.seconds
  report = {
    'format': FORMAT,
    'settings': dict(runner.settings),
    'model': {
      'path': os.fspath(path),
      **{
        name: model.metadata[name] for name in _KEPT if name in model.metadata
      },
      'sha256': files.digest(tensors.flatten(jax.device_get(model.variables))),
      'image_encoder': model.architecture['image_encoder'],
    },
    'versions': _versions(),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'images': images,
    'skipped': [{'name': n, 'reason': reason} for n, reason in result.skipped],
    'seconds': round(seconds, 2),
    'images_per_second': round(images / seconds, 3) if seconds else None,
    'figures': evaluator.to_percent(
      {
        name: value
        for name, value in result.figures()
        if not name.startswith('iou/') and name not in evaluator.COUNTS
      }
    ),
  }
  return report | (_segmentation(result) if segmented else {})


def as_json(report: Mapping[str, Any]) -> str:
  """The file's text: null for NaN, one line for each row of a matrix."""
  finite = _with_floats(report, lambda x: x if math.isfinite(x) else None)
  text = json.dumps(finite, indent=1, ensure_ascii=False)
  return (
    _NUMBERS.sub(lambda row: f'[{", ".join(re.split(_GAP, row[1]))}]', text)
    + '\n'
  )


def _segmentation(result: Any) -> dict[str, Any]:
  matrix, found = result.confusion_matrix, result.counts
  pixels, predicted = matrix.sum(1), matrix.sum(0)
  with np.errstate(invalid='ignore'):
    accuracy = np.diag(matrix) / pixels  # nan for a class without pixels
  columns = {'iou': metrics.iou(matrix), 'accuracy': accuracy}
  if 'boundary' in found:
    columns['boundary_iou'] = metrics.boundary_iou(found['boundary'])
  if 'oracle' in found:
    columns['oracle_iou'] = metrics.iou(found['oracle'])
  classes = [
    {
      'name': name,
      **{key: 100 * float(column[i]) for key, column in columns.items()},
      'pixels': int(pixels[i]),
      'predicted_pixels': int(predicted[i]),
    }
    for i, name in enumerate(result.class_names)
  ]
  counts = {'boundary_counts': 'boundary', 'best_group_counts': 'jaccard'}
  return {
    'miou': 100 * result.miou,
    **diagnosis.stored(result),
    'classes': classes,
    'diagnosis': None
    if 'oracle' not in found
    else _with_floats(
      diagnosis.of_result(result).as_json(), lambda share: 100 * share
    ),
    **{k: found[v].tolist() for k, v in counts.items() if v in found},
  }


def _with_floats(value: Any, change: Callable[[float], Any]) -> Any:
  """Plain values, their floating numbers changed."""
  if isinstance(value, float):
    return change(value)
  if isinstance(value, Mapping):
    return {key: _with_floats(inner, change) for key, inner in value.items()}
  if isinstance(value, list | tuple):
    return [_with_floats(inner, change) for inner in value]
  return value


def _versions() -> dict[str, str]:
  versions: dict[str, str] = {'groupvit_jax': groupvit_jax.__version__}
  for name in _PACKAGES:
    try:
      versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  device = jax.devices()[0]
  return versions | {
    'python': platform.python_version(),
    'platform': platform.platform(),
    'device': f'{jax.device_count()} x {device.device_kind}',
  }


# What `groupvit evaluate` prints: the classes in a table, then the figures.

_FIGURES = {
  'miou': 'mIoU',
  'pixel_accuracy': 'aAcc',
  'mean_accuracy': 'mAcc',
  'frequency_weighted_iou': 'fwIoU',
  'boundary_miou': 'boundary mIoU',
  'oracle_miou': 'mIoU, groups labelled by the ground truth (oracle)',
  'given_background_miou': 'mIoU, background given by the ground truth',
  'class_list_miou': 'mIoU, only the classes that an image shows compete',
  'tokens_miou': 'mIoU, tokens labelled one by one',
  'learned_miou': 'mIoU, learned groups',
  'learned_oracle_miou': 'mIoU, learned groups labelled by the ground truth',
  'zero_classes': 'share of classes that are never found',
  'best_group_jaccard': 'Jaccard index of the best group',
  'top1': 'top-1',
  'top5': 'top-5',
  'mean_per_class': 'mean accuracy per class',
  'mean_top1_top5': 'mean of top-1 and top-5',
  'map_11_point': '11-point mAP',
  'roc_auc': 'ROC AUC',
  **{f'image_to_text_r{k}': f'image to text, R@{k}' for k in (1, 5, 10)},
  **{f'text_to_image_r{k}': f'text to image, R@{k}' for k in (1, 5, 10)},
}
_COLUMNS = {
  'iou': 'IoU',
  'accuracy': 'accuracy',
  'boundary_iou': 'boundary',
  'oracle_iou': 'oracle',
}


def text(report: Mapping[str, Any]) -> str:
  """The figures of a report, in percent."""
  settings = report['settings']
  head = [settings['benchmark']]
  if protocol := settings.get('protocol'):
    changed = protocol['changed']
    other = f', but for {", ".join(changed)}' if changed else ''
    head.append(f'protocol {protocol["name"]}{other}')
  skipped = len(report['skipped'])
  count = f' ({skipped:,} skipped)' if skipped else ''
  head.append(f'{report["images"]:,} images{count}')
  head.append(f'{report["images_per_second"]} images/s')
  parts = ['; '.join(head)]
  if classes := report.get('classes'):
    columns = [key for key in _COLUMNS if key in classes[0]]
    width = max(len('class'), *(len(entry['name']) for entry in classes))
    rows = [('class', *(_COLUMNS[key] for key in columns))] + [
      (entry['name'], *(_number(entry[key]) for key in columns))
      for entry in classes
    ]
    parts.append(
      '\n'.join(
        f'{name:<{width}}{"".join(f"{cell:>10}" for cell in cells)}'
        for name, *cells in rows
      )
    )
  parts.append(
    '\n'.join(
      f'{_number(value):>6}  {_FIGURES.get(name, name)}'
      for name, value in report['figures'].items()
    )
  )
  return '\n\n'.join(parts)


def _number(value: float | None) -> str:
  """Two digits; '-' for a class in neither ground truth nor prediction."""
  return '-' if value is None or math.isnan(value) else f'{value:.2f}'
