"""Classification and retrieval: models that are right or wrong by design."""

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from groupvit_jax import errors
from groupvit_jax.evaluation import evaluator, image_level, zero_shot

RNG = np.random.default_rng(0)
COUNTS = (2, 1, 3, 1, 2, 2, 1)  # captions of each image
CAPTIONS = [
  [f'{i} {j}' for j in range(count)] for i, count in enumerate(COUNTS)
]
OWNER = np.repeat(np.arange(len(COUNTS)), COUNTS)


def numbered(runs, count, classes, bad=()):
  """Images whose red channel is their number, labelled in turn."""
  return runs.Examples(
    [
      runs.Example(str(i), np.full((4, 4, 3), i, np.uint8), i % classes)
      for i in range(count)
    ],
    bad,
  )


def classifier(stubs, examples, **options):
  return image_level.ClassificationEvaluator(
    examples,
    zero_shot.tokenize_classes(stubs.tokenizer, stubs.NAMES, stubs.TEMPLATES),
    lambda image: image,
    options=evaluator.RunOptions(**{'batch_size': 4} | options),
  )


def test_perfect_and_worst_classes(runs, stubs):
  stub = stubs.Stub()
  runner = classifier(stubs, numbered(runs, 10, 7))
  figures = dict(runner.run(stub.predict_fns, stubs.PERFECT))
  assert figures == {'top1': 1.0, 'top5': 1.0, 'images': 10.0}
  percent = evaluator.to_percent(figures)
  assert percent == {'top1': 100.0, 'top5': 100.0, 'images': 10.0}
  result = runner.evaluate(stub.predict_fns, stubs.WORST)
  assert result.shares['top1'] == 0.0
  assert (result.images, result.skipped) == (10, ())
  assert stub.traces['image'] == 1  # nothing compiles for other weights


def test_bad_images_stop_or_are_listed_and_tried_again(runs, stubs, tmp_path):
  stub, path = stubs.Stub(), tmp_path / 'state.jsonl'
  told = []

  def run(bad=(), **options):
    examples = numbered(runs, 10, 7, bad)
    runner = classifier(stubs, examples, resume_path=path, **options)
    return runner.evaluate(stub.predict_fns, stubs.PERFECT), examples

  with pytest.raises(errors.ImageError, match='9 is not an image'):
    run([9])
  result, examples = run(
    [9], skip_bad=True, progress=lambda *now: told.append(now)
  )
  assert examples.read == [8, 9] or examples.read == [9]
  assert result.images == 9 and result.skipped[0][0] == '9'
  assert told[-1] == (10, 10)
  result, examples = run()
  assert examples.read == [9] and result.images == 10
  assert result.shares['top1'] == 1.0
  path.unlink()
  with pytest.raises(errors.SourceError, match='None of the 10 images can'):
    run(range(10), skip_bad=True)


def tokenizer(texts):
  """Start, the image's number plus one, the caption's plus one, end."""
  tokens = np.zeros((len(texts), 20), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    image, caption = map(int, text.split()[-2:])
    row[:4] = 98, image + 1, caption + 1, 99
  return tokens


def functions(images, texts):
  """predict_fns that look embeddings up; texts are [image, caption]."""
  return {
    'image': lambda variables, x: jnp.asarray(images)[x[:, 0, 0, 0]],
    'text': lambda variables, t: jnp.asarray(texts)[t[:, 1] - 1, t[:, 2] - 1],
  }


def unit(*shape):
  x = RNG.normal(size=shape).astype(np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def retrieved(runs, fns, bad=(), **options):
  runner = image_level.RetrievalEvaluator(
    numbered(runs, len(COUNTS), 1, bad),
    CAPTIONS,
    tokenizer,
    lambda image: image,
    options=evaluator.RunOptions(
      **{'batch_size': 3, 'skip_bad': bool(bad)} | options
    ),
  )
  return dict(runner.run(fns, {}))


def test_perfect_and_worst_captions(runs):
  eye = np.eye(len(COUNTS), dtype=np.float32)
  assert retrieved(runs, functions(eye, np.repeat(eye[:, None], 3, 1))) == {
    **{f'image_to_text_r{k}': 1.0 for k in (1, 5, 10)},
    **{f'text_to_image_r{k}': 1.0 for k in (1, 5, 10)},
    'images': 7.0,
    'captions': 12.0,
  }
  wrong = np.repeat(np.roll(eye, 1, 0)[:, None], 3, 1)
  figures = retrieved(runs, functions(eye, wrong))
  assert figures['image_to_text_r1'] == figures['text_to_image_r1'] == 0.0


@pytest.mark.parametrize('bad', [(), (1, 4, 5)])
def test_captions_agree_with_sklearn_and_with_sorting(runs, bad):
  """Skipped images take their captions with them."""
  images, texts = unit(7, 4), unit(7, 3, 4)
  figures = retrieved(runs, functions(images, texts), bad)
  kept = [i for i in range(7) if i not in bad]
  own = np.concatenate([texts[i][: COUNTS[i]] for i in kept])
  owner = np.searchsorted(kept, OWNER[np.isin(OWNER, kept)])
  assert figures['images'] == len(kept) and figures['captions'] == len(own)
  scores = own @ images[kept].T
  for k in (1, 5) if len(kept) > 5 else (1,):
    want = sklearn.metrics.top_k_accuracy_score(owner, scores, k=k)
    assert figures[f'text_to_image_r{k}'] == pytest.approx(want)
    nearest = owner[np.argsort(-scores.T, axis=1)[:, :k]]
    hits = (nearest == np.arange(len(kept))[:, None]).any(1)
    assert figures[f'image_to_text_r{k}'] == pytest.approx(hits.mean())
  # More is asked for than there are images.
  assert figures['text_to_image_r10'] == 1.0


def test_equal_embeddings_are_no_success(runs):
  """Ties go to the lower index: one image and one caption are retrieved."""
  same = np.ones((7, 4), np.float32), np.ones((7, 3, 4), np.float32)
  figures = retrieved(runs, functions(*same))
  assert figures['text_to_image_r1'] == pytest.approx(2 / 12)
  assert figures['image_to_text_r1'] == pytest.approx(1 / 7)


def test_eight_devices_change_nothing(runs, stubs, mesh8):
  stub, fns = stubs.Stub(), functions(unit(7, 4), unit(7, 3, 4))
  assert retrieved(runs, fns) == retrieved(runs, fns, mesh=mesh8, batch_size=1)
  one, eight = (
    dict(
      classifier(stubs, numbered(runs, 13, 7), batch_size=1, mesh=mesh).run(
        stub.predict_fns, stubs.WORST
      )
    )
    for mesh in (None, mesh8)
  )
  assert one == eight
