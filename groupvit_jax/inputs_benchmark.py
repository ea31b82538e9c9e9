"""Benchmarks that a run is evaluated on as it trains: eval.source=NAME:PATH.

In the same process and on the same weights, by the evaluators of
`groupvit evaluate`.
"""

from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image

from groupvit_jax import benchmarks, errors
from groupvit_jax.benchmarks import build
from groupvit_jax.evaluation import segmentation_evaluator
from groupvit_jax.text import prompts

_WINDOWS = 8  # that go together on each device, at most


class Benchmark:
  """A benchmark on the disk.

  Attributes:
    class_names: as they are shown; () where whole pictures are measured.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    tokenizer: Callable[..., Any],
    mesh: jax.sharding.Mesh,
  ):
    """Opens it.

    Raises:
      ConfigError, SourceError: there is no such benchmark, or no data.
    """
    self._config = config
    self._tokenizer = tokenizer
    self._question = _question(config)
    self._judge = build.make(
      self._question,
      _encoder(config, tokenizer),
      batch_size=_batch_size(config, self._question),
      mesh=mesh,
    )
    self._segmented = self._judge.kind == 'segmentation'
    names = self._judge.settings['class_names'] if self._segmented else ()
    self.class_names = tuple(map(prompts.shown_name, names))

  def evaluators(self) -> dict[str, Any]:
    """What measures it, by the kind of benchmark."""
    return {self._judge.kind: self._judge.evaluator}

  def predictor(self, grouping: Any) -> Any:
    """What shows pictures; None where whole pictures are measured."""
    if not self._segmented:
      return None
    protocol = self._judge.evaluator.protocol
    return segmentation_evaluator.SegmentationEvaluator(
      lambda: (),
      self._judge.settings['class_names'],
      self._tokenizer,
      protocol.templates,
      protocol.segment,
      grouping=grouping,
    )

  def pictures(self, count: int) -> dict[str, Any]:
    """The first usable pictures as squares of the training size."""
    if not self._segmented:
      return {}
    examples = benchmarks.open_set(
      self._question.benchmark,
      self._question.folder,
      **self._question.options,
    )
    found = {'image': [], 'label': [], 'caption': []}
    for i in range(len(examples)):
      if len(found['image']) == count:
        break
      try:
        example = examples[i]
      except errors.ImageError:
        continue  # told when it is evaluated
      side = self._config.image_size
      found['image'].append(_square(example.image, side, 'BILINEAR'))
      label = example.label.astype(np.uint8)  # 171 classes and 255 at most
      found['label'].append(_square(label, side, 'NEAREST'))
      found['caption'].append(example.name)
    return {
      name: values if name == 'caption' else np.stack(values)
      for name, values in found.items()
    }


def is_benchmark(source: str) -> bool:
  """Whether an `eval.source` names a benchmark and its folder."""
  return ':' in source


def _question(config) -> build.Question:
  name, _, folder = config.eval.source.partition(':')
  whole = name in build.WHOLES
  overrides = {}
  if not whole:
    side = config.eval.short_side or config.image_size
    overrides = build.at_size(side) | {'top_k': config.eval.top_k or None}
  return build.Question(
    benchmark=name,
    folder=folder or None,
    limit=config.eval.examples or None,
    protocol=config.eval.protocol,
    overrides=overrides,
    regions='model' if whole else config.eval.regions,
    num_groups=num_groups(config),
    boundary=False,
  )


def num_groups(config: ml_collections.ConfigDict) -> int:
  """As many groups as GroupViT of the same config would make."""
  return [n for n in config.model.num_output_groups if n][-1]


def _encoder(config, tokenizer) -> build.Encoder:
  return build.Encoder(
    tokenizer=tokenizer,
    image_size=(config.image_size, config.image_size),
    patch_size=config.model.patch_size,
    groups=config.task != 'clip',
  )


def _batch_size(config, question) -> int:
  """Whole pictures are shared out over the devices, windows go to each."""
  if question.benchmark in build.WHOLES:
    return config.eval.batch_size // jax.process_count()
  # Scores are held at the truth's size, which is not that of training.
  return min(_WINDOWS, max(1, config.eval.batch_size // jax.device_count()))


def _square(pixels, side, resample):
  image = Image.fromarray(pixels)
  return np.asarray(image.resize((side, side), Image.Resampling[resample]))
