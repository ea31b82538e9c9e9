"""From a spec to a runner: images in batches, class names, groups."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groupvit_jax import benchmarks, files
from groupvit_jax.benchmarks import build
from groupvit_jax.benchmarks.classification import LabelledImages
from groupvit_jax.errors import ConfigError, WorkdirError
from groupvit_jax.evaluation.counts import Measures
from groupvit_jax.evaluation.evaluator import RunOptions
from tests.fixtures.samples import write_tar


@pytest.fixture
def encoder(stubs):
  return build.Encoder(stubs.tokenizer, image_size=(8, 8), patch_size=1)


@pytest.fixture
def classes(stubs, evaluation_folders, tmp_path):
  return evaluation_folders.classified(tmp_path / 'classes', stubs.NAMES)


def test_a_file_that_goes_away_is_a_bad_image(
  stubs, encoder, classes, monkeypatch
):
  """An OSError of a reader, such as of a shard that is removed."""
  read = LabelledImages.__getitem__

  def gone(self, index):
    if index == 3:
      raise OSError('shard 7 is gone')
    return read(self, index)

  monkeypatch.setattr(LabelledImages, '__getitem__', gone)
  spec, fns = build.BenchmarkSpec('classes', classes), stubs.Stub().predict_fns
  with pytest.raises(OSError, match='shard 7 is gone'):
    build.make(spec, encoder).evaluator.evaluate(fns, stubs.PERFECT)
  runner = build.make(spec, encoder, RunOptions(skip_bad=True))
  result = runner.evaluator.evaluate(fns, stubs.PERFECT)
  assert result.images == 13
  assert result.skipped == (('dog/1.png', 'shard 7 is gone'),)


@pytest.mark.parametrize('layout', ['list', 'shards'])
def test_the_fingerprint_changes_with_the_labels(
  evaluation_folders, tmp_path, layout
):
  evaluation_folders.write_image(tmp_path / 'a.png', 0)
  image = (tmp_path / 'a.png').read_bytes()

  def fingerprint(label):
    if layout == 'list':
      line = json.dumps({'image': 'a.png', 'label': label})
      (tmp_path / 'labels.jsonl').write_text(line)
    else:
      members = ('a.png', image), ('a.cls', b'%d' % label)
      write_tar(tmp_path / 'a.tar', members)
    examples = benchmarks.open_labelled_images(tmp_path)
    spec = build.BenchmarkSpec('classes', tmp_path)
    return build.labels_fingerprint(spec, examples)

  before = fingerprint(1)
  assert len(before) == 1
  assert fingerprint(2) != before


def test_a_runner_of_an_image_level_benchmark(stubs, encoder, classes):
  spec = build.BenchmarkSpec('classes', classes, limit=6)
  runner = build.make(spec, encoder, RunOptions(batch_size=4))
  assert (runner.kind, runner.total) == ('classification', 6)
  # The stub recognises class k by its shade of red.
  figures = dict(runner.evaluator.run(stubs.Stub().predict_fns, {'shift': 0}))
  assert figures['images'] == 6 and 0 <= figures['top1'] <= 1
  assert runner.settings['class_names'] == sorted(stubs.NAMES)
  assert runner.settings['benchmark'] == 'classes'


@pytest.mark.parametrize(
  ('clip', 'overrides', 'average', 'top1'),
  [
    (True, {}, 'unit', 1.0),
    (False, {}, 'raw', 0.0),
    (True, {'prompt_average': 'raw'}, 'raw', 0.0),
    (False, {'prompt_average': 'unit'}, 'unit', 1.0),
  ],
)
def test_clip_averages_unit_vectors_of_prompts(
  stubs, evaluation_folders, tmp_path, clip, overrides, average, top1
):
  """Three prompts of class k: a long vector that is wrong, and two right."""
  classes = evaluation_folders.classified(tmp_path / 'classes', stubs.NAMES)
  templates = ('{} x', '{} y', '{} z')

  def class_tokens(texts):
    return np.array(
      [[sorted(stubs.NAMES).index(t[:-2]), 'xyz'.index(t[-1])] for t in texts],
      np.int32,
    )

  def text(variables, tokens):
    k, which = tokens[:, 0], tokens[:, 1]
    wrong = 9 * jax.nn.one_hot((k + 1) % len(stubs.NAMES), len(stubs.NAMES))
    right = jax.nn.one_hot(k, len(stubs.NAMES))
    return jnp.where((which == 0)[:, None], wrong, right)

  spec = build.BenchmarkSpec(
    'classes', classes, overrides={'templates': templates, **overrides}
  )
  encoder = build.Encoder(class_tokens, (8, 8), 1, clip=clip)
  runner = build.make(spec, encoder, RunOptions(batch_size=14))
  assert runner.settings['prompt_average'] == average
  vectors = jnp.repeat(
    jnp.eye(len(stubs.NAMES)), 2, 0
  )  # two images of each class
  fns = {'text': text, 'image': lambda variables, images: vectors}
  assert dict(runner.evaluator.run(fns, {}))['top1'] == top1


def test_prompt_average_is_unit_or_raw(stubs, encoder, classes):
  overrides = {'prompt_average': 'mean'}
  spec = build.BenchmarkSpec('classes', classes, overrides=overrides)
  with pytest.raises(ConfigError, match="'unit' or 'raw', not 'mean'"):
    build.make(spec, encoder)


@pytest.mark.parametrize(
  ('spec', 'options', 'reason'),
  [
    ({'benchmark': 'voc'}, {}, "no benchmark 'voc'; choose one of voc21"),
    (
      {'benchmark': 'scenes'},
      {'groups': False},
      'choose how patches are grouped',
    ),
    ({'benchmark': 'scenes', 'regions': 'kmeans'}, {}, 'groups of its own'),
    ({'benchmark': 'scenes', 'protocol': 'x'}, {}, "Unknown protocol 'x'"),
    ({'benchmark': 'scenes', 'overrides': {'name': 1}}, {}, "no field 'name'"),
    ({'benchmark': 'scenes', 'class_names': ['a']}, {}, '1 class names were'),
    (
      {
        'benchmark': 'scenes',
        'class_names': ['dog', 'a|Dog', *'bcdefghijklmnopqr'][:19],
      },
      {},
      "'Dog' stands twice",
    ),
    (
      {'benchmark': 'scenes', 'overrides': {'background_prompts': True}},
      {},
      "first class for the background, and scenes has none: its first is '",
    ),
    (
      {
        'benchmark': 'scenes_things',
        'overrides': {'class_thresholds': (0.5, 0.5)},
      },
      {},
      'class_thresholds has 2 numbers for [0-9]+ classes .the background has',
    ),
    (
      {'benchmark': 'scenes', 'overrides': {'scale': -3}},
      {},
      'scale must be above 0',
    ),
    ({'benchmark': 'captions'}, {}, 'captions needs the folder of its data'),
    ({'benchmark': 'captions', 'options': {'seed': 1}}, {}, 'needs the folder'),
    ({'benchmark': 'scenes', 'limit': 0}, {}, 'limit must be at least 1'),
  ],
)
def test_bad_specs(stubs, spec, options, reason):
  encoder = build.Encoder(stubs.tokenizer, (8, 8), 1, **options)
  with pytest.raises(ConfigError, match=reason):
    build.make(build.BenchmarkSpec(**spec), encoder)


def test_settings_hold_what_is_left_open(
  stubs, encoder, evaluation_folders, tmp_path, monkeypatch
):
  tokens = lambda texts: np.ones((len(texts), 8), np.int32)  # noqa: E731
  encoder = build.Encoder(tokens, (8, 8), 1)
  settings = build.make(build.BenchmarkSpec('scenes'), encoder).settings
  assert settings['options'] == {'count': 1000, 'size': 224, 'seed': 0}
  assert settings['split'] == 'validation' and settings['data'] is None
  open_ = build.BenchmarkSpec('scenes', options={'count': 3})
  options = {'count': 3, 'size': 224, 'seed': 0}
  same = build.BenchmarkSpec('scenes', split='validation', options=options)
  assert open_.origin == same.origin
  assert open_.origin != build.BenchmarkSpec('scenes').origin
  evaluation_folders.classified(tmp_path / 'classes', stubs.NAMES)
  monkeypatch.chdir(tmp_path)
  spec = build.BenchmarkSpec('classes', 'classes')
  place = str((tmp_path / 'classes').resolve())
  assert build.make(spec, encoder).settings['data'] == place
  assert spec.origin == build.BenchmarkSpec('classes', place).origin


def test_a_models_own_steps_change_the_protocol(stubs, disk, tmp_path):
  disk.voc({'2007_000001': [0, 1]})
  own = {'top_k': None, 'regroup': 'kmeans', 'one_hot': False}
  tokens = lambda texts: np.ones((len(texts), 8), np.int32)  # noqa: E731
  encoder = build.Encoder(tokens, (8, 8), 1, own_steps=own)

  def changed(**overrides):
    spec = build.BenchmarkSpec('voc21', tmp_path, overrides=overrides)
    return build.make(spec, encoder).settings['protocol']['changed']

  assert changed() == ['one_hot', 'regroup', 'top_k']
  assert changed(regroup='none', one_hot=True) == ['top_k']
  # Thresholds are of the learned groups.
  thresholds = {'class_thresholds': (0.5,), 'background_threshold': 1e-6}
  assert changed(**thresholds) == [*sorted(thresholds), 'top_k']


def test_class_names_follow_the_protocol(stubs, disk, tmp_path):
  disk.voc({'2007_000001': [0, 1]})
  for protocol, name in (('groupvit', 'table'), ('tcl', 'diningtable')):
    spec = build.BenchmarkSpec('voc21', tmp_path, protocol=protocol)
    tokens = lambda texts: np.ones((len(texts), 8), np.int32)  # noqa: E731
    encoder = build.Encoder(tokens, (8, 8), 1)
    settings = build.make(spec, encoder).settings
    assert settings['class_names'][11] == name
    assert settings['class_names'][0] == 'background'
    assert settings['protocol']['name'] == protocol
    assert settings['protocol']['changed'] == []


def test_threads_keep_the_order_and_raise():
  assert list(files.ahead(lambda x: x * x, range(7), 3)) == [
    [0, 1, 4],
    [9, 16, 25],
    [36],
  ]
  assert list(files.ahead(str, [1], 3)) == [['1']]
  assert list(files.ahead(str, [], 3)) == []
  with pytest.raises(ZeroDivisionError):
    list(files.ahead(lambda x: 1 / x, [1, 0, 2], 2))


def test_another_folder_does_not_go_on(
  stubs, encoder, evaluation_folders, tmp_path
):
  """Its images may have the same names."""
  stub = stubs.Stub()
  for name in ('one', 'other'):
    runner = build.make(
      build.BenchmarkSpec(
        'folder',
        evaluation_folders.segmented(tmp_path / name, 1),
        overrides=build.at_size(8),
        class_names=('background', *stubs.NAMES[:4]),
        measures=Measures(boundary=False, diagnosis=False),
      ),
      encoder,
      RunOptions(resume_path=tmp_path / 'state'),
    )
    if name == 'one':
      runner.evaluator.evaluate(stub.predict_fns, stubs.PERFECT)
      continue
    with pytest.raises(WorkdirError, match='with other data '):
      runner.evaluator.evaluate(stub.predict_fns, stubs.PERFECT)
