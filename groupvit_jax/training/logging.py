"""What a run tells: metrics.jsonl for the report, TensorBoard, one log line.

clu's writers need TensorFlow; where it is absent the JSON lines and the log
remain, so that training works there too.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from groupvit_jax import files


class RunLog:
  """Writes scalar metrics by step.

  Attributes:
    rows: all rows so far, each a dict with `step`.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    resumed_at: int,
    num_steps: int,
    active: bool,
  ):
    """Opens the log.

    Args:
      workdir: receives metrics.jsonl and tensorboard/.
      resumed_at: later rows on disk are of a lost future and go.
      num_steps: of the whole run, for the time that is left.
      active: False in all processes but the first, which write nothing.
    """
    self._path = workdir / 'metrics.jsonl'
    self._active = active
    self.rows = [r for r in read_rows(self._path) if r['step'] <= resumed_at]
    self._writer, self._progress = None, None
    if active:
      text = ''.join(json.dumps(row) + '\n' for row in self.rows)
      files.write_atomically(self._path, text)
      self._writer, self._progress = _tensorboard(workdir, num_steps)

  def tick(self, step: int) -> None:
    """Tells that a step was dispatched (clu's ReportProgress: steps/s, ETA)."""
    if self._progress:
      self._progress(step)

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Records `values` (numbers) at `step`; vectors do not belong here."""
    row = {'step': step, **{k: float(v) for k, v in values.items()}}
    self.rows.append(row)
    if not self._active:
      return
    finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
    with self._path.open('a') as file:
      file.write(json.dumps(finite | {'step': step}) + '\n')
    if self._writer:
      self._writer.write_scalars(step, {k: row[k] for k in values})

  def images(self, step: int, images: Mapping[str, Any]) -> None:
    """Records pictures (uint8 `b h w 3`) in TensorBoard where there is one."""
    if self._active and self._writer:
      self._writer.write_images(step, images)

  def text(self, step: int, name: str, text: str) -> None:
    """Records words in TensorBoard where there is one."""
    if self._active and self._writer:
      self._writer.write_texts(step, {name: text})

  def has(self, place: str, step: int) -> bool:
    """Whether a row of this step has figures of `place`, such as 'eval'."""
    return any(
      name.startswith(f'{place}/')
      for row in self.rows
      if row['step'] == step
      for name in row
    )

  def value(self, name: str, step: int) -> float | None:
    """Returns the recorded value of `name` at `step`, or None."""
    found = [r[name] for r in self.rows if r['step'] == step and name in r]
    return found[-1] if found else None

  def close(self) -> None:
    if self._writer:
      self._writer.flush()
      self._writer.close()


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads metrics.jsonl; a last line cut by a killed process is left out."""
  rows = []
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        logging.warning('%s: left out an incomplete line', path)
  return rows


def _tensorboard(workdir: pathlib.Path, num_steps: int):
  """Returns clu's writer and progress report, or nothing without TensorFlow."""
  try:
    from clu import metric_writers, periodic_actions
  except ImportError as error:
    logging.info(
      'no TensorBoard log, only metrics.jsonl; for both '
      "pip install 'groupvit_jax[train]' brings what is missing: %s",
      (error.name or str(error)).split('.')[0],
    )
    return None, None
  writer = metric_writers.AsyncMultiWriter(
    [metric_writers.SummaryWriter(str(workdir / 'tensorboard'))]
  )
  progress = periodic_actions.ReportProgress(
    num_train_steps=num_steps, writer=writer, every_secs=60.0
  )
  return writer, progress
