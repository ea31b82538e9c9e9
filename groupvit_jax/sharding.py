"""Devices, processes, and how arrays are laid out over them.

Batches are split over all devices. The mesh has the axis 'data'; a second one,
'fsdp', also splits parameters and optimizer state, which are whole on every
device without it. The same calls serve one CPU, eight GPUs or a pod.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from groupvit_jax import errors

AXIS = 'data'
FSDP = 'fsdp'
# Arrays of fewer numbers stay whole: gathering them costs more than it saves.
_SPLIT_FROM = 1024


def initialize_distributed() -> None:
  """Connects the processes of a run; call it before anything else of jax.

  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe the
  run; jax finds what they leave open through the cluster (TPU pod, Slurm,
  Kubernetes, Open MPI).

  Raises:
    ConfigError: They are incomplete, and there is no cluster.
  """
  if jax.distributed.is_initialized():
    return
  try:
    jax.distributed.initialize(  # which reads JAX_COORDINATOR_ADDRESS itself
      num_processes=_from_environment('JAX_NUM_PROCESSES'),
      process_id=_from_environment('JAX_PROCESS_ID'),
    )
  except ValueError as error:
    raise errors.ConfigError(
      f'jax found no cluster ({str(error).rstrip(".")}); set '
      'JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and '
      'JAX_PROCESS_ID (from 0) for each process.'
    ) from error
  logging.info(
    'Process %d of %d, %d local of %d devices.',
    jax.process_index(),
    jax.process_count(),
    jax.local_device_count(),
    jax.device_count(),
  )


def _from_environment(name: str) -> int | None:
  value = os.environ.get(name)
  return int(value) if value else None


class _Target(NamedTuple):
  """Platform and mesh that a program is traced for."""

  platform: str | None = None
  mesh: Mesh | None = None


_HERE = _Target()
_target: ContextVar[_Target] = ContextVar('target', default=_HERE)


def platform() -> str:
  """Platform of the program that is traced: 'cpu', 'gpu', 'tpu'.

  Inside `traced_for` its platform, else that of jax's default devices: a
  program may be compiled for devices that this machine does not have.
  """
  return _target.get().platform or jax.default_backend()


def mesh_at_hand() -> Mesh | None:
  """The mesh of the program that is traced, where `traced_for` says it."""
  return _target.get().mesh


@contextlib.contextmanager
def traced_for(platform: str, mesh: Mesh | None = None) -> Iterator[None]:
  """Traces what is inside for a platform; also decorates a function."""
  token = _target.set(_Target(platform, mesh))
  try:
    yield
  finally:
    _target.reset(token)


def on_each_device(
  function: Callable[..., jax.Array],
  mesh: Mesh | None,
  *arrays: jax.Array,
  whole: Sequence[jax.Array] = (),
) -> jax.Array:
  """`function` of the rows of arrays that each device of a mesh holds.

  For what XLA does not split over devices by itself, as a kernel. The arrays in
  `whole` come last, and every device gets all of them.
  """
  if mesh is None or mesh.size == 1:
    return function(*arrays, *whole)
  rows = PartitionSpec(batch_axes(mesh))
  specs = (*(rows for _ in arrays), *(PartitionSpec() for _ in whole))
  return jax.shard_map(
    function, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False
  )(*arrays, *whole)


def make_mesh(devices: Sequence[Any] | None = None, fsdp: int = 1) -> Mesh:
  """A mesh with the axis 'data', and with 'fsdp' where that is above 1.

  Args:
    devices: Devices to use; None: all of all processes.
    fsdp: Number of devices that share one copy of parameters and optimizer
      state.

  Returns:
    The mesh. Its axes are Auto: the default of `jax.make_mesh`, Explicit,
    makes ordinary code on sharded arrays raise.

  Raises:
    ConfigError: The devices do not divide into groups of `fsdp`.
  """
  devices = jax.devices() if devices is None else devices
  shape = {AXIS: len(devices) // fsdp, FSDP: fsdp}
  if len(devices) % fsdp:
    raise errors.ConfigError(
      f'mesh.fsdp is {fsdp}, which does not divide {len(devices)} devices; '
      'choose a divisor, or 1'
    )
  if fsdp == 1:
    del shape[FSDP]
  return jax.make_mesh(
    tuple(shape.values()),
    tuple(shape),
    axis_types=(AxisType.Auto,) * len(shape),
    devices=devices,
  )


def batch_axes(mesh: Mesh) -> Any:
  """The axes that a batch is split over, as JAX takes them: all of them."""
  first, *others = mesh.axis_names
  return (first, *others) if others else first


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Splits the first axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


class _Part(NamedTuple):
  """A part of the global batch: every device's rows, `index` of `count`."""

  index: Any
  count: int
  devices: int


_part: ContextVar[_Part | None] = ContextVar('part', default=None)


@contextlib.contextmanager
def part_of_batch(index: Any, count: int, mesh: Mesh | None) -> Iterator[None]:
  """Traces what is inside for a part of the batch, as `parted` makes them."""
  token = _part.set(_Part(index, count, mesh.size if mesh else 1))
  try:
    yield
  finally:
    _part.reset(token)


def drawn(
  draw: Callable[[tuple[int, ...]], jax.Array],
  shape: Sequence[int],
  axis: int = 0,
) -> jax.Array:
  """Random numbers for the examples at hand.

  Inside `part_of_batch` they are those that the whole batch would get, so that
  noise is a function of the key and the example.
  """
  part, shape = _part.get(), tuple(shape)
  if part is None:
    return draw(shape)
  before, examples, after = shape[:axis], shape[axis], shape[axis + 1 :]
  everything = draw((*before, examples * part.count, *after))
  rows = examples // part.devices
  rows = everything.reshape(*before, part.devices, part.count, rows, *after)
  rows = jax.lax.dynamic_index_in_dim(rows, part.index, axis + 1, False)
  return rows.reshape(shape)


def parted(tree: Any, count: int, mesh: Mesh | None) -> Any:
  """Splits the rows of each device into parts of equal size.

  Args:
    tree: Of arrays of the global batch, b ...; b divides by `count` times the
      devices.
    count: Number of parts.
    mesh: Of the batch; None: one device.

  Returns:
    Tree of arrays, count b/count ...; no row leaves its device.
  """
  devices = mesh.size if mesh else 1

  def split(x: jax.Array) -> jax.Array:
    rows = x.reshape(devices, count, -1, *x.shape[1:]).swapaxes(0, 1)
    return _constrained(rows.reshape(count, -1, *x.shape[1:]), mesh, 1)

  return jax.tree.map(split, tree)


def joined(tree: Any, mesh: Mesh | None) -> Any:
  """The inverse of `parted`."""
  devices = mesh.size if mesh else 1

  def join(x: jax.Array) -> jax.Array:
    rows = x.reshape(x.shape[0], devices, -1, *x.shape[2:]).swapaxes(0, 1)
    return _constrained(rows.reshape(-1, *x.shape[2:]), mesh, 0)

  return jax.tree.map(join, tree)


def _constrained(x: jax.Array, mesh: Mesh | None, axis: int) -> jax.Array:
  """Splits an axis over all devices of a mesh."""
  if mesh is None:
    return x
  spec = PartitionSpec(*[None] * axis, batch_axes(mesh))
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def state_sharding(tree: Any, mesh: Mesh) -> Any:
  """How parameters, or moments of them, lie on a mesh.

  Args:
    tree: Tree of arrays or of their shapes.
    mesh: Of all processes.

  Returns:
    Tree of shardings. With an axis 'fsdp', matrices and larger arrays are split
    over it along their largest axis that divides, the last one of equal ones;
    all else is whole on every device.
  """
  parts = mesh.shape.get(FSDP, 1)

  def sharding_of(x: Any) -> NamedSharding:
    axes = [i for i, size in enumerate(x.shape) if size % parts == 0]
    if parts == 1 or x.ndim < 2 or x.size < _SPLIT_FROM or not axes:
      return replicated(mesh)
    split = max(axes, key=lambda i: (x.shape[i], i))
    names = [FSDP if i == split else None for i in range(x.ndim)]
    return NamedSharding(mesh, PartitionSpec(*names))

  return jax.tree.map(sharding_of, tree)


def split(tree: Any, mesh: Mesh | None) -> Any:
  """The same arrays, placed as `state_sharding` says; also inside jit."""
  if mesh is None or FSDP not in mesh.shape:
    return tree
  return jax.jit(lambda x: x, out_shardings=state_sharding(tree, mesh))(tree)


def whole(tree: Any) -> Any:
  """The same arrays, whole on every device; all processes call it together.

  A tree in which nothing is split is returned as it is.
  """
  parts = [x for x in jax.tree.leaves(tree) if not x.is_fully_replicated]
  if not parts:
    return tree
  everywhere = replicated(parts[0].sharding.mesh)
  return jax.jit(lambda x: x, out_shardings=everywhere)(tree)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Makes global arrays of the batches that the processes hold.

  Args:
    batch: Tree of numpy arrays: this process's part of the global batch, of
      equal size in every process.
    mesh: Mesh of all processes.

  Returns:
    Tree of jax arrays of the global batch, split along the first axis.
  """
  place = functools.partial(
    jax.make_array_from_process_local_data, batch_sharding(mesh)
  )
  return jax.tree.map(lambda x: place(np.asarray(x)), batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Puts a tree, equal in every process, whole on every device.

  By way of numpy, because `jax.device_put` of a jax array onto a mesh of
  several one-device processes gives a broken array. The result shares no
  memory with the input, so that a step may donate it.

  Args:
    tree: Tree of numpy or jax arrays, or scalars.
    mesh: Mesh of all processes.

  Returns:
    The tree with replicated jax arrays.
  """
  sharding = replicated(mesh)
  # The copy: on a CPU device_put may otherwise alias the numpy memory.
  return jax.tree.map(lambda x: jax.device_put(np.array(x), sharding), tree)


def fit_batch_size(requested: int) -> int:
  """The global batch size nearest below that all devices can share equally.

  Args:
    requested: Global batch size that the configuration asks for.

  Returns:
    A multiple of the number of devices, at least one example for each. A
    change is logged.
  """
  count = jax.device_count()
  size = max(requested // count, 1) * count
  if size != requested:
    logging.info(
      'Batch size %d fitted to %d for %d %s device(s).',
      requested,
      size,
      count,
      jax.devices()[0].platform,
    )
  return size


def local_mesh(mesh: Mesh | None) -> Mesh | None:
  """The part of a mesh that lies in this process; None stays None.

  Training runs every program in all processes at once. An evaluation need not:
  images differ in size, so each process takes its share at its own pace, and
  `gather` collects the results.
  """
  if mesh is None or jax.process_count() == 1:
    return mesh
  mine = [
    d for d in mesh.devices.flat if d.process_index == jax.process_index()
  ]
  return make_mesh(mine)


def local_view(tree: Any, mesh: Mesh | None) -> Any:
  """Arrays that lie whole on every device, as this process's own.

  Nothing is copied: the result holds the same memory.

  Args:
    tree: of arrays, global ones replicated.
    mesh: from `local_mesh`; None for a single device.
  """

  def view(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
      return x
    shards = [shard.data for shard in x.addressable_shards]
    if mesh is None:
      return shards[0]
    return jax.make_array_from_single_device_arrays(
      x.shape, replicated(mesh), shards
    )

  return jax.tree.map(view, tree)


def gather(value: Any) -> list[Any]:
  """The values of all processes, in their order.

  Args:
    value: fit for JSON, but for arrays, which may come back as lists. Every
      process must make the same number of calls.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(
    json.dumps(value, default=np.ndarray.tolist).encode(), np.uint8
  )
  lengths = multihost_utils.process_allgather(np.int32(len(data)))
  padded = np.zeros(int(lengths.max()), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(bytes(row[:length]))
    for row, length in zip(rows, lengths.tolist(), strict=True)
  ]
