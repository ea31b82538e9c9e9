"""From a labelled set to its linear probe: features, splits, the figures.

The protocol of CLIP's paper (Radford et al. 2021, appendix A.3 and figure 6).
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from groupvit_jax import embeddings, sharding
from groupvit_jax.benchmarks import clip_sets, label_sets
from groupvit_jax.benchmarks.build import (
  BenchmarkSpec,
  Encoder,
  labels_fingerprint,
)
from groupvit_jax.data import images as images_lib
from groupvit_jax.errors import ConfigError, WorkdirError, explained_as
from groupvit_jax.evaluation import (
  image_level,
  image_metrics,
  linear_probe,
  scoring,
  zero_shot,
)
from groupvit_jax.evaluation.evaluator import RunOptions
from groupvit_jax.evaluation.image_level import Features
from groupvit_jax.text import prompts

# Of the training split, where there is no validation split.
_HELD_OUT = 0.2
_AT_ONCE = 1000  # images whose features are written together


@dataclasses.dataclass(frozen=True)
class ProbeSpec:
  """A benchmark and how it is probed.

  Attributes:
    benchmark: one of `label_sets.CLASSIFICATION`.
    folder: of its data; None for crops of scenes.
    train, validation, test: splits; validation '' holds a fifth of the
      training split out.
    options: of the reader, see `clip_sets.open_labelled`.
    limit: the first so many images of each split alone.
    features: 'projected', as the README of openai/CLIP, or 'pooled', before the
      projection, as the paper.
    shots: labels a class of the few-shot probes.
    seeds: draws of each.
  """

  benchmark: str
  folder: str | os.PathLike | None = None
  train: str = 'train'
  validation: str = ''
  test: str = 'test'
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  limit: int | None = None
  features: str = 'projected'
  shots: Sequence[int] = (1, 2, 4, 8, 16)
  seeds: int = 3


def run(
  spec: ProbeSpec,
  encoder: Encoder,
  predict_fns: Mapping[str, Callable[..., Any]],
  variables: Any,
  *,
  keep: pathlib.Path | None = None,
  options: RunOptions = RunOptions(),
) -> dict[str, Any]:
  """Probes a model: zero-shot, few-shot, and with all labels.

  Args:
    spec: the benchmark and how it is probed.
    encoder: properties of the model.
    predict_fns: 'features' and 'text'.
    variables: their first argument.
    keep: folder for the features, where an interrupted run goes on and a later
      one finds them; None keeps none.
    options: of the pass over the images; the mesh splits the features as well.

  Returns:
    Plain values: metric, zero_shot, few_shot (by shots, a figure a seed),
    probe, strength (C), searched (score by C), images by split; figures in
    0..1.

  Raises:
    ConfigError: a benchmark or options that cannot be probed.
    SourceError: data are missing.
  """
  _check(spec)
  known = clip_sets.find(spec.benchmark)
  mesh = sharding.local_mesh(options.mesh)
  variables = sharding.local_view(variables, mesh)
  splits = {'train': spec.train, 'test': spec.test}
  if spec.validation:
    splits['validation'] = spec.validation
  found: dict[str, Features] = {}
  images: Any = None
  for part, split in splits.items():
    images = clip_sets.open_labelled(
      spec.benchmark,
      spec.folder,
      split,
      limit=spec.limit,
      **spec.options,
    )
    source = BenchmarkSpec(
      spec.benchmark, spec.folder, split, options=spec.options
    )
    path = keep and keep / f'features-{part}.jsonl'
    extractor = image_level.FeatureExtractor(
      images,
      functools.partial(
        images_lib.crop, size=encoder.image_size, clip=encoder.clip
      ),
      {
        'crop': [*encoder.image_size, encoder.clip],
        'labels': labels_fingerprint(source, images),
      },
      dataclasses.replace(
        options,
        resume_path=path,
        resume_every=_AT_ONCE,
        origin={'data': source.origin},
      ),
    )
    try:
      found[part] = extractor.evaluate(predict_fns, variables)
    except WorkdirError:
      if path is None:
        raise
      path.unlink()  # of another model, or of other images
      found[part] = extractor.evaluate(predict_fns, variables)
  text = zero_shot.class_embeddings(
    predict_fns['text'],
    variables,
    encoder.tokenizer,
    images.class_names,
    known.templates,
    normalize_each=encoder.clip,
  )
  metric = image_metrics.METRICS[known.metric]
  test = found['test']
  scores = np.asarray(
    scoring.similarity(embeddings.unit_norm(test.projected), text)
  )
  with explained_as(ConfigError):
    result: dict[str, Any] = {
      'benchmark': spec.benchmark,
      'metric': known.metric,
      'features': spec.features,
      'zero_shot': metric(scores, test.labels),
      'images': {part: len(x.labels) for part, x in found.items()},
    }
    names = tuple(map(prompts.shown_name, images.class_names))
    solver = _Solver(spec.features, names, metric, mesh)
    return result | solver.solve(spec, found)


@dataclasses.dataclass(frozen=True)
class _Solver:
  """Fits probes and measures them."""

  kind: str
  class_names: Sequence[str]
  metric: Callable[..., float]
  mesh: Mesh | None

  def fit(self, data: Features, strength: float, start: Any = None) -> Any:
    return linear_probe.fit(
      getattr(data, self.kind),
      data.labels,
      len(self.class_names),
      strength,
      mesh=self.mesh,
      start=start,
    )

  def score(self, probe: linear_probe.Probe, data: Features) -> float:
    return self.metric(probe.scores(getattr(data, self.kind)), data.labels)

  def best(self, train: Features, held_out: Features) -> tuple[float, Any]:
    """The strength that the held-out split is best at, and all scores."""
    return linear_probe.search(
      lambda strength, last: self.fit(train, strength, last),
      lambda probe: self.score(probe, held_out),
    )

  def solve(
    self, spec: ProbeSpec, features: Mapping[str, Features]
  ) -> dict[str, Any]:
    """Probes with all labels and with few."""
    train, held_out = features['train'], features.get('validation')
    both = train
    if held_out is None:
      order = np.random.default_rng(0).permutation(len(train.labels))
      count = max(1, int(len(order) * _HELD_OUT))
      train, held_out = train[order[count:]], train[order[:count]]
    else:
      both = Features(
        *(
          np.concatenate([getattr(x, f.name) for x in (train, held_out)])
          for f in dataclasses.fields(Features)
        )
      )
    few_shot = functools.partial(linear_probe.few_shot, train.labels)
    # First of all: too few labels are an error.
    drawn = {
      shots: [
        train[few_shot(shots, seed, self.class_names)]
        for seed in range(spec.seeds)
      ]
      for shots in spec.shots
    }
    strength, searched = self.best(train, held_out)
    probe = self.fit(both, strength)
    few = {}
    for shots, draws in drawn.items():
      few[shots] = []
      for chosen in draws:
        best, _ = self.best(chosen, held_out)
        few_probe = self.fit(chosen, best)
        few[shots].append(self.score(few_probe, features['test']))
    return {
      'few_shot': few,
      'probe': self.score(probe, features['test']),
      'strength': strength,
      'searched': searched,
    }


def _check(spec: ProbeSpec) -> None:
  if spec.benchmark not in label_sets.CLASSIFICATION:
    raise ConfigError(
      f'{spec.benchmark!r} cannot be probed; choose one of '
      f'{", ".join(label_sets.CLASSIFICATION)}'
    )
  if spec.benchmark in label_sets.IMAGENET_SHIFTS:
    raise ConfigError(
      f'{spec.benchmark} has no training split, which a probe needs; probe '
      "'imagenet'"
    )
  if spec.features not in image_level.FEATURES:
    raise ConfigError(
      f'features is one of {", ".join(image_level.FEATURES)}, not '
      f'{spec.features!r}'
    )
