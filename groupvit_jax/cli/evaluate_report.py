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
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import filelock
import jax
import numpy as np

import groupvit_jax
from groupvit_jax import files
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.evaluation import diagnosis, evaluator, metrics
from groupvit_jax.text import prompts

FORMAT = 1
_NUMBERS = re.compile(r'\[\n\s*([-+\d.e,\s]+?)\n\s*\]')  # a list of them
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
    result: a `BenchmarkResult`, or figures by name.

  Returns:
    Plain values.
  """
  segmented = runner.kind == 'segmentation'
  figures = dict(result.figures()) if segmented else dict(result)
  skipped = result.skipped if segmented else runner.skipped()
  seconds = (
    result.seconds if segmented else runner.evaluator.resume_state.seconds
  )
  images = int(figures['images'])
  report = {
    'format': FORMAT,
    'settings': dict(runner.settings),
    'model': _model(path, model),
    'versions': _versions(),
    'date': _now(),
    'images': images,
    'skipped': [{'name': n, 'reason': reason} for n, reason in skipped],
    'seconds': round(seconds, 2),
    'images_per_second': round(images / seconds, 3) if seconds else None,
    'figures': _percent(figures),
  }
  return report | (_segmentation(result) if segmented else {})


def as_json(report: Mapping[str, Any]) -> str:
  """The file's text: null for NaN, one line for each row of a matrix."""
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


def _segmentation(result: Any) -> dict[str, Any]:
  matrix = result.confusion_matrix
  names = [prompts.shown_name(name) for name in result.class_names]
  columns = {
    'iou': metrics.iou(matrix),
    'accuracy': _ratio(np.diag(matrix), matrix.sum(1)),
  }
  if result.boundary is not None:
    columns['boundary_iou'] = metrics.boundary_iou(result.boundary)
  if result.oracle_confusion_matrix is not None:
    columns['oracle_iou'] = metrics.iou(result.oracle_confusion_matrix)
  pixels, predicted = matrix.sum(1), matrix.sum(0)
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
    'boundary_counts': result.boundary,
    'best_group_counts': result.jaccard,
  }
  return {
    'miou': 100 * result.miou,
    'class_names': names,
    'background': result.background,
    'classes': classes,
    'diagnosis': _diagnosis(result),
    **{
      name: getattr(result, name).tolist()
      for name in matrices
      if getattr(result, name) is not None
    },
    **{name: x.tolist() for name, x in counts.items() if x is not None},
  }


def _diagnosis(result: Any) -> dict[str, Any] | None:
  if result.oracle_confusion_matrix is None:
    return None
  return _in_percent(diagnosis.of_result(result).as_json())


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
  kept = ('source', 'file', 'license', 'step', 'epoch')
  return {
    'path': os.fspath(path),
    **{name: model.metadata[name] for name in kept if name in model.metadata},
    'sha256': files.digest(arrays),
    'image_encoder': model.architecture['image_encoder'],
  }


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
  'oracle_miou': 'mIoU, groups labelled by the ground truth (oracle)',
  'given_background_miou': 'mIoU, background given by the ground truth',
  'best_group_jaccard': 'Jaccard index of the best group',
  'top1': 'top-1',
  'top5': 'top-5',
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
  count = f'{report["images"]:,} images'
  if report['skipped']:
    count += f' ({len(report["skipped"]):,} skipped)'
  words.append(count)
  words.append(f'{report["images_per_second"]} images/s')
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
  """Two digits; '-' for a class in neither ground truth nor prediction."""
  return '-' if value is None or math.isnan(value) else f'{value:.2f}'
