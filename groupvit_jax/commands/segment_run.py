"""A run of `groupvit segment`, once it is clear what has to be done.

Imported only then: what it needs takes a second to import.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

from groupvit_jax import files
from groupvit_jax.commands import arguments, batches, outputs
from groupvit_jax.commands.journal import Journal
from groupvit_jax.commands.pictures import Picture


class Run:
  """Segments pictures in batches and writes what was asked for."""

  def __init__(
    self,
    args: argparse.Namespace,
    names: Sequence[str],
    steps: Mapping[str, Any],
    done: Journal,
    todo: Sequence[Picture],
  ):
    """Prepares a run.

    Args:
      args: of the command line.
      names: of the classes.
      steps: fields of `SegmentConfig`.
      done: what the folder of the results has.
      todo: pictures that lack something.
    """
    self._args = args
    self._names = list(names)
    self._steps = steps
    self._done = done
    self._todo = todo
    self._failures = batches.Failures(len(todo))
    self._written = []

  def all(self) -> None:
    """Loads the model and goes through the pictures."""
    from groupvit_jax import inference

    self._model = inference.load(self._args.model)
    self._config = dataclasses.replace(self._model.config, **self._steps)
    self._done.begin()
    # Quiet for one picture, and where nobody looks (not a terminal).
    hidden = True if len(self._todo) == 1 else None
    bar = tqdm.tqdm(total=len(self._todo), unit='picture', disable=hidden)
    with bar:
      try:
        self._go(bar.update)
      except KeyboardInterrupt:
        raise KeyboardInterrupt(self._interrupted()) from None

  def _go(self, advance) -> None:
    # Several batches at a time: pictures are decoded ahead, and those of
    # similar shape go through the network together.
    size = 4 * self._args.batch
    for picture, result in batches.each(self._todo, self._ask, size):
      if isinstance(result, Exception):
        self._failures.add(result)
      else:
        self._write(picture, result)
      advance()

  def _ask(self, chunk):
    return self._model.segment(
      [str(picture.path) for picture in chunk],
      self._names,
      self._config,
      templates=arguments.templates(self._args),
      batch_size=self._args.batch,
    )

  def _write(self, picture, result) -> None:
    contents, errors = {}, []
    for kind in self._done.missing(picture, self._args.show):
      try:
        contents[kind] = outputs.make(kind, result, str(picture.path))
      except ValueError as error:
        errors.append(str(error))
    stem = self._done.stem(picture)
    for endings in contents.values():
      for ending, content in endings.items():
        path = self._args.out / f'{stem}{ending}'
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, content)
        self._written.append(path)
    made = {
      kind: [f'{stem}{ending}' for ending in endings]
      for kind, endings in contents.items()
    }
    if made:
      self._done.add(picture, made)
    if errors:
      self._failures.add(ValueError(f'{picture.path}: {"; ".join(errors)}'))

  def _interrupted(self) -> str:
    again = 'the same command'
    if self._args.overwrite:
      again += ' without --overwrite'
    return f'interrupted; {again} goes on where this one stopped'

  def tell(self, found: int) -> int:
    """Prints what became of the pictures; returns the exit code."""
    if found == 1 and self._written:
      print('\n'.join(map(str, self._written)))
      return 0
    failed, skipped = self._failures.count, found - len(self._todo)
    parts = [f'{len(self._todo) - failed} segmented']
    parts += [f'{skipped} skipped as done before'] * bool(skipped)
    parts += [f'{failed} failed'] * bool(failed)
    noun = 'picture' if found == 1 else 'pictures'
    print(f'{found} {noun}: {", ".join(parts)}; see {self._args.out}')
    return 1 if failed else 0
