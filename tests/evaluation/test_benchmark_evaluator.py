"""Benchmarks by a protocol: figures, batches, devices, interruptions."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import errors, sharding
from groupvit_jax.evaluation import resume
from groupvit_jax.evaluation.benchmark import counting


@pytest.fixture(scope='module')
def stub(stubs):
  return stubs.Stub()


def same(one, two):
  """Two results count the same, to the last pixel."""
  assert one.counts.keys() == two.counts.keys()
  for name, count in one.counts.items():
    if count.dtype.kind == 'i':  # others are sums of fractions
      np.testing.assert_array_equal(count, two.counts[name], err_msg=name)
  assert one.images == two.images


def test_right_by_design_is_one_and_wrong_is_zero(stubs, runs, stub):
  runner = runs.evaluator()
  figures = dict(runner.run(stub.predict_fns, stubs.PERFECT))
  for name in (
    'miou',
    'pixel_accuracy',
    'mean_accuracy',
    'frequency_weighted_iou',
    'boundary_miou',
    'oracle_miou',
    'best_group_jaccard',
    *(f'iou/{name}' for name in stubs.NAMES),
  ):
    assert figures[name] == 1.0, name
  assert figures['images'] == 9 and figures['skipped'] == 0
  assert 'given_background_miou' not in figures
  result = runner.evaluate(stub.predict_fns, stubs.WORST)
  assert result.miou == 0.0
  # Its borders are right, only the words are not.
  assert dict(result.figures())['oracle_miou'] == 1.0
  assert result.best_group_jaccard == 1.0
  pixels = sum(example.label.size for example in runs.bands())
  assert result.confusion_matrix.sum() == pixels


def test_a_background_by_threshold_by_prompt_and_given(stubs, runs, stub):
  examples = runs.bands(shift=1, widths=(11,))[:2]
  for example in examples:
    example.label[:3] = 0  # what the stub sees there is something else
  result = runs.evaluator(examples, background=True).evaluate(
    stub.predict_fns, stubs.PERFECT
  )
  zeros = sum((example.label == 0).sum() for example in examples)
  given = result.counts['given_background']
  np.testing.assert_array_equal(given, np.diag(np.diag(given)))
  assert given[0, 0] == zeros
  # No group is background, so the threshold finds none.
  assert result.confusion_matrix[:, 0].sum() == 0
  figures = dict(result.figures())
  assert figures['given_background_miou'] == 1.0
  assert figures['miou'] < 1.0
  # Without a threshold class 0 has a prompt like the others.
  words = runs.evaluator(
    examples,
    background=True,
    class_names=('sand', *stubs.NAMES[1:]),
    options={'background_threshold': None},
  )
  assert words.counter.num_classes == len(stubs.NAMES)


@pytest.fixture
def learned(stubs):
  """A stub that has learned that sand (group 0) is background."""

  class Learned(stubs.Stub):
    def _regions(self, variables, images):
      regions = super()._regions(variables, images)
      near = jnp.zeros(regions['embeddings'].shape[:2])
      return {**regions, 'background': near.at[:, 0].set(2.0)}

  return Learned()


def test_what_a_model_has_learned_as_background(stubs, learned, runs):
  examples = runs.bands(3, shift=1, widths=(8,))
  for example in examples:
    example.label[example.label == 1] = 0  # sand
  options = {
    'learned_background': True,
    'background_threshold': 1e-6,
    'relative_threshold': False,
  }
  runner = runs.evaluator(examples, background=True, options=options)
  result = runner.evaluate(learned.predict_fns, stubs.PERFECT)
  assert result.miou == 1.0
  assert result.confusion_matrix[0, 0] > 0


def test_nothing_compiles_for_another_image(stubs, runs):
  stub = stubs.Stub()
  first = runs.evaluator(runs.bands(18))
  compiled = counting(first.counter, None)._cache_size
  before = compiled()
  first.evaluate(stub.predict_fns, stubs.PERFECT)
  after = compiled()
  # One window for all; a program per grid of windows and size of labels.
  assert after - before <= 3
  assert stub.traces['regions'] == 1
  for seed in (1, 2):
    for variables in (stubs.PERFECT, stubs.WORST):
      runs.evaluator(runs.bands(18, seed)).evaluate(stub.predict_fns, variables)
  assert compiled() == after
  assert stub.traces['regions'] == 1


def test_batches_and_devices_change_nothing(stubs, runs, stub, mesh8):
  examples = runs.bands(11, widths=(8,))
  # Some labels that the stub does not see, for a matrix that is not diagonal.
  for i, example in enumerate(examples):
    example.label[i % 8 // 2, :] = 255 if i % 2 else 3
  one = runs.evaluator(examples, batch_size=1).evaluate(
    stub.predict_fns, stubs.PERFECT
  )
  three = runs.evaluator(examples, batch_size=3).evaluate(
    stub.predict_fns, stubs.PERFECT
  )
  same(one, three)
  eight = runs.evaluator(examples, batch_size=1, mesh=mesh8)
  same(one, eight.evaluate(stub.predict_fns, stubs.PERFECT))
  assert 0 < one.miou < 1


def counted(path) -> set[int]:
  """Positions in a resume state."""
  lines = path.read_text().splitlines()[1:]
  return {i for line in lines for i in json.loads(line)['positions']}


def test_a_crash_resumes_where_it_was(stubs, runs, stub, tmp_path):
  path = tmp_path / 'deep' / 'state.jsonl'
  whole = runs.evaluator(runs.bands(18)).evaluate(
    stub.predict_fns, stubs.PERFECT
  )
  broken = runs.Examples(runs.bands(18), bad=[15])
  runner = runs.evaluator(broken, resume_path=path, resume_every=4)
  with pytest.raises(errors.ImageError, match='image 15 is not an image'):
    runner.evaluate(stub.predict_fns, stubs.PERFECT)
  held = counted(path)
  assert 8 <= len(held) <= 15
  mended = runs.Examples(runs.bands(18))
  seen = []
  runner = runs.evaluator(
    mended,
    resume_path=path,
    progress=lambda done, total: seen.append((done, total)),
  )
  same(runner.evaluate(stub.predict_fns, stubs.PERFECT), whole)
  assert sorted(mended.read) == sorted(set(range(18)) - held)
  assert seen[0][0] >= len(held) and seen[-1] == (18, 18)
  # Once more, nothing is read at all.
  again = runs.Examples(runs.bands(18))
  runner = runs.evaluator(again, resume_path=path)
  same(runner.evaluate(stub.predict_fns, stubs.PERFECT), whole)
  assert again.read == []
  with pytest.raises(errors.WorkdirError, match='with other weights '):
    runner.evaluate(stub.predict_fns, stubs.WORST)
  runner.resume_state.remove()
  assert not path.exists()
  path.write_text('{"half')
  with pytest.raises(
    errors.WorkdirError, match='is not the resume state of an'
  ):
    runner.evaluate(stub.predict_fns, stubs.PERFECT)


def test_an_interruption_at_any_line_counts_no_image_twice(
  stubs, runs, stub, tmp_path, interrupt_at_line
):
  """Ctrl-C comes between any two lines; what is on disk stays consistent."""
  path = tmp_path / 'state.jsonl'

  def interrupted(place):
    examples = runs.Examples(runs.bands(5, widths=(8,)), bad=[3])
    runner = runs.evaluator(
      examples, resume_path=path, resume_every=2, skip_bad=True, batch_size=1
    )
    return interrupt_at_line(
      place,
      lambda: runner.evaluate(stub.predict_fns, stubs.PERFECT),
      ('evaluator.py', 'resume.py'),
      ('start', '_save', 'add', 'append', '_count'),
    )

  place = 1
  while interrupted(place):
    if path.exists():
      settings, *lines = path.read_text().splitlines()
      state = resume.ResumeState(path, json.loads(settings))
      pixels = state.counts['confusion'].sum()
      assert pixels == 64 * len(state.done), place
      path.unlink()
    place += 1
  assert place > 30


def test_a_resume_state_of_other_data_is_refused(stubs, runs, stub, tmp_path):
  """Scenes of two seeds have the same names."""
  path = tmp_path / 'state.jsonl'
  for data, told in (({'seed': 0}, None), ({'seed': 1}, 'with other data ')):
    runner = runs.evaluator(
      runs.bands(4), resume_path=path, origin={'data': data}
    )
    if told is None:
      runner.evaluate(stub.predict_fns, stubs.PERFECT)
      continue
    with pytest.raises(errors.WorkdirError, match=told):
      runner.evaluate(stub.predict_fns, stubs.PERFECT)


@pytest.mark.parametrize('held', ['[]', 'text'])
def test_a_file_that_is_no_resume_state_is_refused(
  stubs, runs, stub, tmp_path, held
):
  path = tmp_path / 'state.jsonl'
  path.write_text(held)
  with pytest.raises(errors.WorkdirError, match='state.jsonl is'):
    runs.evaluator(runs.bands(4), resume_path=path).evaluate(
      stub.predict_fns, stubs.PERFECT
    )
  assert path.read_text() == held


def test_bad_images_are_named_or_listed(stubs, runs, stub):
  examples = runs.bands(6)
  examples[1] = runs.Example(
    'wide', examples[1].image, np.zeros((8, 9), np.int32)
  )
  examples[2].label[0, 0] = len(stubs.NAMES)
  examples[4] = runs.Example(
    'thread', np.zeros((1, 400, 3), np.uint8), np.zeros((1, 400), np.int32)
  )
  for i, reason in (
    (1, 'wide: the image is 11 x 8 pixels and its labels 9 x 8; give'),
    (2, 'image 2: The ground truth holds label 7, but there are 7 classes'),
    (4, 'thread is 400 x 1 pixels: too long and thin'),
  ):
    with pytest.raises(errors.ImageError, match=reason):
      runs.evaluator([examples[i]]).evaluate(stub.predict_fns, stubs.PERFECT)
  runner = runs.evaluator(runs.Examples(examples, bad=[5]), skip_bad=True)
  result = runner.evaluate(stub.predict_fns, stubs.PERFECT)
  assert [name for name, _ in result.skipped] == [
    'image 2',
    'image 5',
    'thread',
    'wide',
  ]
  assert result.images == 2 and result.miou == 1.0
  same(
    result,
    runs.evaluator([examples[0], examples[3]]).evaluate(
      stub.predict_fns, stubs.PERFECT
    ),
  )
  with pytest.raises(errors.SourceError, match='None of the 1 images can'):
    runs.evaluator([examples[1]], skip_bad=True).evaluate(
      stub.predict_fns, stubs.PERFECT
    )
  with pytest.raises(errors.SourceError, match='has no images; check its'):
    runs.evaluator([])


def test_what_was_skipped_is_tried_again(stubs, runs, stub, tmp_path):
  """Whoever goes on may have mended it, or may not want to skip it."""
  path = tmp_path / 'state.jsonl'
  broken = runs.Examples(runs.bands(6), bad=[2, 4])
  runner = runs.evaluator(broken, resume_path=path, skip_bad=True)
  assert len(runner.evaluate(stub.predict_fns, stubs.PERFECT).skipped) == 2
  with pytest.raises(errors.ImageError, match='image 2 is not an image'):
    runs.evaluator(broken, resume_path=path).evaluate(
      stub.predict_fns, stubs.PERFECT
    )
  mended = runs.Examples(runs.bands(6), bad=[4])
  runner = runs.evaluator(mended, resume_path=path, skip_bad=True)
  result = runner.evaluate(stub.predict_fns, stubs.PERFECT)
  assert sorted(mended.read) == [2, 4]
  assert [name for name, _ in result.skipped] == ['image 4']
  assert result.images == 5
  whole = runs.evaluator(runs.bands(6), resume_path=path).evaluate(
    stub.predict_fns, stubs.PERFECT
  )
  same(
    whole,
    runs.evaluator(runs.bands(6)).evaluate(stub.predict_fns, stubs.PERFECT),
  )
  assert whole.skipped == ()


def test_labels_without_a_pixel_that_counts_are_reported(stubs, runs, stub):
  examples = runs.bands(4)
  for example in examples[:2]:
    example.label[:] = 255
  with pytest.warns(UserWarning, match='2 of 4 images have no pixel that c'):
    result = runs.evaluator(examples).evaluate(stub.predict_fns, stubs.PERFECT)
  assert result.images == 4
  with pytest.raises(errors.SourceError, match='No pixel of the 2 images co'):
    runs.evaluator(examples[:2]).evaluate(stub.predict_fns, stubs.PERFECT)


def test_says_what_does_not_fit(runs):
  with pytest.raises(
    ValueError, match='but the labels have no background class'
  ):
    runs.evaluator(options={'background_threshold': 0.5})
  with pytest.raises(ValueError, match='batch_size must be at least 1'):
    runs.evaluator(batch_size=0)


def test_what_is_not_wanted_is_not_counted(stubs, runs, stub):
  result = runs.evaluator(
    runs.bands(2), boundary=False, diagnosis=False
  ).evaluate(stub.predict_fns, stubs.PERFECT)
  names = {name for name, _ in result.figures() if '/' not in name}
  assert names == {
    'miou',
    'pixel_accuracy',
    'mean_accuracy',
    'frequency_weighted_iou',
    'images',
    'skipped',
  }


def test_scores_are_refined_where_the_network_saw(stubs, runs, stub):
  seen = []

  def refine(rgb, scores, valid):
    seen.append((rgb.shape, scores.shape, valid.shape))
    # The image is what was given, and scores beyond it are nothing.
    classes = jnp.round(rgb[..., 0] * 255)
    right = jnp.take_along_axis(
      jnp.round(scores), jnp.zeros((*classes.shape, 1), int), -1
    )
    return jnp.where(valid[..., None], scores[..., ::-1], right)

  examples = runs.bands(4, widths=(8,))
  plain = runs.evaluator(examples).evaluate(stub.predict_fns, stubs.PERFECT)
  result = runs.evaluator(examples, refine=refine).evaluate(
    stub.predict_fns, stubs.PERFECT
  )
  assert all(a[:3] == b[:3] == c for a, b, c in seen) and seen
  mirrored = np.zeros_like(plain.confusion_matrix)
  for example in examples:
    np.add.at(mirrored, (example.label, 6 - example.label), 1)
  np.testing.assert_array_equal(result.confusion_matrix, mirrored)


WHOLE = {'mode': 'whole', 'window': None, 'stride': None}


def test_groups_are_counted_by_the_image(stubs, runs, stub):
  image = np.zeros((8, 8, 3), np.uint8)
  image[:, :4], image[:, 4:] = 3, 4  # half dog, half boat
  examples = [
    runs.Example(name, image, image[..., 0].astype(np.int32)) for name in 'ab'
  ]
  runner = runs.evaluator(
    examples, options=WHOLE, groups=True, label_groups=stubs.GROUPS
  )
  result = runner.evaluate(stub.predict_fns, stubs.PERFECT)
  usage = result.counts['usage'] / result.counts['windows']
  np.testing.assert_allclose(usage, [0, 0, 0, 0.5, 0.5, 0, 0])
  figures = dict(result.figures())
  assert figures['groups_in_use'] == pytest.approx(2.0)
  assert figures['groups_per_image'] == pytest.approx(2.0)
  assert figures['groups_winning'] == 2.0
  assert figures['largest_share'] == 0.5
  assert figures['miou_things'] == figures['image_recall'] == 1.0
  # Classes that do not occur leave the means.
  assert 'miou_grounds' not in figures and 'iou/grass' not in figures
  figures = dict(runner.run(stub.predict_fns, stubs.WORST))
  assert figures['oracle_miou_things'] == 1.0
  assert figures['miou_things'] == 0.0 and figures['image_recall'] < 1.0


def test_the_oracle_names_each_group_by_its_majority(stubs, runs, stub):
  (example,) = runs.bands(1, widths=(8,))
  seen = example.image[..., 0]
  example.label[:5] = 6  # most pixels of every group are something else
  result = runs.evaluator([example], options=WHOLE).evaluate(
    stub.predict_fns, stubs.PERFECT
  )
  want = np.zeros((7, 7), int)
  np.add.at(want, (example.label, np.full_like(example.label, 6)), 1)
  np.testing.assert_array_equal(result.counts['oracle'], want)
  want = np.zeros((7, 7), int)
  np.add.at(want, (example.label, seen), 1)
  np.testing.assert_array_equal(result.confusion_matrix, want)


def test_images_are_segmented_for_looking_at(stubs, runs, stub, mesh8):
  images = np.stack([x.image for x in runs.bands(3, widths=(8,))[:2]])
  variables = sharding.replicate(stubs.PERFECT, mesh8)
  for runner, given in (
    (runs.evaluator(), stubs.PERFECT),
    (runs.evaluator(mesh=mesh8), variables),
  ):
    shown = runner.predict(stub.predict_fns, given, images)
    np.testing.assert_array_equal(shown['prediction'], images[..., 0])
    first, final = shown['groups']
    np.testing.assert_array_equal(first, 2 * images[..., 0].astype(int))
    np.testing.assert_array_equal(final, images[..., 0])


def test_a_model_without_groups_needs_a_grouping(stubs, runs):
  runner = runs.evaluator(runs.bands(2))
  with pytest.raises(ValueError, match='this model does not group'):
    runner.evaluate(stubs.Stub(grouped=False).predict_fns, stubs.PERFECT)
