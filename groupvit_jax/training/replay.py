"""The dump of a step without a finite gradient, and what was wrong in it.

A dump holds the batch and the random key of the step, and names the checkpoint
of its parameters.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import traverse_util
from jax.experimental import multihost_utils

from groupvit_jax import errors, sharding
from groupvit_jax.data import on_device
from groupvit_jax.training import checkpoint, loss, texts
from groupvit_jax.training import task as task_lib

_FOLDER = 'dumps'


@dataclasses.dataclass(frozen=True)
class Dump:
  """A step of a run.

  Attributes:
    step: its number, from 1.
    checkpoint: step of the checkpoint that has the parameters before it.
    rng: the step's key.
    samples: names of the batch's samples, in order.
    batch: as the step takes it.
  """

  step: int
  checkpoint: int
  rng: Any
  samples: list[str]
  batch: Mapping[str, Any]

  def write(self, workdir: pathlib.Path) -> pathlib.Path:
    """Writes a folder into the workdir; all processes call it together."""
    batch = self.batch
    if jax.process_count() > 1:
      batch = multihost_utils.process_allgather(dict(batch), tiled=True)
    path = workdir / _FOLDER / f'step_{self.step}'
    if jax.process_index() == 0:
      path.mkdir(parents=True, exist_ok=True)
      np.savez_compressed(path / 'batch.npz', **jax.device_get(dict(batch)))
      record = {
        'step': self.step,
        'checkpoint': self.checkpoint,
        'rng': np.asarray(jax.random.key_data(self.rng)).tolist(),
        'samples': self.samples,
      }
      (path / 'dump.json').write_text(json.dumps(record, indent=1) + '\n')
    return path

  @classmethod
  def read(cls, path: pathlib.Path) -> 'Dump':
    """Reads what `write` has written.

    Raises:
      WorkdirError: there is no dump, or it is damaged.
    """
    try:
      record = json.loads((path / 'dump.json').read_text())
      rng = jnp.asarray(record.pop('rng'), jnp.uint32)
      with np.load(path / 'batch.npz') as file:
        batch = dict(file)
      return cls(rng=jax.random.wrap_key_data(rng), batch=batch, **record)
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise errors.WorkdirError(
        f'{path} is no dump of a step: {error}; dumps are in WORKDIR/{_FOLDER}'
      ) from error


@contextlib.contextmanager
def _of_this_version(workdir: pathlib.Path) -> Iterator[None]:
  """Explains that the config of a run lacks a field."""
  try:
    yield
  except AttributeError as error:
    if not isinstance(error.obj, ml_collections.ConfigDict):
      raise
    raise errors.WorkdirError(
      f'{workdir}/config.json is of another version, without {error.name!r}; '
      'replay the dump with that version, whose steps may differ'
    ) from error


def replay(path: pathlib.Path) -> dict[str, Any]:
  """Runs the step of a dump again, on one device, and looks inside.

  Returns:
    Fit for JSON: `step`; `samples`; `terms`: by name of a loss term, its
    `value` and the `norm` of its gradient; `outputs`: layers
    with an output that is not finite, in the order of the forward pass;
    `gradients`: layers with a gradient of the loss that is not finite, in the
    order of the backward pass. Numbers that are not finite are text.

  Raises:
    WorkdirError: no dump, no checkpoint that belongs to it, or a config of
      another version.
  """
  dump = Dump.read(path)
  workdir = path.absolute().parents[1]
  with _of_this_version(workdir):
    return _replay(dump, workdir)


def _replay(dump: Dump, workdir: pathlib.Path) -> dict[str, Any]:
  arrays = checkpoint.read(workdir, dump.checkpoint)
  config = ml_collections.ConfigDict(
    json.loads((workdir / 'config.json').read_text())
  )
  config.remat = False  # its layers run twice
  flat = {tuple(path.split('/')): jnp.asarray(x) for path, x in arrays.items()}
  nested = traverse_util.unflatten_dict(flat)
  variables = {k: nested.get(k, {}) for k in ('params', 'batch_stats')}
  vocab_size = variables['params']['text']['tokens'].shape[0]
  mesh = sharding.make_mesh(jax.devices()[:1])
  task = task_lib.make(config, vocab_size, mesh)
  # Texts in full: what is added to them is for the devices of the run.
  batch = {
    k: jnp.asarray(v) for k, v in dump.batch.items() if k not in texts.ADDED
  }

  def value_of(params: Any, name: str) -> jax.Array:
    given = variables | {'params': params}
    inputs = on_device.augmented(batch, mesh)
    return task.loss_fn(given, inputs, dump.rng)[1][1][name]

  params = variables['params']
  order, outputs = _forward(lambda: value_of(params, 'loss'))
  names = jax.eval_shape(task.loss_fn, variables, batch, dump.rng)[1][1]
  differentiated = jax.jit(jax.value_and_grad(value_of), static_argnums=1)
  terms, gradients = {}, {}
  for name in loss.TERMS:
    if name in names:
      value, gradients[name] = differentiated(params, name)
      norm = optax.global_norm(gradients[name])
      terms[name] = {'value': _shown(value), 'norm': _shown(norm)}
  return {
    'step': dump.step,
    'samples': dump.samples,
    'terms': terms,
    'outputs': outputs,
    'gradients': _backward(gradients['loss'], order),
  }


def _forward(value: Callable[[], jax.Array]) -> tuple[list[str], list[str]]:
  """Layers in the order in which they end, and those whose output is bad."""
  order: list[str] = []
  bad: set[int] = set()

  def look(next_fun, args, kwargs, context):
    out = next_fun(*args, **kwargs)
    floats = [
      x
      for x in jax.tree.leaves(out)
      if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    ]
    if context.method_name == '__call__' and floats:
      number = len(order)
      order.append('/'.join(context.module.path))
      finite = jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))
      jax.debug.callback(lambda ok: None if ok else bad.add(number), finite)
    return out

  def observed():
    with nn.intercept_methods(look):
      return value()

  jax.block_until_ready(jax.jit(observed)())
  jax.effects_barrier()
  return order, [order[number] or 'model' for number in sorted(bad)]


def _backward(gradients: Any, order: list[str]) -> list[str]:
  """Layers with a gradient that is not finite, the last of `order` first."""
  bad: dict[str, int] = {}
  for path, x in jax.tree_util.tree_flatten_with_path(gradients)[0]:
    if not np.isfinite(x).all():
      *layer, _ = [key.key for key in path]
      name = '/'.join(layer)
      ends = [i for i, known in enumerate(order) if known == name]
      bad[name or 'model'] = max(ends, default=len(order))
  return sorted(bad, key=bad.__getitem__, reverse=True)


def _shown(value: Any) -> float | str:
  number = float(value)
  return number if np.isfinite(number) else str(number)


def as_text(report: Mapping[str, Any]) -> str:
  """A replayed step as lines for a terminal."""
  samples = report['samples']
  more = f' and {len(samples) - 3} more' if len(samples) > 3 else ''
  lines = [
    f'step {report["step"]}: {", ".join(samples[:3])}{more}',
    f'{"term":<24}{"value":>14}{"gradient norm":>16}',
  ]
  for name, found in report['terms'].items():
    value, norm = (
      x if isinstance(x, str) else f'{x:.5g}' for x in found.values()
    )
    lines.append(f'{name:<24}{value:>14}{norm:>16}')
  for what, key in (
    ('first output that is not finite', 'outputs'),
    ('first gradient that is not finite, backwards', 'gradients'),
  ):
    first, *others = report[key] or ['none']
    lines.append(f'{what}: {first}')
    lines += [f'  then {name}' for name in others[:9]]
    lines += [f'  and {len(others) - 9} more'] if len(others) > 9 else []
  return '\n'.join(lines)
