"""The chart of a probe: zero-shot line, few-shot curve, full probe.

As figure 6 of CLIP's paper (Radford et al. 2021).
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np


def draw(result: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Writes the chart of `benchmarks.probe.run`'s result as an image file."""
  # Takes a second, and its state is global: no backend with windows.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5, 3.4), layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  shots = [int(count) for count in result['few_shot']]
  drawn = 100 * np.array(list(result['few_shot'].values()))
  axes.axhline(
    100 * result['zero_shot'], color='C1', linestyle='--', label='zero-shot'
  )
  if shots:
    mean, deviation = drawn.mean(1), drawn.std(1)
    axes.set_xscale('log', base=2)
    axes.set_xlabel('labels a class')
    axes.plot(shots, mean, marker='o', color='C0', label='few-shot probe')
    axes.fill_between(
      shots, mean - deviation, mean + deviation, color='C0', alpha=0.2
    )
  axes.axhline(
    100 * result['probe'], color='C2', linestyle=':', label='probe, all labels'
  )
  axes.set_xticks(shots, [str(count) for count in shots])
  axes.set_ylabel(f'{result["metric"].replace("_", " ")}, %')
  axes.set_title(result['benchmark'])
  axes.legend(frameon=False)
  figure.savefig(path, dpi=150)
