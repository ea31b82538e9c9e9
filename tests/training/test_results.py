"""Snapshots of the same images: what report and TensorBoard get of them."""

import collections

import numpy as np
import pytest

from configs.gvit_s import get_config
from groupvit_jax.evaluation import benchmark, image_metrics
from groupvit_jax.training import logging, report, results
from groupvit_jax.training import task as task_lib

SIZE = 8


def images(count=6):
  rng = np.random.default_rng(0)
  shape = (count, SIZE, SIZE)
  return {
    'image': rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
    'label': rng.integers(0, 3, shape).astype(np.uint8),
    'caption': [f'image {i}' for i in range(count)],
  }


def predictor(step, stages):
  """A model whose groups and classes differ from step to step and by stage."""

  def predict(pixels):
    rng = np.random.default_rng(step + 1)
    shape = pixels.shape[:3]
    return {
      'prediction': rng.integers(0, 3, shape),
      'groups': tuple(rng.integers(0, 9 - 3 * i, shape) for i in range(stages)),
    }

  return predict


def take(folder, stages, steps=(0, 10, 20), active=True):
  """Snapshots at the steps, with their log written and closed."""
  snapshots = results.Snapshots(folder, images())
  log = logging.RunLog(folder, resumed_at=0, num_steps=20, active=active)
  for step in steps:
    snapshots.take(step, predictor(step, stages), log)
  log.close()
  return snapshots


@pytest.mark.parametrize(('stages', 'maps'), [(0, 1), (1, 2), (2, 3)])
def test_the_report_shows_the_same_images_at_every_step(tmp_path, stages, maps):
  snapshots = take(tmp_path, stages, active=False)
  assert snapshots.steps() == [0, 10, 20]
  shown = [(step, snapshots.at(step, 2)) for step in snapshots.steps()]
  text = report.Report(
    '', figures={}, snapshots=shown, class_names=('a', 'b', 'c')
  ).as_html()
  # Of each: the image, its maps at three steps, and the ground truth.
  assert text.count('<img') == 2 * (1 + 3 * maps + 1)
  assert ('Earlier groups' in text) == (stages == 2)
  assert ('Final groups' in text) == (stages > 0)
  for step in (0, 10, 20):
    first = predictor(step, stages)(images()['image'])
    (example,) = snapshots.at(step, 1)
    np.testing.assert_array_equal(example['prediction'], first['prediction'][0])
    if stages:
      final = first['groups'][-1][0]
      np.testing.assert_array_equal(example['final_groups'], final)
    assert ('first_groups' in example) == (stages == 2)


@pytest.mark.parametrize('task', ['groupvit', 'clip'])
def test_the_report_is_called_after_what_was_trained(tmp_path, task):
  config = get_config('demo,clip' if task == 'clip' else 'demo')
  snapshots = results.Snapshots(tmp_path, {})
  log = logging.RunLog(tmp_path, resumed_at=0, num_steps=20, active=False)
  results.write(tmp_path, config, (), log, snapshots, {}, ())
  page = (tmp_path / 'report' / 'index.html').read_text()
  assert f'<title>{task_lib.TASKS[task]} on scenes</title>' in page
  assert ('GroupViT' in task_lib.TASKS[task]) == (task == 'groupvit')


def counted(confusion):
  """What an evaluation of two classes and a background found."""
  best = np.diag([8, 4, 4])
  counts = {'confusion': confusion, 'oracle': best, 'given_background': best}
  names = 'background', '<dog>', 'sea'
  return benchmark.BenchmarkResult(names, True, counts, images=1)


def test_the_report_tells_the_errors_of_the_last_evaluation(tmp_path):
  perfect = np.diag([8, 4, 4])
  results.write_confusion(tmp_path, 10, counted(perfect))
  counts = np.array([[8, 0, 0], [0, 1, 3], [0, 0, 4]])
  results.write_confusion(tmp_path, 20, counted(counts))
  config = get_config('demo,steps=20')
  snapshots = results.Snapshots(tmp_path, {})
  log = logging.RunLog(tmp_path, resumed_at=0, num_steps=20, active=False)
  results.write(tmp_path, config, (), log, snapshots, {}, ())
  page = (tmp_path / 'report' / 'index.html').read_text()
  assert '<h2 id="errors-title">Errors</h2>' in page
  miou = 100 * (1 + 1 / 4 + 4 / 7) / 3
  assert f'<td>labelling</td><td>{100 - miou:.1f}</td>' in page
  assert '<td>&lt;dog&gt;</td><td>sea</td><td>75.0 %</td>' in page


def test_without_counted_pixels_the_report_has_no_errors(tmp_path):
  assert results.errors_as_html(tmp_path, 20) == ''
  results.write_confusion(
    tmp_path, 10, counted(np.eye(3, dtype=int))
  )  # of a run before this one
  assert results.errors_as_html(tmp_path, 20) == ''


def events(folder):
  """(tag, step) -> tensors of the event files that TensorBoard reads."""
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  )
  log = accumulator.EventAccumulator(
    str(folder / 'tensorboard'), {'tensors': 0}
  )
  log.Reload()
  return {
    (tag, event.step): event.tensor_proto
    for tag in log.Tags()['tensors']
    for event in log.Tensors(tag)
  }


@pytest.mark.parametrize('stages', [1, 2])
def test_tensorboard_shows_the_same_images_at_every_evaluation(
  tmp_path, stages
):
  found = events_or_skip(tmp_path, stages)
  steps = collections.defaultdict(list)
  for tag, step in sorted(found):
    steps[tag].append(step)
  always = ['final_groups', 'prediction']
  always += ['first_groups'] if stages == 2 else []
  assert steps == {
    **{f'images/{name}': [0, 10, 20] for name in always},
    'images/image': [0],
    'images/ground_truth': [0],
  }
  for (tag, _), tensor in found.items():
    # Width and height, then a PNG for each of the images.
    width, height, *pngs = tensor.string_val
    assert width == height == b'112', tag
    assert len(pngs) == results.FORMING
    assert len(set(pngs)) == results.FORMING
  # What changes from step to step is shown so.
  groups = [found['images/final_groups', s].string_val[2] for s in (0, 10)]
  assert groups[0] != groups[1]


def events_or_skip(folder, stages):
  pytest.importorskip('tensorflow')
  take(folder, stages)
  return events(folder)


def test_fewer_images_than_are_shown_are_shown(tmp_path):
  pytest.importorskip('tensorflow')
  snapshots = results.Snapshots(tmp_path, images(2))
  log = logging.RunLog(tmp_path, resumed_at=0, num_steps=20, active=True)
  snapshots.take(0, predictor(0, 1), log)
  log.close()
  tensor = events(tmp_path)['images/final_groups', 0]
  assert len(tensor.string_val) == 2 + 2


# Accuracy is measured as top-1 and top-5.
@pytest.mark.parametrize(
  'name', sorted({*image_metrics.METRICS} - {'accuracy'})
)
def test_every_metric_of_a_labelled_set_is_shown(name):
  assert results.headline({'step': 1, f'eval/{name}': 0.5}) == {name: 50.0}


def test_without_images_nothing_is_taken(tmp_path):
  snapshots = results.Snapshots(tmp_path, {})
  log = logging.RunLog(tmp_path, resumed_at=0, num_steps=1, active=False)
  snapshots.take(0, predictor(0, 1), log)
  assert snapshots.steps() == []


def test_snapshots_keep_more_than_256_classes_and_groups(tmp_path):
  indices = np.arange(6 * SIZE * SIZE).reshape(6, SIZE, SIZE) % 300
  snapshots = results.Snapshots(tmp_path, images())
  log = logging.RunLog(tmp_path, resumed_at=0, num_steps=1, active=False)
  found = {'prediction': indices, 'groups': (indices[::-1], indices)}
  snapshots.take(0, lambda pixels: found, log)
  log.close()
  kept = snapshots.at(0)
  for i in range(6):
    np.testing.assert_array_equal(kept[i]['prediction'], indices[i])
    np.testing.assert_array_equal(kept[i]['final_groups'], indices[i])
    np.testing.assert_array_equal(kept[i]['first_groups'], indices[5 - i])
