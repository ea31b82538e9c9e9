"""The training loop end to end on small scenes: resume, interrupt, failure."""

import gzip
import json
import logging
import re
import signal
import types

import jax
import numpy as np
import pytest
from PIL import Image

from configs.gvit_s import get_config
from groupvit_jax import cli, errors
from groupvit_jax.evaluation import diagnosis
from groupvit_jax.training import checkpoint, inputs, loop, replay
from groupvit_jax.training import logging as logging_lib
from tests.fixtures.samples import encode, write_tar

# Eight virtual devices share each batch (see conftest.py).
TINY = (
  'demo,matmul_operands=float32,steps=6,batch=16,size=32,patch=8,width=32,'
  'model.num_heads=2,examples=48,'
  'text.width=32,text.num_heads=2,text.depth=1,depths=1x0,joint.embed_dim=16,'
  'run.eval_every=3,run.checkpoint_every=2,run.log_every=1,run.pictures=3,'
  'eval.examples=10,eval.batch_size=8,seed=3'
)


def tiny(cache, *options):
  return get_config(','.join([TINY, f'data.cache={cache}', *options]))


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def whole(cache, tmp_path_factory):
  """A run without interruption: its workdir and summary."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, loop.train_and_evaluate(tiny(cache), workdir)


def final_state(workdir):
  """Every array of the newest checkpoint, as saved."""
  manager = checkpoint.ocp.CheckpointManager(workdir / 'checkpoints')
  step = manager.latest_step()
  args = checkpoint.ocp.args
  restored = manager.restore(
    step,
    args=args.Composite(state=args.StandardRestore(), meta=args.JsonRestore()),
  )
  return step, restored['state'], restored['meta']


def rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_a_run_leaves_summary_report_logs_and_snapshots(whole):
  workdir, summary = whole
  wanted = {
    'miou',
    'miou_things',
    'oracle_miou',
    'untrained_miou',
    'untrained_oracle_miou',
    'steps',
    'wall_seconds',
    'images_per_second',
  }
  assert wanted <= summary.keys()
  assert json.loads((workdir / 'summary.json').read_text()) == summary
  # Every figure of the last evaluation; those of single classes aside.
  last = [row for row in rows(workdir) if 'eval/miou' in row][-1]
  assert summary['frequency_weighted_iou'] == pytest.approx(
    100 * last['eval/frequency_weighted_iou'], abs=0.005
  )
  assert not [name for name in summary if 'iou/' in name]
  assert summary['steps'] == 6
  assert summary['images_per_second'] > 0
  assert summary['wall_seconds'] > summary['train_seconds'] > 0
  page = (workdir / 'report' / 'index.html').read_text()
  assert 'data:image/png;base64' in page
  assert 'http' not in page.replace('http://www.w3.org', '')
  assert [p.stem for p in sorted((workdir / 'snapshots').iterdir())] == [
    '00000000',
    '00000003',
    '00000006',
  ]
  assert list((workdir / 'tensorboard').glob('events*'))
  assert 'Groups forming' in page
  assert summary['collapses'] == [] and 'Grouping collapse' not in page
  # Of the last evaluation, and of its figures.
  assert '<td>labelling</td>' in page
  labelling = summary['oracle_miou'] - summary['miou']
  found = diagnosis.of_result(
    json.loads((workdir / 'confusion.json').read_text())
  )
  assert 100 * found.labelling == pytest.approx(labelling, abs=0.02)
  # The learned groups of the only stage, and those remade from its tokens.
  assert 'Learned groups' in page and 'Remade groups' in page
  logged = [r['step'] for r in rows(workdir) if 'train/loss' in r]
  assert logged == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_groups_forming(whole):
  workdir, _ = whole
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  )
  log = accumulator.EventAccumulator(str(workdir / 'tensorboard'))
  log.Reload()
  steps = {
    tag: [event.step for event in log.Tensors(tag)]
    for tag in log.Tags()['tensors']
  }
  for name in ('final_groups', 'prediction'):
    assert steps[f'images/{name}'] == [0, 3, 6]
  for name in ('groups_in_use', 'groups_per_image', 'largest_share'):
    assert steps[f'train/{name}'] == [1, 2, 3, 4, 5, 6]
    assert steps[f'eval/{name}'] == [0, 3, 6]
  assert steps['train/entropy'] == [1, 2, 3, 4, 5, 6]


def test_an_interrupted_run_resumes_to_the_same_bits(
  whole, cache, tmp_path, monkeypatch
):
  original = inputs.Inputs.train_batches

  def interrupted(self, start, used_rows, **options):
    for number, batch in enumerate(original(self, start, used_rows, **options)):
      if number == 2:
        signal.raise_signal(signal.SIGINT)
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(inputs.Inputs, 'train_batches', interrupted)
    with pytest.raises(errors.Interrupted, match='stopped at step 3 of 6'):
      loop.train_and_evaluate(tiny(cache), tmp_path)
  assert final_state(tmp_path)[0] == 3

  loop.train_and_evaluate(tiny(cache), tmp_path)
  step, resumed, meta = final_state(tmp_path)
  expected_step, expected, expected_meta = final_state(whole[0])
  assert step == expected_step == 6
  assert meta['position'] == expected_meta['position'] == 6 * 16
  assert jax.tree.structure(resumed) == jax.tree.structure(expected)
  for ours, theirs in zip(
    jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True
  ):
    if jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
      ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
    np.testing.assert_array_equal(ours, theirs)
  # The curves have no gap and no step twice.
  losses = [
    (r['step'], r['train/loss']) for r in rows(tmp_path) if 'train/loss' in r
  ]
  assert losses == [
    (r['step'], r['train/loss']) for r in rows(whole[0]) if 'train/loss' in r
  ]


def interrupt_after(wanted, log_step):
  def log_and_interrupt(self, step, *args):
    log_step(self, step, *args)
    if step == wanted:
      signal.raise_signal(signal.SIGINT)

  return log_and_interrupt


def files_of(workdir):
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in workdir.rglob('*')
    if path.is_file()
  }


def test_a_finished_run_says_so_and_stays_as_it_is(whole, cache, caplog):
  caplog.set_level(logging.INFO, 'absl')
  workdir, summary = whole
  before = files_of(workdir)
  again = loop.train_and_evaluate(tiny(cache, 'run.keep=7'), workdir)
  assert again == summary
  assert files_of(workdir) == before
  assert f'{workdir} is a finished run of 6 steps' in caplog.text


def test_a_run_says_what_where_and_how_much(cache, tmp_path, caplog):
  caplog.set_level(logging.INFO, 'absl')
  config = tiny(cache, 'eval.source=')
  loop.train_and_evaluate(config, tmp_path, profile=True)
  lines = [r.getMessage() for r in caplog.records if 'loop' in r.pathname]
  assert re.fullmatch(r'groupvit: [\d,]+ parameters on 8 x cpu', lines[0])
  assert lines[1] == f'6 steps of 16 images, in {tmp_path}'
  assert lines[2].startswith('compiling the training step')
  (trace,) = (tmp_path / 'profile').rglob('perfetto_trace.json.gz')
  assert f'trace of steps 2 to 6: open {trace}' in caplog.text
  assert 'train' in gzip.decompress(trace.read_bytes()).decode()


def test_a_run_killed_before_its_first_save_leaves_nothing(
  cache, tmp_path, monkeypatch
):
  """Neither a lock on its workdir nor figures of another model."""
  with monkeypatch.context() as patch:
    patch.setattr(loop.Run, '_log_step', lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      loop.train_and_evaluate(tiny(cache), tmp_path)
  first = rows(tmp_path)
  assert [r['step'] for r in first] == [0]
  config = tiny(cache, 'seed=4', 'run.eval_every=100')
  loop.train_and_evaluate(config, tmp_path)
  untrained = [r for r in rows(tmp_path) if r['step'] == 0]
  assert len(untrained) == 1 and untrained != first
  assert len(list((tmp_path / 'snapshots').iterdir())) == 2


def test_evaluation_is_no_training_time(cache, tmp_path, monkeypatch):
  """Evaluating at steps 2 and 4, logging at steps 3 and 6."""
  now = [0.0]
  evaluate, tick = loop.Run.evaluate, logging_lib.RunLog.tick

  def slow_evaluate(self, state):
    now[0] += 100
    evaluate(self, state)

  def step_of_a_second(self, step):
    now[0] += 1
    tick(self, step)

  monkeypatch.setattr(loop.Run, 'evaluate', slow_evaluate)
  monkeypatch.setattr(logging_lib.RunLog, 'tick', step_of_a_second)
  clock = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr(logging_lib, 'time', clock)
  options = ('run.eval_every=2', 'run.log_every=3', 'run.checkpoint_every=6')
  summary = loop.train_and_evaluate(tiny(cache, *options), tmp_path)
  # The first step compiles, and the first of other lengths of texts.
  assert summary['train_seconds'] in (6 - 1, 6 - 2)
  assert summary['wall_seconds'] == 6 + 4 * 100
  assert summary['images_per_second'] == 16
  name = 'train/images_per_second'
  speeds = {r['step']: r[name] for r in rows(tmp_path) if name in r}
  assert speeds == {3: 16, 6: 16}


def test_evaluations_that_were_stopped_are_made_up_for(
  cache, tmp_path, monkeypatch
):
  original, moments = loop.Run.evaluate, [3, 6]

  def stopped(self, state):
    if int(state.step) in moments:
      moments.remove(int(state.step))
      raise KeyboardInterrupt
    original(self, state)

  config = tiny(cache, 'run.checkpoint_every=3')
  monkeypatch.setattr(loop.Run, 'evaluate', stopped)
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      loop.train_and_evaluate(config, tmp_path)
  summary = loop.train_and_evaluate(config, tmp_path)
  assert {'miou', 'untrained_miou'} <= summary.keys()
  evaluated = [r['step'] for r in rows(tmp_path) if 'eval/miou' in r]
  assert evaluated == [0, 3, 6]


def test_a_workdir_of_another_config_is_refused_and_kept(whole, cache):
  workdir, _ = whole
  before = (workdir / 'config.json').read_text()
  with pytest.raises(errors.WorkdirError, match=r'seed: 3 -> 4'):
    loop.train_and_evaluate(tiny(cache, 'seed=4'), workdir)
  assert (workdir / 'config.json').read_text() == before


def test_a_run_from_before_an_option_is_resumed(whole, cache):
  workdir, summary = whole
  record = workdir / 'config.json'
  stored = json.loads(record.read_text())
  del stored['eval']['protocol'], stored['loss']['background_weight']
  record.write_text(json.dumps(stored))
  with pytest.raises(errors.WorkdirError, match=r'protocol: \(absent\)'):
    loop.train_and_evaluate(tiny(cache), workdir)
  other = tiny(cache, 'loss.background_weight=1.0')
  with pytest.raises(errors.WorkdirError, match='so 0.0 -> 1.0'):
    loop.train_and_evaluate(other, workdir, get_config())
  again = loop.train_and_evaluate(tiny(cache), workdir, get_config())
  assert again == summary


def test_a_diverged_run_stops_and_saves_no_nan(cache, tmp_path, capsys):
  rates = 'lr=1e30', 'optimizer.warmup_init=1e30'
  options = 'nouns=0', 'run.max_skipped=2', 'eval.source='
  config = tiny(cache, *rates, *options)
  with pytest.raises(errors.NonFiniteLossError, match='2 steps in a row'):
    loop.train_and_evaluate(config, tmp_path)
  (dump,) = (tmp_path / 'dumps').iterdir()
  assert cli.main(['runs', 'replay', str(dump), '--json']) == 0
  report = json.loads(capsys.readouterr().out)
  assert len(report['samples']) == 16
  assert report['terms']['loss']['value'] in ('nan', 'inf')
  assert report['outputs'] and report['gradients']
  assert replay.as_text(report)
  record = tmp_path / 'config.json'
  text = record.read_text()
  # Read where the loss is made, and where it is computed.
  for part, name in ('loss', 'contrastive_weight'), ('loss', 'chunk_size'):
    stored = json.loads(text)
    del stored[part][name]
    record.write_text(json.dumps(stored))
    with pytest.raises(errors.WorkdirError, match=f'another version.*{name}'):
      replay.replay(dump)
  saved = tmp_path / 'checkpoints'
  for step in [int(p.name) for p in saved.iterdir() if p.name.isdigit()]:
    _, state, _ = final_state(tmp_path)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state['params']))
    assert step < 6


def test_parameters_that_are_not_finite_are_not_saved(cache, tmp_path):
  """With eps=0 the rows of unused tokens become NaN, and the loss does not."""
  options = ('optimizer.name=adamw', 'optimizer.eps=0.0', 'eval.source=')
  config = tiny(cache, *options, 'run.checkpoint_every=1')
  with pytest.raises(errors.NonFiniteLossError, match='after step 1, though'):
    loop.train_and_evaluate(config, tmp_path)
  assert not list((tmp_path / 'checkpoints').iterdir())


def write_shard(path, names):
  """A tar of images and captions; what a caption is, its name says."""
  image = encode(Image.effect_noise((40, 40), 60).convert('RGB'))
  members = []
  for i, name in enumerate(names):
    content = b'<html>' if name == 'broken' else image
    caption = b'\0' if name == 'empty' else name.encode()
    members += [(f'{i:04}.jpg', content), (f'{i:04}.txt', caption)]
  write_tar(path, members)


def test_bad_samples_are_counted_and_other_data_refused(
  cache, tmp_path, monkeypatch
):
  shard = tmp_path / 'a.tar'
  names = ['a dog', 'empty', 'broken', 'a bird', 'a cow']
  write_shard(shard, names)
  config = tiny(
    *(cache, 'data.source=shards', 'eval.source=', 'steps=3'),
    'run.checkpoint_every=100',
  )
  config.data.shards = (str(shard),)
  with inputs.Inputs(config, loop.sharding.make_mesh()) as data:
    batches = data.train_batches(start=0)
    counts = [next(batches) and data.bad_samples() for _ in range(3)][-1]
  # Nearly ten epochs, and stand-ins that are bad themselves.
  assert counts.keys() == {'caption', 'image_format'} and counts.total() >= 12

  with monkeypatch.context() as patch:
    patch.setattr(loop.Run, '_log_step', interrupt_after(1, loop.Run._log_step))
    # After the loop has looked whether it should stop.
    with pytest.raises(errors.Interrupted, match='stopped at step 2 of 3'):
      loop.train_and_evaluate(config, tmp_path / 'run')
  assert final_state(tmp_path / 'run')[0] == 2
  original = shard.read_bytes()
  write_shard(shard, names[:-1])
  with pytest.raises(errors.WorkdirError, match='samples: 5 -> 4'):
    loop.train_and_evaluate(config, tmp_path / 'run')
  shard.write_bytes(original)
  summary = loop.train_and_evaluate(config, tmp_path / 'run')
  last = rows(tmp_path / 'run')[-1]
  for reason, count in counts.items():
    assert summary[f'bad_samples/{reason}'] == count
    assert last[f'train/bad_samples/{reason}'] == count
  assert summary['bad_samples'] == counts.total()


def test_full_size_is_fitted_to_a_cpu_with_a_word_about_the_demo(caplog):
  config = loop.fit_to_hardware(get_config())
  assert config.batch_size == 16
  assert config.dtype == 'float32'
