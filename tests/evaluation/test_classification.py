"""Zero-shot classification with models that are right or wrong by design."""

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from groupvit_jax.evaluation import classification, evaluator

RNG = np.random.default_rng(0)


def batches(stubs, num_images=10, batch_size=4):
  """Pictures of one colour, named by it; the last batch is padded."""
  labels = np.arange(num_images) % len(stubs.NAMES)

  def start(done=()):
    for i in range(0, num_images, batch_size):
      label = labels[i : i + batch_size].astype(np.int32)
      missing = batch_size - len(label)
      image = np.pad(label, (0, missing))[:, None, None, None]
      yield {
        'image': np.broadcast_to(image, (batch_size, 4, 4, 3)).astype(np.uint8),
        'label': np.pad(label, (0, missing), constant_values=-1),
        'position': np.arange(i, i + batch_size),
        'mask': np.pad(np.ones(len(label), np.float32), (0, missing)),
      }

  return start


def make_evaluator(stubs, start=None, **kwargs):
  return classification.ClassificationEvaluator(
    start or batches(stubs),
    stubs.NAMES,
    stubs.tokenizer,
    stubs.TEMPLATES,
    **kwargs,
  )


def test_perfect_and_worst(stubs):
  stub = stubs.Stub()
  assert dict(make_evaluator(stubs).run(stub.predict_fns, stubs.PERFECT)) == {
    'top1': 1.0,
    'top5': 1.0,
    'images': 10.0,
  }
  figures = dict(
    make_evaluator(stubs, top_k=(1,)).run(stub.predict_fns, stubs.WORST)
  )
  assert figures == {'top1': 0.0, 'images': 10.0}


def test_agrees_with_sklearn_on_random_scores(stubs):
  scores = RNG.normal(size=(12, len(stubs.NAMES))).astype(np.float32)
  scores /= np.linalg.norm(scores, axis=-1, keepdims=True)
  labels = np.arange(12) % len(stubs.NAMES)

  def start(done=()):
    for i in (0, 6):
      yield {
        'image': np.full((6, 1, 1, 3), 0, np.uint8)
        + np.arange(i, i + 6, dtype=np.uint8)[:, None, None, None],
        'label': labels[i : i + 6],
        'position': np.arange(i, i + 6),
      }

  fns = dict(stubs.Stub().predict_fns)
  fns['image'] = lambda variables, x: jnp.asarray(scores)[x[:, 0, 0, 0]]
  figures = dict(
    make_evaluator(stubs, start, top_k=(1, 2, 5)).run(fns, stubs.PERFECT)
  )
  for k in (1, 2, 5):
    want = sklearn.metrics.top_k_accuracy_score(labels, scores, k=k)
    assert figures[f'top{k}'] == pytest.approx(want)


def test_nothing_recompiles_between_evaluations(stubs):
  stub = stubs.Stub()
  runner = make_evaluator(stubs)
  for variables in (
    stubs.PERFECT,
    stubs.WORST,
    stubs.PERFECT,
  ):
    dict(runner.run(stub.predict_fns, variables))
  assert stub.traces['image'] == 1


def test_the_same_on_eight_devices(stubs, mesh8):
  stub = stubs.Stub()
  start = batches(stubs, num_images=13, batch_size=8)
  one = dict(make_evaluator(stubs, start).run(stub.predict_fns, stubs.WORST))
  eight = dict(
    make_evaluator(stubs, start, mesh=mesh8).run(stub.predict_fns, stubs.WORST)
  )
  assert one == eight


def test_says_what_is_wrong_with_the_data(stubs):
  stub = stubs.Stub()
  image, label = np.zeros((1, 2, 2, 3), np.uint8), np.array([7])
  bad = [{'image': image, 'label': label, 'position': np.array([0])}]
  with pytest.raises(
    ValueError, match='Labels run from 7 to 7, but there are 7'
  ):
    dict(
      make_evaluator(stubs, lambda done: bad).run(
        stub.predict_fns, stubs.PERFECT
      )
    )
  padding = [dict(bad[0], mask=np.zeros(1, np.float32))]
  with pytest.raises(ValueError, match='every one was skipped, or is padding'):
    dict(
      make_evaluator(stubs, lambda done: padding).run(
        stub.predict_fns, stubs.PERFECT
      )
    )


def test_evaluators_run_by_name_and_turn_to_percent(stubs):
  stub = stubs.Stub()
  evaluators = {'shapes': make_evaluator(stubs, top_k=(1,))}
  assert isinstance(evaluators['shapes'], evaluator.Evaluator)
  figures = evaluator.run_all(evaluators, stub.predict_fns, stubs.PERFECT)
  assert figures == {'shapes/top1': 1.0, 'shapes/images': 10.0}
  assert evaluator.to_percent(figures) == {
    'shapes/top1': 100.0,
    'shapes/images': 10.0,
  }
