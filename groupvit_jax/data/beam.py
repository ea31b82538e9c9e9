"""Conversion on a cluster: `conversion` as an Apache Beam pipeline.

Needs `pip install 'groupvit_jax[beam]'`. Sources and output have to be where
all workers can read and write them.
"""

from collections.abc import Sequence
from typing import Any

from groupvit_jax.data import conversion
from groupvit_jax.data.conversion import Plan


def convert(
  plan: Plan, options: Sequence[str] = (), overwrite: bool = False
) -> dict[str, Any]:
  """Converts with Apache Beam.

  Args:
    plan: what to do.
    options: of the pipeline, such as `--runner=DataflowRunner`.
    overwrite: whether what is at `plan.out` is removed first.

  Returns:
    The manifest, as written to `manifest.json`.

  Raises:
    ImportError: apache-beam is missing; else as `conversion.convert`.
  """
  try:
    import apache_beam as beam  # pyright: ignore[reportMissingImports]
    from apache_beam.options import (  # pyright: ignore[reportMissingImports]
      pipeline_options,
    )
  except ImportError as error:
    raise ImportError(
      "--runner needs: pip install 'groupvit_jax[beam]', in an environment of "
      'its own'
    ) from error
  if finished := conversion.begin(plan, overwrite):
    return finished
  with beam.Pipeline(
    options=pipeline_options.PipelineOptions(list(options))
  ) as pipeline:
    numbers = pipeline | 'shards' >> beam.Create(range(plan.shards))
    jobs = {'shard': numbers | 'keyed' >> beam.Map(lambda n: (n, None))}
    if not plan.keep_duplicates:
      jobs['duplicates'] = (
        numbers
        | 'spread' >> beam.Reshuffle()
        | 'digests' >> beam.FlatMap(_digests, plan)
        | 'equal' >> beam.GroupByKey()
        | 'later' >> beam.FlatMap(_later, plan.shard_size)
      )
    _ = (
      jobs
      | 'by shard' >> beam.CoGroupByKey()
      | 'spread again' >> beam.Reshuffle()
      | 'convert' >> beam.Map(_convert, plan)
      | 'all' >> beam.combiners.ToList()
      | 'finish' >> beam.Map(lambda all_: conversion.finish(plan, all_))
    )
  manifest = conversion.begin(plan)
  if manifest is None:
    raise RuntimeError('the pipeline ended without a manifest')
  return manifest


def _digests(number, plan):
  """(Digest, position) of the readable pairs of a shard."""
  for place, digest in enumerate(conversion.digests(plan, number).tolist()):
    if digest:
      yield digest, number * plan.shard_size + place


def _later(item, shard_size):
  """(Shard, place) of all but the first of equal pairs."""
  _, positions = item
  for position in sorted(positions)[1:]:
    yield divmod(position, shard_size)


def _convert(item, plan):
  number, joined = item
  duplicates = tuple(sorted(joined.get('duplicates', ())))
  return conversion.convert_shard(plan, number, duplicates)
