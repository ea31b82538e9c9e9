"""From a benchmark's name to what measures it: data, protocol, evaluator.

Shared by `groupvit evaluate` and by training runs, each of which has a model.
"""

import dataclasses
import pathlib
from collections.abc import Callable

from jax.sharding import Mesh

from groupvit_jax import judge_pixels, judge_wholes
from groupvit_jax.errors import ConfigError, explained_as
from groupvit_jax.judge_names import NAMES, WHOLES
from groupvit_jax.judge_pixels import at_size
from groupvit_jax.judge_question import Encoder, Judge, Question

__all__ = [
  'NAMES',
  'WHOLES',
  'Encoder',
  'Judge',
  'Question',
  'at_size',
  'make',
]


def make(
  question: Question,
  encoder: Encoder,
  *,
  batch_size: int = 8,
  mesh: Mesh | None = None,
  journal: pathlib.Path | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> Judge:
  """Opens the data and prepares the evaluator.

  Args:
    question: what is to be measured.
    encoder: whose pictures they are.
    batch_size: pictures or windows of this process that go together.
    mesh: splits batches over its axis 'data'.
    journal: where it keeps what it has done, to go on from there.
    progress: told how many pictures are done, and how many there are.

  Returns:
    The judge.

  Raises:
    ConfigError: a question that cannot be asked.
    SourceError: data that are not there, or lie otherwise than they must.
  """
  if question.benchmark not in NAMES:
    raise ConfigError(
      f'there is no benchmark {question.benchmark!r}; choose one of '
      f'{", ".join(NAMES)}'
    )
  options = {
    'batch_size': batch_size,
    'mesh': mesh,
    'journal': journal,
    'progress': progress,
  }
  with explained_as(ConfigError):
    if question.benchmark in WHOLES:
      judge = judge_wholes.make(question, encoder, **options)
    else:
      judge = judge_pixels.make(question, encoder, **options)
  asked = {
    'benchmark': question.benchmark,
    'kind': judge.kind,
    'data': question.place,
    'split': question.read_split,
    'limit': question.limit,
    'skip_bad': question.skip_bad,
    'images': judge.total,
  }
  return dataclasses.replace(judge, settings=asked | dict(judge.settings))
