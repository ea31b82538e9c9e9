"""The evaluator finds what `Model.segment` finds, to the last pixel.

The one works on the device, in batches of static shapes; the other on the host,
picture by picture.
"""

import jax
import numpy as np
import pytest
import sklearn.metrics
from benchmark_runs import Example, Examples
from test_inference import NAMES, photo, source

from groupvit_jax import inference
from groupvit_jax.evaluation import config
from groupvit_jax.evaluation.benchmark import BenchmarkEvaluator
from groupvit_jax.text import clip

MORE = [*NAMES, 'cat', 'tree', 'road', 'car', 'wall', 'lamp']


@pytest.fixture(scope='module', autouse=True)
def quick_compilation():
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='module')
def model():
  return inference.Model(source())


@pytest.fixture(scope='module')
def predict_fns(model):
  def regions(variables, images, sizes=None):
    images = model._programs.normalize(images)
    return model.module.apply(variables, images, sizes, method='encode_regions')

  return {
    'regions': regions,
    'text': model._programs._text,
    'scale': model._programs._temperature,
  }


def examples(background, sizes):
  """Pictures with a truth in which every wrong pixel shows."""
  rng = np.random.default_rng(0)
  for i, size in enumerate(sizes):
    label = rng.integers(0, len(MORE) + background, size)
    label[rng.random(size) < 0.1] = 255
    yield Example(f'picture {i}', photo(*size, i), label)


CASES = {
  'released': ('groupvit', {}),
  'narrow gate': ('groupvit', {'top_k': 2, 'background_threshold': 0.09}),
  'no background': ('groupvit', {'background_threshold': None}),
  'many windows': ('groupvit', {'stride': 1}),  # 15 and 13 a picture
  'whole': (
    'groupvit',
    {
      'mode': 'whole',
      'window': None,
      'stride': None,
      'background_threshold': 0.05,
    },
  ),
  'unified': ('tcl', {'background_threshold': 0.08}),
  'no gate': ('tcl', {'top_k': None, 'background_threshold': 0.05}),
  'soft': ('groupvit', {'one_hot': False, 'background_threshold': 0.07}),
}


@pytest.mark.parametrize('case', CASES)
def test_labels_are_those_of_inference(model, predict_fns, case):
  name, options = CASES[case]
  # At this scale some groups are surer than others.
  sizes = {'short_side': 32, 'long_side': 128, 'window': 32, 'stride': 16}
  sizes['scale'] = 15
  protocol = config.make(
    name, 'test', background=True, templates='simple', **sizes | options
  )
  background = protocol.segment.background_threshold is not None
  portrait = [(57, 40)] if case == 'released' else []
  data = list(examples(background, [(40, 57), (36, 50), *portrait]))
  names = (('background',) if background else ()) + tuple(MORE)
  result = BenchmarkEvaluator(
    Examples(data),
    clip.ClipTokenizer(),
    protocol,
    class_names=names,
    background=background,
    batch_size=2,
    patch_size=4,
    boundary=False,
    diagnosis=False,
  ).evaluate(predict_fns, model.variables)
  found = model.segment(
    [example.image for example in data], MORE, protocol.segment
  )
  truth = np.concatenate([example.label.ravel() for example in data])
  labels = np.concatenate([seg.labels.ravel() for seg in found])
  valid = truth != 255
  want = sklearn.metrics.confusion_matrix(
    truth[valid], labels[valid], labels=range(len(names))
  )
  common = np.sort(np.bincount(labels))[-2]
  assert common > 40, 'a test without borders tests little'
  np.testing.assert_array_equal(result.confusion_matrix, want)
  assert result.miou == pytest.approx(
    np.mean(
      sklearn.metrics.jaccard_score(truth[valid], labels[valid], average=None)
    )
  )
