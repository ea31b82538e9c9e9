"""The compiled programs of an evaluation, and how a batch goes through them.

The encoder's knows neither words nor truth, so that every benchmark shares it;
what counts is quick to compile, once per `benchmark_pictures.Key`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from groupvit_jax.evaluation import (
  benchmark_pictures,
  canvases,
  naming,
  region_source,
  soft_maps,
)
from groupvit_jax.evaluation import evaluator as evaluator_lib
from groupvit_jax.evaluation.benchmark_counts import BenchmarkCounts, Counter


@dataclasses.dataclass(frozen=True)
class Programs:
  """How batches are measured.

  Attributes:
    counter: what is counted.
    batch_size: pictures that go together on each device at most.
    patch_size: of the model.
    mesh: of this process's devices; None for one.
    grouping: for models without groups.
  """

  counter: Counter
  batch_size: int
  patch_size: int
  mesh: Mesh | None
  grouping: Callable[..., Any] | None

  def together(self, key: benchmark_pictures.Key) -> int:
    """Pictures of a key that make a batch, over all devices."""
    each = canvases.at_a_time(
      key.window, self.patch_size, self.batch_size, key.truth
    )
    return each * (1 if self.mesh is None else self.mesh.size)

  def measure(
    self,
    regions_fn: Callable[..., Any],
    variables: Any,
    words: tuple[Any, Any],
    pictures: Sequence[benchmark_pictures.Picture],
  ) -> BenchmarkCounts:
    """Starts one batch; nothing is waited for.

    Args:
      regions_fn: predict_fns['regions'].
      variables: its first argument.
      words: class embeddings (c e) and the temperature.
      pictures: of one key.

    Returns:
      The counts, on the device.
    """
    key = pictures[0].key
    refine = self.counter.refine is not None
    batch = benchmark_pictures.batch(pictures, self.together(key), refine)
    sizes = batch.sizes or [None] * key.count
    said = tuple(
      self._ask(regions_fn, variables, images, size)
      for images, size in zip(batch.windows, sizes, strict=True)
    )
    rest = batch.places, batch.truth, batch.images
    places, truth, images = evaluator_lib.place(rest, self.mesh)
    count = self._counting(self.counter, self.mesh)
    return count(said, words, places, truth, key.field, images)

  def _ask(self, regions_fn, variables, images, sizes):
    images, sizes = evaluator_lib.place((images, sizes), self.mesh)
    source, given = region_source.source(
      self.grouping, regions_fn, variables, images, sizes
    )
    given = evaluator_lib.place(given, self.mesh)
    soft = not self.counter.config.one_hot
    return _encode(source, soft, variables, images, given, sizes)

  # Kept outside of any evaluator, so that another one compiles nothing anew.
  @staticmethod
  @functools.lru_cache(maxsize=64)
  def _counting(counter, mesh):
    return evaluator_lib.jit_measure(counter.count, mesh, static_argnums=4)

  @property
  def compiled(self) -> tuple[int, int]:
    """Programs so far: encoders, and those that count like this one."""
    count = self._counting(self.counter, self.mesh)
    return _encode._cache_size(), count._cache_size()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(
  regions_fn: Callable[..., Any],
  soft: bool,
  variables: Any,
  images: Array,
  given: Any,
  sizes: Array | None,
) -> Mapping[str, Array]:
  """What the network says of one window of each picture."""
  regions = region_source.regions(regions_fn, variables, images, given, sizes)
  canvas = images.shape[1:3]
  pixels = soft_maps.pixel_maps(regions, canvas, sizes, soft=soft)
  return naming.scored(regions) | {'pixels': pixels}


merge = jax.jit(lambda a, b: a.merge(b))
