"""Static shapes for scaled pictures with their windows, and for their truth."""

import math

from groupvit_jax.evaluation import canvases

# Sizes of the truth's canvas in those of the scaled picture's.
TRUTH_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


def window_grid(size: tuple[int, int], plan: canvases.Plan) -> tuple[int, int]:
  """How many windows lie over a scaled picture, down and across."""
  if not plan.window:
    return 1, 1
  down, across = (
    len({window[i] for window in canvases.windows(size, plan)}) for i in (0, 1)
  )
  return down, across


def field_canvas(size: tuple[int, int], plan: canvases.Plan) -> tuple[int, int]:
  """A canvas for a scaled picture and all of its windows.

  With windows, the largest picture that as many of them cover: then one shape
  goes with one number of windows.
  """
  if not plan.window:
    return canvases.canvas(size, plan)
  height, width = (
    plan.window + (count - 1) * plan.stride for count in window_grid(size, plan)
  )
  return height, width


def truth_canvas(
  size: tuple[int, int], field: tuple[int, int]
) -> tuple[int, int]:
  """A canvas for the truth of a picture whose scaled form goes on `field`.

  Both have one aspect ratio, so that few multiples of the one serve as the
  other: a new size adds no shape unless the picture is larger than those seen.
  """
  needed = max(new / old for new, old in zip(size, field, strict=True))
  factor = next((f for f in TRUTH_FACTORS if f >= needed), None)
  if factor is None:
    factor = 2.0 ** math.ceil(math.log2(needed))
  height, width = (math.ceil(factor * side) for side in field)
  return height, width
