"""Records of a run: metrics.jsonl, TensorBoard, Weights & Biases, the clock.

clu's writers need TensorFlow; where it is absent the JSON lines and the log
remain, so that training works there too.
"""

import importlib
import json
import math
import pathlib
import secrets
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

from groupvit_jax import files
from groupvit_jax.errors import ConfigError


class Clock:
  """Wall and training seconds of a run, over all its resumptions.

  Attributes:
    images: images trained on within `train_seconds`.
  """

  def __init__(self) -> None:
    self._begin = time.monotonic()
    self._mark: float | None = None  # while training
    self._trained = 0.0  # seconds before the mark
    self._lap = (0, 0.0)  # images and seconds at the last lap
    self.images = 0

  def resume(self, meta: Mapping[str, Any]) -> None:
    """Adds the time that earlier processes of the run have spent."""
    self._begin -= meta['wall_seconds']
    self._trained = meta['train_seconds']
    self.images = meta['images']
    self._lap = self.images, self._trained

  @property
  def wall_seconds(self) -> float:
    """Seconds since the run began, pauses between processes left out."""
    return time.monotonic() - self._begin

  @property
  def train_seconds(self) -> float:
    """Seconds of training, without compilation and evaluation."""
    running = 0.0 if self._mark is None else time.monotonic() - self._mark
    return self._trained + running

  def start(self) -> None:
    """Training begins or goes on; the time before does not count as it."""
    self._mark = time.monotonic()

  def stop(self) -> None:
    """Something else begins, such as an evaluation."""
    self._trained, self._mark = self.train_seconds, None

  def count(self, images: int) -> None:
    """Adds the images of a step."""
    self.images += images

  def lap(self) -> float | None:
    """Images per second of training since the last lap; None without any."""
    images, seconds = self._lap
    self._lap = self.images, self.train_seconds
    if self.images == images:
      return None
    return (self.images - images) / (self._lap[1] - seconds)

  def as_meta(self) -> dict[str, float]:
    """Values for `resume`."""
    return {
      'wall_seconds': self.wall_seconds,
      'train_seconds': self.train_seconds,
      'images': self.images,
    }


def duration(seconds: float) -> str:
  """'45 s', '12 min' or '3.4 h'."""
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 5400:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


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
    project: str = '',
  ) -> None:
    """Opens the log.

    Args:
      workdir: receives metrics.jsonl and tensorboard/.
      resumed_at: rows of later steps are of a lost future and are removed; -1
        removes all.
      num_steps: of the whole run, for the time that is left.
      active: False in all processes but the first, which write nothing.
      project: of Weights & Biases, which then gets every row; '' for none.

    Raises:
      ConfigError: Weights & Biases does not start.
    """
    self._path = workdir / 'metrics.jsonl'
    self._active = active
    self.rows = [r for r in read_rows(self._path) if r['step'] <= resumed_at]
    self._writer, self._progress, self._wandb = None, None, None
    if active:
      text = ''.join(json.dumps(row) + '\n' for row in self.rows)
      files.write_atomically(self._path, text)
      self._writer, self._progress = _tensorboard(workdir, num_steps)
    if active and project:
      self._wandb = _wandb(workdir, project)

  def tick(self, step: int) -> None:
    """Counts a dispatched step (clu's ReportProgress: steps/s, ETA)."""
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
    if self._wandb:
      self._wandb.log({k: row[k] for k in values}, step=step)

  def images(self, step: int, images: Mapping[str, Any]) -> None:
    """Records images (uint8 `b h w 3`) in TensorBoard where there is one."""
    if self._writer:
      self._writer.write_images(step, images)

  def text(self, step: int, name: str, text: str) -> None:
    """Records text in TensorBoard where there is one."""
    if self._writer:
      self._writer.write_texts(step, {name: text})

  def has(self, place: str, step: int) -> bool:
    """Whether a row of this step has figures of `place`, such as 'eval'."""
    return any(
      row['step'] == step and any(name.startswith(f'{place}/') for name in row)
      for row in self.rows
    )

  def value(self, name: str, step: int) -> float | None:
    """Returns the recorded value of `name` at `step`, or None."""
    found = [r[name] for r in self.rows if r['step'] == step and name in r]
    return found[-1] if found else None

  def close(self) -> None:
    """Writes what is pending."""
    if self._writer:
      self._writer.flush()
      self._writer.close()
    if self._wandb:
      self._wandb.finish()


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


def _wandb(workdir: pathlib.Path, project: str) -> Any:
  """Starts, or resumes, the run of a workdir in Weights & Biases.

  WANDB_MODE=offline, WANDB_API_KEY and the like are read by wandb itself.
  """
  wandb = importlib.import_module('wandb')
  record = workdir / 'wandb_id'
  if not record.exists():
    files.write_atomically(record, secrets.token_hex(4))
  try:
    return wandb.init(
      project=project,
      name=workdir.name,
      id=record.read_text(),
      resume='allow',
      dir=str(workdir),
      config=json.loads((workdir / 'config.json').read_text()),
    )
  except Exception as error:  # no key, no network, no such project
    raise ConfigError(
      f'run.wandb={project}: Weights & Biases does not start '
      f'({" ".join(str(error).split()):.200}); set WANDB_MODE=offline to log '
      'without a connection, or run.wandb to nothing'
    ) from error


def _tensorboard(workdir: pathlib.Path, num_steps: int) -> tuple[Any, Any]:
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
