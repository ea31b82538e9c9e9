"""From a labelled set to its linear probe: features, splits, the figures.

The protocol of CLIP's paper (Radford et al. 2021, appendix A.3 and figure 6).
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int

from groupvit_jax import embeddings, files, sharding
from groupvit_jax.benchmarks import (
  clip_sets,
  label_sets,
)
from groupvit_jax.benchmarks.build import Encoder
from groupvit_jax.data import images as images_lib
from groupvit_jax.errors import ConfigError, explained_as
from groupvit_jax.evaluation import (
  image_metrics,
  linear_probe,
  resume,
  scoring,
  zero_shot,
)

KINDS = 'projected', 'pooled'
# Of the training split, where there is no validation split.
_HELD_OUT = 0.2


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


@dataclasses.dataclass(frozen=True)
class Features:
  """What is kept of a split.

  Attributes:
    projected, pooled: see `DualEncoder.image_features`.
    labels: of the images.
  """

  projected: Float32[np.ndarray, 'n e']
  pooled: Float32[np.ndarray, 'n d']
  labels: Int[np.ndarray, ' n']

  def __getitem__(self, rows: Any) -> 'Features':
    return Features(self.projected[rows], self.pooled[rows], self.labels[rows])

  def of(self, kind: str) -> Float32[np.ndarray, 'n _d']:
    """The features of a kind, one of `KINDS`."""
    return self.projected if kind == 'projected' else self.pooled


def extract(
  examples: Any,
  crop: Callable[[np.ndarray], np.ndarray],
  features_fn: Callable[..., Any],
  variables: Any,
  *,
  batch_size: int = 32,
  mesh: Mesh | None = None,
) -> Features:
  """Features of all images, read ahead, each batch split over a mesh.

  Args:
    examples: labelled images.
    crop: gives each image the size of the model.
    features_fn: `predict_fns['features']`.
    variables: its first argument, replicated over the mesh.
    batch_size: images in a batch.
    mesh: None: one device.
  """
  if mesh is not None:
    batch_size = max(batch_size // mesh.size, 1) * mesh.size
  encode = jax.jit(features_fn)

  def read(index: int) -> tuple[np.ndarray, int]:
    example = examples[index]
    return crop(example.image), example.label

  found, labels = [], []
  for rows in files.ahead(read, list(range(len(examples))), batch_size):
    pixels, label = zip(*rows, strict=True)
    missing = batch_size - len(rows)
    batch = np.pad(np.stack(pixels), ((0, missing), (0, 0), (0, 0), (0, 0)))
    if mesh is not None:
      batch = sharding.shard_batch(batch, mesh)
    out = jax.device_get(encode(variables, batch))
    found.append({name: x[: len(rows)] for name, x in out.items()})
    labels += label
  joined = {k: np.concatenate([x[k] for x in found]) for k in KINDS}
  return Features(**joined, labels=np.asarray(labels, np.int32))


def kept(
  path: pathlib.Path | None,
  identity: Mapping[str, Any],
  make: Callable[[], Features],
) -> Features:
  """Features from a file, or made and written to it.

  Args:
    path: of the file; None keeps nothing.
    identity: plain values that tell them from others: a file of others is
      written anew.
    make: extracts them.
  """
  told = json.dumps(identity, sort_keys=True)
  if path is not None and path.is_file():
    with np.load(path) as stored:
      if str(stored['identity']) == told:
        return Features(stored['projected'], stored['pooled'], stored['labels'])
  features = make()
  if path is not None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix('.tmp.npz')
    np.savez(scratch, identity=told, **dataclasses.asdict(features))
    scratch.replace(path)
  return features


def run(
  spec: ProbeSpec,
  encoder: Encoder,
  predict_fns: Mapping[str, Callable[..., Any]],
  variables: Any,
  *,
  keep: pathlib.Path | None = None,
  batch_size: int = 32,
  mesh: Mesh | None = None,
) -> dict[str, Any]:
  """Probes a model: zero-shot, few-shot, and with all labels.

  Args:
    spec: the benchmark and how it is probed.
    encoder: properties of the model.
    predict_fns: 'features' and 'text'.
    variables: their first argument.
    keep: folder for the features; None keeps none.
    batch_size: images that go through the network together.
    mesh: splits images and, in the probes, their features.

  Returns:
    Plain values: metric, zero_shot, few_shot (by shots, a figure a seed),
    probe, strength (C), searched (score by C), images by split; figures in
    0..1.

  Raises:
    ConfigError: a benchmark or options that cannot be probed.
    SourceError: data are missing.
  """
  _check(spec)
  splits = {'train': spec.train, 'test': spec.test}
  if spec.validation:
    splits['validation'] = spec.validation
  found: dict[str, Features] = {}
  crop = _crop(encoder)
  weights = resume.checksum(variables)
  opened: Any = None
  for part, split in splits.items():
    opened = clip_sets.open_labelled(
      spec.benchmark,
      spec.folder,
      split,
      limit=spec.limit,
      **spec.options,
    )
    identity = {
      'weights': weights,
      'data': [spec.benchmark, str(spec.folder), split],
      'options': dict(spec.options),
      'images': len(opened.images),
      'crop': [*encoder.image_size, encoder.clip],
    }
    found[part] = kept(
      keep and keep / f'features-{part}.npz',
      identity,
      lambda images=opened.images: extract(
        images,
        crop,
        predict_fns['features'],
        variables,
        batch_size=batch_size,
        mesh=mesh,
      ),
    )
  text = zero_shot.class_embeddings(
    predict_fns['text'],
    variables,
    encoder.tokenizer,
    opened.class_names,
    opened.templates,
    normalize_each=encoder.clip,
  )
  metric = image_metrics.METRICS[opened.metric]
  test = found['test']
  scores = np.asarray(
    scoring.similarity(embeddings.unit_norm(test.projected), text)
  )
  result: dict[str, Any] = {
    'benchmark': spec.benchmark,
    'metric': opened.metric,
    'features': spec.features,
    'zero_shot': metric(scores, test.labels),
    'images': {part: len(x.labels) for part, x in found.items()},
  }
  solver = _Solver(spec.features, len(opened.class_names), metric, mesh)
  with explained_as(ConfigError):
    return result | solver.solve(spec, found)


@dataclasses.dataclass(frozen=True)
class _Solver:
  """Fits probes and measures them."""

  kind: str
  num_classes: int
  metric: Callable[..., float]
  mesh: Mesh | None

  def fit(self, data: Features, strength: float, start: Any = None) -> Any:
    return linear_probe.fit(
      data.of(self.kind),
      data.labels,
      self.num_classes,
      strength,
      mesh=self.mesh,
      start=start,
    )

  def score(self, probe: linear_probe.Probe, data: Features) -> float:
    return self.metric(probe.scores(data.of(self.kind)), data.labels)

  def best(self, train: Features, held_out: Features) -> tuple[float, Any]:
    """The strength that the held-out split is best at, and all scores."""
    return linear_probe.search(
      lambda strength, last: self.fit(train, strength, last),
      lambda probe: self.score(probe, held_out),
    )

  def solve(
    self, spec: ProbeSpec, found: Mapping[str, Features]
  ) -> dict[str, Any]:
    """Probes with all labels and with few."""
    train, held_out = found['train'], found.get('validation')
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
    # First of all: too few labels are an error.
    drawn = {
      shots: [
        train[linear_probe.few_shot(train.labels, shots, seed)]
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
        few[shots].append(self.score(few_probe, found['test']))
    return {
      'few_shot': few,
      'probe': self.score(probe, found['test']),
      'strength': strength,
      'searched': searched,
    }


def _check(spec: ProbeSpec) -> None:
  if spec.benchmark not in label_sets.CLASSIFICATION:
    raise ConfigError(
      f'{spec.benchmark!r} cannot be probed; choose one of '
      f'{", ".join(label_sets.CLASSIFICATION)}'
    )
  if spec.benchmark in ('voc2007', *label_sets.IMAGENET_SHIFTS):
    raise ConfigError(
      f'{spec.benchmark} has several labels an image, or no training split; a '
      'probe needs one label an image and a training split'
    )
  if spec.features not in KINDS:
    raise ConfigError(
      f'features is one of {", ".join(KINDS)}, not {spec.features!r}'
    )


def _crop(encoder: Encoder) -> Callable[[np.ndarray], np.ndarray]:
  def crop(image: np.ndarray) -> np.ndarray:
    return images_lib.crop(image, encoder.image_size, clip=encoder.clip)

  return crop
