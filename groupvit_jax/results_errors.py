"""Where a run's errors come from: the counts of its last evaluation.

They stand in the workdir, so that a run that is finished, or resumed, has them
for its report as well.
"""

import json
import pathlib
from typing import Any

from groupvit_jax import files
from groupvit_jax.evaluation import diagnosis

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
