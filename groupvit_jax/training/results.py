"""What a run leaves for its reader: snapshots, summary.json, the report page.

Collects from the run; the page itself is drawn by `report`.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from groupvit_jax import files
from groupvit_jax.evaluation import diagnosis, evaluator
from groupvit_jax.training import collapse, report, task
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import logging as logging_lib
from groupvit_jax.viz import overlay

# Where a run's errors come from: the counts of its last evaluation.
#
# They stand in the workdir, so that a run that is finished, or resumed, has
# them for its report as well.

FILE = 'confusion.json'

_COUNTS = (
  'confusion_matrix',
  'oracle_confusion_matrix',
  'given_background_confusion_matrix',
)


def keep(workdir: pathlib.Path, step: int, found: Any) -> None:
  """Writes the counts of an evaluation in place of those before it.

  Args:
    workdir: of the run.
    step: of the evaluation.
    found: a `SegmentationResult` or `BenchmarkResult`.
  """
  counts = {name: getattr(found, name, None) for name in _COUNTS}
  text = json.dumps(
    {
      'step': step,
      'class_names': found.class_names,
      'background': found.background,
      **{k: None if v is None else v.tolist() for k, v in counts.items()},
    }
  )
  files.write_atomically(workdir / FILE, text + '\n')


def as_html(workdir: pathlib.Path, step: int) -> str:
  """The errors of the evaluation at `step` as tables; '' if it counted none."""
  path = workdir / FILE
  counts = json.loads(path.read_text()) if path.exists() else {}
  if counts.get('step') != step:
    return ''
  return diagnosis.as_html(diagnosis.of_result(counts))


FORMING = 4  # pictures whose groups are shown at several steps
FORMING_STEPS = 6  # how many of these steps the report shows
SIDE = 112  # pixels; small pictures are enlarged to it in TensorBoard

# Figures of the summary, after the name that the evaluation gives them.
_FIGURES = (
  'miou',
  'miou_things',
  'miou_grounds',
  'oracle_miou',
  'oracle_miou_things',
  'oracle_miou_grounds',
  'pixel_accuracy',
  'image_recall',
  'groups_in_use',
  'groups_per_image',
  'groups_winning',
  'largest_share',
)


class Snapshots:
  """Groups and labels of the same validation pictures at several steps."""

  def __init__(self, workdir: pathlib.Path, pictures: Mapping[str, np.ndarray]):
    """Takes the pictures: image uint8 n h w 3, label n h w, captions."""
    self._folder = workdir / 'snapshots'
    self._pictures = pictures

  def take(self, step: int, predict, log: logging_lib.RunLog) -> None:
    """Saves what `predict(images)` sees now, and shows it in TensorBoard."""
    if not self._pictures:
      return
    shown = predict(self._pictures['image'])  # by all processes together
    if jax.process_index():
      return
    arrays = {'prediction': shown['prediction'].astype(np.uint8)}
    if shown['groups']:
      arrays['final_groups'] = shown['groups'][-1].astype(np.uint8)
    if len(shown['groups']) > 1:  # of one stage, the first are the final ones
      arrays['first_groups'] = shown['groups'][0].astype(np.uint8)
    views = {name: self._overlays(maps) for name, maps in arrays.items()}
    if not self.steps():  # these two do not change
      views['image'] = np.stack(
        [
          overlay.enlarge(image, SIDE)
          for image in self._pictures['image'][:FORMING]
        ]
      )
      views['truth'] = self._overlays(self._pictures['label'])
    self._folder.mkdir(exist_ok=True)
    np.savez_compressed(self._folder / f'{step:08d}.npz', **arrays)
    log.images(step, {f'pictures/{k}': v for k, v in views.items()})

  def steps(self) -> list[int]:
    """Returns the steps with a snapshot, in order."""
    return sorted(int(path.stem) for path in self._folder.glob('*.npz'))

  def at(self, step: int, count: int | None = None) -> list[dict[str, Any]]:
    """Returns the pictures of a step as `report.write_report` takes them."""
    with np.load(self._folder / f'{step:08d}.npz') as file:
      arrays = dict(file)
    arrays |= {
      'image': self._pictures['image'],
      'truth': self._pictures['label'],
      'caption': self._pictures['caption'],
    }
    total = len(arrays['image'])
    return [
      {name: values[i] for name, values in arrays.items()}
      for i in range(total if count is None else min(count, total))
    ]

  def _overlays(self, maps: np.ndarray) -> np.ndarray:
    images = self._pictures['image'][:FORMING]
    return np.stack(
      [
        overlay.overlay(image, labels, overlay.palette(256), min_side=SIDE)
        for image, labels in zip(images, maps[:FORMING], strict=True)
      ]
    )


def summarise(
  config: ml_collections.ConfigDict,
  log: logging_lib.RunLog,
  clock,
  spells: Sequence[collapse.Spell],
) -> dict[str, Any]:
  """Returns the summary of a finished run; shares are in percent."""
  figures = {}
  for name in _FIGURES:
    for prefix, step in (('', config.num_steps), ('untrained_', 0)):
      value = log.value(f'eval/{name}', step)
      if value is not None:
        percent = evaluator.to_percent({name: value})[name]
        figures[prefix + name] = round(percent, 2)
  speed = clock.images / clock.train_seconds if clock.train_seconds else 0.0
  return figures | {
    'train_loss': log.value('train/loss', config.num_steps),
    'steps': config.num_steps,
    'batch_size': config.batch_size,
    'seed': config.seed,
    'images_per_second': round(speed, 1),
    'train_seconds': round(clock.train_seconds, 1),
    'wall_seconds': round(clock.wall_seconds, 1),
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'collapses': [
      {'name': spell.kind.name, 'begin': spell.begin, 'end': spell.end}
      for spell in spells
    ],
  }


def write(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  class_names: tuple[str, ...],
  log: logging_lib.RunLog,
  snapshots: Snapshots,
  summary: Mapping[str, Any],
  spells: Sequence[collapse.Spell],
) -> None:
  """Writes the report page of a run and its summary.json."""
  steps = snapshots.steps()
  chosen = sorted(
    {
      steps[round(i)]
      for i in np.linspace(0, len(steps) - 1, min(len(steps), FORMING_STEPS))
    }
  )
  figures = {k: v for k, v in summary.items() if k != 'collapses'}
  report.write_report(
    workdir / 'report',
    title=f'{task.TITLES[config.task]} on {config.data.source}',
    figures=figures | _class_figures(config, log),
    config_text=config_lib.to_json(config),
    curves=log.rows,
    pictures=snapshots.at(steps[-1]) if steps else (),
    snapshots=[(step, snapshots.at(step, FORMING)) for step in chosen],
    class_names=class_names,
    notes=_notes(config),
    collapses=spells,
    errors=as_html(workdir, config.num_steps),
  )
  path = workdir / 'summary.json'
  files.write_atomically(path, json.dumps(summary, indent=2) + '\n')
  logging.info('report: %s', workdir / 'report' / 'index.html')


def as_text(summary: Mapping[str, Any], workdir: str | pathlib.Path) -> str:
  """Returns the summary as the lines that end a run."""
  lines = ['']
  for name in (
    'miou',
    'miou_things',
    'miou_grounds',
    'oracle_miou',
    'pixel_accuracy',
  ):
    if name in summary:
      before = summary.get(f'untrained_{name}')
      beside = '' if before is None else f'   untrained {before:5.1f}'
      lines.append(f'  {name:<16}{summary[name]:6.1f}{beside}')
  for found in summary['collapses']:
    until = 'the end' if found['end'] is None else f'step {found["end"]}'
    lines.append(
      f'  grouping collapse: {found["name"]}, from step {found["begin"]} to '
      f'{until}; the report says what helps'
    )
  lines += [
    f'  {summary["steps"]} steps of {summary["batch_size"]} images, '
    f'{summary["images_per_second"]:.0f} images/s, '
    f'{summary["wall_seconds"] / 60:.1f} minutes in all',
    f'  pictures: {pathlib.Path(workdir) / "report" / "index.html"}',
  ]
  return '\n'.join(lines)


def headline(figures: Mapping[str, float]) -> str:
  """Returns one line of the figures that matter, in percent."""
  shown = ('miou', 'miou_things', 'oracle_miou', 'pixel_accuracy')
  percent = evaluator.to_percent(figures)
  return '  '.join(
    f'{name} {percent[name]:.1f}' for name in shown if name in percent
  )


def _class_figures(config, log) -> dict[str, float]:
  """Returns the IoU of every class, in percent, now and before training."""
  figures = {}
  for prefix, step in (('', config.num_steps), ('untrained_', 0)):
    for row in log.rows:
      if row['step'] == step:
        figures |= {
          prefix + name.removeprefix('eval/'): 100.0 * value
          for name, value in row.items()
          if name.startswith('eval/iou/') and value is not None
        }
  return figures


def _notes(config) -> tuple[str, ...]:
  if config.data.source != 'scenes':
    return ()
  return (
    'Scenes are drawn by a program from a seed; figures on them say nothing '
    'of how well photographs would be segmented.',
  )
