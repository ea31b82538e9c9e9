"""Records of a finished run: snapshots, summary.json and the report page.

Collects them from the run; `report` draws the page.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from groupvit_jax import files
from groupvit_jax.evaluation import diagnosis, evaluator
from groupvit_jax.training import collapse, report, task
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import logging as logging_lib
from groupvit_jax.viz import colours as colours_lib
from groupvit_jax.viz import overlay

FORMING = 4  # images whose groups are shown at several steps
FORMING_STEPS = 6  # how many of these steps the report shows
_REGROUPED = {
  'first_groups': 'learned_groups',
  'final_groups': 'remade_groups',
}
SIDE = 112  # pixels; small images are enlarged to it in TensorBoard

# Figures of an evaluation that a line about it shows.
HEADLINE = (
  *('miou', 'miou_things', 'miou_grounds', 'oracle_miou', 'pixel_accuracy'),
  *('top1', 'top5', 'mean_top1_top5', 'mean_per_class'),
  *('roc_auc', 'map_11_point', 'image_to_text_r1', 'text_to_image_r1'),
)


def finished(workdir: pathlib.Path, num_steps: int) -> dict[str, Any] | None:
  """Returns the summary of a workdir whose run has ended; else None."""
  path = workdir / 'summary.json'
  if (
    not path.exists() or not (workdir / 'checkpoints' / f'{num_steps}').exists()
  ):
    return None
  try:
    summary = json.loads(path.read_text())
  except ValueError:  # damaged: the run is ended once more
    return None
  return summary if summary.get('steps') == num_steps else None


def write_confusion(workdir: pathlib.Path, step: int, result: Any) -> None:
  """Writes the matrices of the last evaluation, for the report's errors.

  Args:
    workdir: of the run; a resumed run reads the file again.
    step: of the evaluation.
    result: a `BenchmarkResult`.
  """
  text = json.dumps({'step': step, **diagnosis.stored(result)})
  files.write_atomically(workdir / 'confusion.json', text + '\n')


def errors_as_html(workdir: pathlib.Path, step: int) -> str:
  """Tables of the errors at `step`; '' if it counted none."""
  path = workdir / 'confusion.json'
  counts = json.loads(path.read_text()) if path.exists() else {}
  if counts.get('step') != step:
    return ''
  return diagnosis.as_html(diagnosis.of_result(counts))


class Snapshots:
  """Groups and labels of the same validation images at several steps."""

  def __init__(
    self,
    workdir: pathlib.Path,
    images: Mapping[str, Any],
    *,
    regrouped: bool = False,
  ) -> None:
    """Takes the images.

    Args:
      workdir: of the run.
      images: image uint8 n h w 3, label n h w, captions.
      regrouped: whether the last groups are remade from tokens.
    """
    self._folder = workdir / 'snapshots'
    self._images = images
    self._regrouped = regrouped

  def discard_after(self, step: int) -> None:
    """Removes snapshots of later steps, which a lost future has left."""
    for later in self.steps():
      if later > step and jax.process_index() == 0:
        self._path(later).unlink()

  def take(
    self,
    step: int,
    predict: Callable[[np.ndarray], Mapping[str, Any]],
    log: logging_lib.RunLog,
  ) -> None:
    """Saves the maps of `predict(images)`, and shows them in TensorBoard."""
    if not self._images:
      return
    result = predict(self._images['image'])  # by all processes together
    if jax.process_index():
      return
    # Groups of patches can be more than 256.
    arrays = {'prediction': result['prediction'].astype(np.uint16)}
    if result['groups']:
      arrays['final_groups'] = result['groups'][-1].astype(np.uint16)
    if len(result['groups']) > 1:  # of one stage, the first are the final ones
      arrays['first_groups'] = result['groups'][0].astype(np.uint16)
    classes, groups = colours_lib.palette(256), colours_lib.group_palette(256)
    views = {
      name: self._overlays(maps, classes if name == 'prediction' else groups)
      for name, maps in arrays.items()
    }
    if not self.steps():  # these two do not change
      images = self._images['image'][:FORMING]
      views['image'] = np.stack([overlay.enlarge(i, SIDE) for i in images])
      views['ground_truth'] = self._overlays(self._images['label'], classes)
    self._folder.mkdir(exist_ok=True)
    np.savez_compressed(self._path(step), **arrays)
    log.images(step, {f'images/{k}': v for k, v in views.items()})

  def steps(self) -> list[int]:
    """Returns the steps with a snapshot, in order."""
    return sorted(int(path.stem) for path in self._folder.glob('*.npz'))

  def at(self, step: int, count: int | None = None) -> list[dict[str, Any]]:
    """Returns the first images of a step as `report.Report` takes them."""
    with np.load(self._path(step)) as file:
      arrays = dict(file)
    if self._regrouped:
      for old, new in _REGROUPED.items():
        arrays |= {new: arrays.pop(old)} if old in arrays else {}
    arrays |= {
      'image': self._images['image'],
      'ground_truth': self._images['label'],
      'caption': self._images['caption'],
    }
    return [
      dict(zip(arrays, values, strict=True))
      for values in zip(*arrays.values(), strict=False)
    ][:count]

  def _path(self, step: int) -> pathlib.Path:
    return self._folder / f'{step:08d}.npz'

  def _overlays(self, maps: np.ndarray, colours: np.ndarray) -> np.ndarray:
    images = self._images['image'][:FORMING]
    return np.stack(
      [
        overlay.overlay(image, labels, colours, min_side=SIDE)
        for image, labels in zip(images, maps[:FORMING], strict=True)
      ]
    )


def summarise(
  config: config_lib.Config,
  log: logging_lib.RunLog,
  clock: logging_lib.Clock,
  events: Sequence[collapse.CollapseEvent],
) -> dict[str, Any]:
  """Returns the summary of a finished run; shares are in percent."""
  figures = _first_and_last(config, log)
  speed = clock.images / clock.train_seconds if clock.images else 0.0
  return {
    **{name: round(x, 2) for name, x in figures.items() if 'iou/' not in name},
    'train_loss': log.value('train/loss', config.num_steps),
    'steps': config.num_steps,
    'batch_size': config.batch_size,
    'seed': config.seed,
    **_bad_samples(config, log),
    'images_per_second': round(speed, 1),
    'train_seconds': round(clock.train_seconds, 1),
    'wall_seconds': round(clock.wall_seconds, 1),
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'collapses': [
      {'name': event.kind.name, 'begin': event.begin, 'end': event.end}
      for event in events
    ],
  }


def _bad_samples(
  config: config_lib.Config, log: logging_lib.RunLog
) -> dict[str, int]:
  """Bad samples that were replaced: `bad_samples`, and `/<reason>` of each."""
  counts = {
    name.removeprefix('train/'): int(value)
    for row in log.rows
    if row['step'] == config.num_steps
    for name, value in row.items()
    if name.startswith('train/bad_samples')
  }
  return {'bad_samples': 0} | counts


def write(
  workdir: pathlib.Path,
  config: config_lib.Config,
  class_names: tuple[str, ...],
  log: logging_lib.RunLog,
  snapshots: Snapshots,
  summary: Mapping[str, Any],
  events: Sequence[collapse.CollapseEvent],
) -> None:
  """Writes the report page of a run and its summary.json."""
  steps = snapshots.steps()
  count = min(len(steps), FORMING_STEPS)
  chosen = {steps[round(i)] for i in np.linspace(0, len(steps) - 1, count)}
  figures = {k: v for k, v in summary.items() if k != 'collapses'}
  notes = []
  if config.data.source == 'scenes':
    notes = [
      'Scenes are synthetic images; the figures say nothing about photos.'
    ]
  page = report.Report(
    title=f'{task.TASKS[config.task]} on {config.data.source}',
    figures=_first_and_last(config, log) | figures,
    config_text=config_lib.to_json(config),
    rows=log.rows,
    examples=snapshots.at(steps[-1]) if steps else (),
    snapshots=[(step, snapshots.at(step, FORMING)) for step in sorted(chosen)],
    class_names=class_names,
    notes=notes,
    events=events,
    errors=errors_as_html(workdir, config.num_steps),
  )
  path = page.write(workdir / 'report')
  text = json.dumps(summary, indent=2) + '\n'
  files.write_atomically(workdir / 'summary.json', text)
  logging.info('report: %s', path)


def as_text(summary: Mapping[str, Any], workdir: str | pathlib.Path) -> str:
  """Returns the summary as the lines that end a run."""
  lines = ['']
  for name in HEADLINE:
    if name in summary:
      before = summary.get(f'untrained_{name}')
      beside = '' if before is None else f'   untrained {before:5.1f}'
      lines.append(f'  {name:<16}{summary[name]:6.1f}{beside}')
  for event in summary['collapses']:
    period = collapse.period(event['begin'], event['end'])
    lines.append(
      f'  grouping collapse: {event["name"]}, {period}; the report says what '
      'helps'
    )
  if summary.get('bad_samples'):
    reasons = ', '.join(
      f'{count} {name.removeprefix("bad_samples/")}'
      for name, count in summary.items()
      if name.startswith('bad_samples/')
    )
    lines.append(
      f'  {summary["bad_samples"]} bad samples were replaced: {reasons}'
    )
  lines += [
    f'  {summary["steps"]} steps of {summary["batch_size"]} images, '
    f'{summary["images_per_second"]:.0f} images/s, '
    f'{summary["wall_seconds"] / 60:.1f} minutes in all',
    f'  report: {pathlib.Path(workdir) / "report" / "index.html"}',
  ]
  return '\n'.join(lines)


def evaluated(row: Mapping[str, Any]) -> dict[str, float]:
  """The figures of an evaluation in a row of the log, in percent."""
  return evaluator.to_percent(
    {
      name.removeprefix('eval/'): value
      for name, value in row.items()
      if name.startswith('eval/') and value is not None
    }
  )


def headline(row: Mapping[str, Any]) -> dict[str, float]:
  """Those of them that a line has room for."""
  figures = evaluated(row)
  return {name: figures[name] for name in HEADLINE if name in figures}


def _first_and_last(
  config: config_lib.Config, log: logging_lib.RunLog
) -> dict[str, float]:
  """Figures at the end of the run, and of the untrained model."""
  return {
    prefix + name: value
    for prefix, step in (('', config.num_steps), ('untrained_', 0))
    for row in log.rows
    if row['step'] == step
    for name, value in evaluated(row).items()
  }
