"""What `groupvit evaluate` prints: the classes in a table, then the figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
