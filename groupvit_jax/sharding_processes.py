"""Processes that work apart and put their results together at the end.

Training runs every program in all processes at once. An evaluation need not:
pictures differ in size, so each process takes its share at its own pace.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from groupvit_jax import sharding


def local_mesh(mesh: Mesh | None) -> Mesh | None:
  """The part of a mesh that lies in this process; None stays None."""
  if mesh is None or jax.process_count() == 1:
    return mesh
  mine = [
    d for d in mesh.devices.flat if d.process_index == jax.process_index()
  ]
  return sharding.make_mesh(mine)


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
      x.shape, sharding.replicated(mesh), shards
    )

  return jax.tree.map(view, tree)


def gather(value: Any) -> list[Any]:
  """What every process has to tell, in their order.

  Args:
    value: fit for JSON; every process calls this as often.

  Returns:
    A value per process.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.int32(len(data)))
  padded = np.zeros(int(lengths.max()), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(bytes(row[:length]))
    for row, length in zip(rows, lengths.tolist(), strict=True)
  ]
