"""A training run's benchmark: which evaluator, at which size, shown how."""

import jax
import numpy as np
import pytest

from configs.gvit_s import get_config
from groupvit_jax import errors, sharding
from groupvit_jax.training import inputs, state
from groupvit_jax.training import task as task_lib

SMALL = (
  'demo,size=16,examples=6,eval.examples=0,batch=8,width=16,depths=1x0,'
  'model.num_heads=2'
)


def config(source, *options):
  made = get_config(','.join([SMALL, *options]))
  made.eval.source = source  # a path may hold a comma
  made.eval.batch_size = 8
  return made


def opened(tmp_path, source, *options):
  made = config(source, *options, f'data.cache={tmp_path}/cache')
  mesh = sharding.make_mesh(jax.devices()[:1])
  return made, inputs.Inputs(made, mesh)


@pytest.fixture
def drawn_in_memory(monkeypatch):
  monkeypatch.setattr(inputs, 'ON_DISK_NEEDS', ('no_such_package',))


def test_a_run_evaluates_labelled_pixels(
  evaluation_folders, tmp_path, drawn_in_memory
):
  photos = evaluation_folders.segmented(tmp_path / 'photos', 3)
  made, data = opened(tmp_path, f'folder:{photos}', 'eval.short_side=24')
  evaluation = data.evaluation
  names = 'background', 'dog', 'grass', 'sky', 'sea'
  assert evaluation.class_names == names
  evaluator = evaluation.evaluator
  segment = evaluator.settings.protocol.segment
  assert (segment.short_side, segment.window, segment.top_k) == (24, None, None)
  shown = evaluation.report_images(2)
  assert shown['image'].shape == (2, 16, 16, 3)
  assert shown['label'].shape == (2, 16, 16)
  assert set(np.unique(shown['label'])) <= {0, 1, 2, 3, 4, 255}
  assert shown['caption'] == ['0', '1']
  # On the weights of the run, without another model.
  task = task_lib.make(made, data.tokenizer.vocab_size)
  batch = jax.tree.map(
    lambda x: np.ones(x.shape, x.dtype), state.abstract_batch(made, 1)
  )
  variables = jax.jit(task.init)(jax.random.key(0), batch)
  figures = dict(evaluator.run(task.predict_fns, variables))
  view = evaluator.predict(task.predict_fns, variables, shown['image'])
  assert figures['images'] == 3 and 0 <= figures['miou'] <= 1
  named = {n.removeprefix('iou/') for n in figures if n.startswith('iou/')}
  assert 'dog' in named and named <= set(names)
  assert view['prediction'].shape == (2, 16, 16)


def test_a_run_evaluates_whole_images(
  evaluation_folders, tmp_path, drawn_in_memory
):
  folder = evaluation_folders.classified(tmp_path / 'classes')
  evaluation = opened(tmp_path, f'classes:{folder}')[1].evaluation
  assert not evaluation.segments
  assert evaluation.class_names == () and evaluation.report_images(3) == {}


@pytest.mark.parametrize(
  ('source', 'reason'),
  [
    ('voc22:{}', "no benchmark 'voc22'; choose one of voc21"),
    ('voc21:', 'needs its folder'),
    ('voc21:{}/none', 'there is no such folder'),
    ('imagenet:', 'imagenet needs the folder of its data'),
  ],
)
def test_a_benchmark_that_is_not_there_is_named(
  tmp_path, drawn_in_memory, source, reason
):
  with pytest.raises(errors.UserError, match=reason):
    opened(tmp_path, source.format(tmp_path))
