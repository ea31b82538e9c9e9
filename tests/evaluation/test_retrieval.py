"""Zero-shot retrieval with models that are right, wrong and random."""

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from groupvit_jax.evaluation import evaluator, retrieval

RNG = np.random.default_rng(0)
COUNTS = (2, 1, 3, 1, 2, 2, 1)  # captions of each picture
CAPTIONS = [
  [f'{i} {j}' for j in range(count)] for i, count in enumerate(COUNTS)
]
ALL = tuple(range(len(COUNTS)))
OWNER = np.repeat(np.arange(len(COUNTS)), COUNTS)


def tokenizer(texts):
  """Start, the picture's number plus one, the caption's plus one, end."""
  tokens = np.zeros((len(texts), 20), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    picture, caption = map(int, text.split()[-2:])
    row[:4] = 98, picture + 1, caption + 1, 99
  return tokens


def batches(pictures=ALL, batch_size=3):
  """Pictures whose red channel is their number; the last batch is padded."""
  pictures = np.asarray(pictures)

  def start(done=()):
    for i in range(0, len(pictures), batch_size):
      label = pictures[i : i + batch_size]
      missing = batch_size - len(label)
      label = np.pad(label, (0, missing))
      image = np.broadcast_to(label[:, None, None, None], (batch_size, 2, 2, 3))
      mask = np.array([1.0] * (batch_size - missing) + [0.0] * missing)
      yield {'image': image.astype(np.uint8), 'label': label, 'mask': mask}

  return start


def functions(images, texts):
  """predict_fns that look embeddings up; texts are [picture, caption]."""
  return {
    'image': lambda variables, x: jnp.asarray(images)[x[:, 0, 0, 0]],
    'text': lambda variables, t: jnp.asarray(texts)[t[:, 1] - 1, t[:, 2] - 1],
  }


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def run(fns, start=None, **options):
  runner = retrieval.RetrievalEvaluator(
    start or batches(), CAPTIONS, tokenizer, **options
  )
  assert isinstance(runner, evaluator.Evaluator)
  return dict(runner.run(fns, None))


def test_perfect_and_worst():
  eye = np.eye(len(COUNTS), dtype=np.float32)
  figures = run(functions(eye, np.repeat(eye[:, None], 3, 1)))
  assert figures == {
    **{f'image_to_text_r{k}': 1.0 for k in (1, 5, 10)},
    **{f'text_to_image_r{k}': 1.0 for k in (1, 5, 10)},
    'images': 7.0,
    'captions': 12.0,
  }
  figures = run(
    functions(eye, np.repeat(np.roll(eye, 1, 0)[:, None], 3, 1)), top_k=(1,)
  )
  assert figures['image_to_text_r1'] == figures['text_to_image_r1'] == 0.0


def test_agrees_with_sklearn_and_with_sorting():
  images = unit(RNG.normal(size=(7, 4))).astype(np.float32)
  texts = unit(RNG.normal(size=(7, 3, 4))).astype(np.float32)
  figures = run(functions(images, texts), top_k=(1, 2, 5))
  own = np.concatenate([row[:n] for row, n in zip(texts, COUNTS, strict=True)])
  scores = own @ images.T
  for k in (1, 2, 5):
    expected = sklearn.metrics.top_k_accuracy_score(OWNER, scores, k=k)
    assert figures[f'text_to_image_r{k}'] == pytest.approx(expected)
    nearest = OWNER[np.argsort(-scores.T, axis=1)[:, :k]]
    hits = (nearest == np.arange(7)[:, None]).any(1)
    assert figures[f'image_to_text_r{k}'] == pytest.approx(hits.mean())


def test_equal_embeddings_are_no_success():
  """Ties go to the lower index: one picture and one caption are found."""
  figures = run(
    functions(np.ones((7, 4), np.float32), np.ones((7, 3, 4), np.float32)),
    top_k=(1,),
  )
  assert figures['text_to_image_r1'] == pytest.approx(2 / 12)
  assert figures['image_to_text_r1'] == pytest.approx(1 / 7)


def test_pictures_that_never_come_take_their_captions_with_them():
  images = unit(RNG.normal(size=(7, 4))).astype(np.float32)
  texts = unit(RNG.normal(size=(7, 3, 4))).astype(np.float32)
  fns = functions(images, texts)
  figures = run(fns, batches([6, 0, 2, 3]), top_k=(1, 2))
  assert figures['images'] == 4.0 and figures['captions'] == 7.0
  kept = np.isin(OWNER, [0, 2, 3, 6])
  own = np.concatenate([row[:n] for row, n in zip(texts, COUNTS, strict=True)])
  scores = own[kept] @ images[[0, 2, 3, 6]].T
  owner = np.searchsorted([0, 2, 3, 6], OWNER[kept])
  for k in (1, 2):
    expected = sklearn.metrics.top_k_accuracy_score(owner, scores, k=k)
    assert figures[f'text_to_image_r{k}'] == pytest.approx(expected)


def test_more_asked_for_than_there_are():
  images = unit(RNG.normal(size=(7, 4))).astype(np.float32)
  texts = unit(RNG.normal(size=(7, 3, 4))).astype(np.float32)
  figures = run(functions(images, texts), batches([1, 2]), top_k=(1, 10))
  assert figures['text_to_image_r10'] == figures['image_to_text_r10'] == 1.0


def test_the_same_on_eight_devices(mesh8):
  images = unit(RNG.normal(size=(7, 4))).astype(np.float32)
  texts = unit(RNG.normal(size=(7, 3, 4))).astype(np.float32)
  fns = functions(images, texts)
  start = batches(batch_size=8)
  assert run(fns, start) == run(fns, start, mesh=mesh8)


def test_says_what_is_wrong():
  eye = np.eye(len(COUNTS), dtype=np.float32)
  fns = functions(eye, np.repeat(eye[:, None], 3, 1))
  with pytest.raises(ValueError, match='Labels run from 9 to 9, but .* of 7 i'):
    run(fns, batches([9]))
  with pytest.raises(ValueError, match='gave no batches'):
    run(fns, batches([]))
  with pytest.raises(ValueError, match='Picture 1 has no captions'):
    retrieval.RetrievalEvaluator(batches(), [['a'], []], tokenizer)
