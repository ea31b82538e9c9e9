"""What tells labels from corrected ones of the same pictures.

Nothing is decoded, and no shard is read: an evaluation that goes on looks at
it before it starts.
"""

import pathlib
import zlib
from typing import Any

from groupvit_jax import files
from groupvit_jax.data.benchmarks import label_lists
from groupvit_jax.judge_question import Question


def of_labels(question: Question, examples: Any) -> list[Any]:
  """Plain values that change when labelled pictures get other labels.

  Args:
    question: about which folder.
    examples: as they were opened.

  Returns:
    Of labels.jsonl its checksum, of shards each one's state. Nothing for
    folders named after their class: there the names of pictures tell it.
  """
  names = (examples.name(i) for i in range(len(examples)))
  shards = sorted({name.rpartition('#')[0] for name in names if '#' in name})
  states = [_state(pathlib.Path(shard)) for shard in shards]
  root = files.expanded(question.folder) / (question.split or '')
  listed = root / label_lists.NAME
  if listed.is_file():
    states.append(zlib.crc32(listed.read_bytes()))
  return [state for state in states if state is not None]


def _state(path: pathlib.Path) -> list[int] | None:
  if not path.is_file():
    return None
  state = path.stat()
  return [state.st_size, state.st_mtime_ns]
