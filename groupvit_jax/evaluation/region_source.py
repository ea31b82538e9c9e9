"""Where an evaluator's compiled programs get regions from: model or host.

A model that groups is asked inside the program. The patch features of others
are grouped on the host, between two programs rather than inside one (by
jax.pure_callback), which may deadlock on a CPU with few threads and cannot be
split over devices.
"""

from collections.abc import Callable, Mapping
from typing import Any


def source(
  grouping: Callable[..., Any] | None,
  regions_fn: Callable[..., Any],
  variables: Any,
  images: Any,
  sizes: Any = None,
) -> tuple[Callable[..., Any], Any]:
  """What `regions` takes as its first and last argument.

  Args:
    grouping: None for a model that groups; or from `grouping_baselines.make`.
    regions_fn: predict_fns['regions'].
    variables, images: its arguments.
    sizes: likewise; None if all pictures fill their canvas.

  Returns:
    The function to call, and what has been computed already.
  """
  if grouping is None:
    return regions_fn, None
  extra = () if sizes is None else (sizes,)
  return _given, grouping(regions_fn, variables, images, *extra)


def regions(
  regions_fn: Callable[..., Any],
  variables: Any,
  images: Any,
  given: Any,
  sizes: Any = None,
) -> Mapping[str, Any]:
  """Regions of a batch, called inside a compiled program."""
  if regions_fn is _given:
    return given
  extra = () if sizes is None else (sizes,)
  return regions_fn(variables, images, *extra)


def _given(*_: Any) -> None:
  raise AssertionError('regions were computed on the host')
